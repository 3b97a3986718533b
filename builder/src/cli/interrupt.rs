//! What happens on Ctrl-C and SIGTERM: the folders in work are removed, and the command ends.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

/// How often a folder is removed in which others still make files.
const ATTEMPTS: u32 = 100;

static FOLDERS: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());
/// What is said at the end; nothing as long as nobody watches.
static SAYING: Mutex<Option<&str>> = Mutex::new(None);

/// Has a folder removed when the command is interrupted.
pub fn remove_on_interrupt(folder: PathBuf) {
    FOLDERS.lock().unwrap_or_else(PoisonError::into_inner).push(folder);
}

/// Does what must not be left half done: an interruption waits for its end.
pub fn undisturbed<T>(work: impl FnOnce() -> T) -> T {
    let _held = FOLDERS.lock().unwrap_or_else(PoisonError::into_inner);
    work()
}

/// Begins to watch for the signals.
///
/// # Errors
/// When they cannot be watched.
pub fn watch() -> anyhow::Result<()> {
    watch_saying("nothing was left behind")
}

/// The same for transfers: what came so far stays in the cache.
///
/// # Errors
/// When the signals cannot be watched.
pub fn watch_transfers() -> anyhow::Result<()> {
    watch_saying("the next run resumes what was being fetched")
}

fn watch_saying(text: &'static str) -> anyhow::Result<()> {
    // A build watches while it fetches its parts, and then in another way.
    if SAYING.lock().unwrap_or_else(PoisonError::into_inner).replace(text).is_some() {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("watching for Ctrl-C")?;
    let guard = runtime.enter();
    let mut interrupt = signal(SignalKind::interrupt()).context("watching for Ctrl-C")?;
    let mut terminate = signal(SignalKind::terminate()).context("watching for SIGTERM")?;
    drop(guard);
    std::thread::spawn(move || {
        let code = runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => 130,
                _ = terminate.recv() => 143,
            }
        });
        let folders = FOLDERS.lock().unwrap_or_else(PoisonError::into_inner);
        for folder in folders.iter() {
            // What cannot be removed is told: it lies beside the output.
            if let Err(error) = remove(folder) {
                eprintln!("headnode: removing {}: {error}", folder.display());
            }
        }
        let text = SAYING.lock().unwrap_or_else(PoisonError::into_inner).unwrap_or_default();
        eprintln!("headnode: interrupted, {text}");
        std::process::exit(code);
    });
    Ok(())
}

/// Removes a folder in which others may still make files: they end with this process only.
fn remove(folder: &Path) -> io::Result<()> {
    for _ in 0..ATTEMPTS {
        match std::fs::remove_dir_all(folder) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            done => return done,
        }
    }
    std::fs::remove_dir_all(folder)
}
