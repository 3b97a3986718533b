//! What happens on Ctrl-C and SIGTERM: the folders in work are removed, and the command ends.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::Context;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

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
    let (runtime, mut signals) = signals()?;
    std::thread::spawn(move || {
        let code = runtime.block_on(signals.next());
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

/// For work that ends by itself in good order when it is asked to: gives what is set by the first
/// signal. A second one ends the command at once.
///
/// # Errors
/// When the signals cannot be watched.
pub fn asked_to_stop(saying: &'static str) -> anyhow::Result<&'static AtomicBool> {
    static STOP: AtomicBool = AtomicBool::new(false);
    let (runtime, mut signals) = signals()?;
    std::thread::spawn(move || {
        runtime.block_on(signals.next());
        STOP.store(true, Ordering::Relaxed);
        eprintln!("headnode: {saying}");
        let code = runtime.block_on(signals.next());
        std::process::exit(code);
    });
    Ok(&STOP)
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Waits for a signal and gives the exit code that belongs to it.
    async fn next(&mut self) -> i32 {
        tokio::select! {
            _ = self.interrupt.recv() => 130,
            _ = self.terminate.recv() => 143,
        }
    }
}

fn signals() -> anyhow::Result<(Runtime, Signals)> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("watching for Ctrl-C")?;
    let guard = runtime.enter();
    let interrupt = signal(SignalKind::interrupt()).context("watching for Ctrl-C")?;
    let terminate = signal(SignalKind::terminate()).context("watching for SIGTERM")?;
    drop(guard);
    Ok((runtime, Signals { interrupt, terminate }))
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
