//! What happens on Ctrl-C and SIGTERM: the folders in work are removed, and the command ends.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

static FOLDERS: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Has a folder removed when the command is interrupted.
pub fn remove_on_interrupt(folder: PathBuf) {
    FOLDERS.lock().unwrap_or_else(PoisonError::into_inner).push(folder);
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
        for folder in FOLDERS.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            // What cannot be removed is told: it lies beside the output.
            if let Err(error) = std::fs::remove_dir_all(folder) {
                eprintln!("headnode: removing {}: {error}", folder.display());
            }
        }
        eprintln!("headnode: interrupted, {text}");
        std::process::exit(code);
    });
    Ok(())
}
