//! The question before a disk is written to.

use std::io::{BufRead, IsTerminal, Write};

use anyhow::{Context, bail};

use crate::flash::device::{Disk, show};
use crate::flash::engine::Plan;
use crate::progress::bytes;

/// Shows what will be lost, and wants the names of the disks typed.
///
/// # Errors
/// When there is nobody to ask, or the answer is another one.
pub fn sure(disks: &[Disk], plan: &Plan, json: bool) -> anyhow::Result<()> {
    let input = std::io::stdin();
    if json || !input.is_terminal() {
        bail!(
            "nobody can be asked whether {} may be overwritten: say --yes, and name disks by their ids",
            names(disks)
        );
    }
    let mut out = std::io::stderr();
    for disk in disks {
        eprint!("\n{}", show::lost(disk));
    }
    if let Some(mapped) = plan.mapped() {
        eprintln!("\n{} will be written to each.", bytes(mapped));
    }
    let wanted = names(disks);
    eprint!("Type {wanted} to write to it, anything else to leave: ");
    out.flush().context("asking")?;
    let mut answer = String::new();
    input.lock().read_line(&mut answer).context("reading the answer")?;
    if is_yes(&answer, disks) {
        Ok(())
    } else {
        bail!("nothing was written: {wanted} was not typed")
    }
}

fn names(disks: &[Disk]) -> String {
    disks.iter().map(|disk| disk.name.as_str()).collect::<Vec<_>>().join(" ")
}

/// The short names of all disks, in any order.
fn is_yes(answer: &str, disks: &[Disk]) -> bool {
    let mut typed: Vec<&str> = answer.split_whitespace().collect();
    let mut wanted: Vec<&str> = disks.iter().map(|disk| disk.name.as_str()).collect();
    typed.sort_unstable();
    wanted.sort_unstable();
    typed == wanted
}
