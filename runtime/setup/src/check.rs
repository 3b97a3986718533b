//! `sdc-setup --check-answers` and `sdc-setup status`.

use std::path::Path;

use anyhow::{Context as _, Result};
use headnode_model::answers::Answers;
use headnode_model::paths;
use headnode_model::questions::{Facts, evaluate};
use headnode_model::setup_state::SetupState;
use serde_json::json;

/// Checks an answers file and prints the result; tells whether it is good. What depends on the
/// machine (which NICs it has) is not checked.
///
/// # Errors
/// When the file cannot be read.
pub fn answers(path: &Path, as_json: bool) -> Result<bool> {
    let bytes = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    let answers = Answers::parse(&bytes).with_context(|| format!("reading {}", path.display()))?;
    let outcome = evaluate(&answers, &Facts::default());
    let missing: Vec<_> = outcome.missing.iter().map(|q| q.key).collect();
    if as_json {
        let errors: Vec<_> =
            outcome.problems.iter().map(|p| json!({"key": p.key, "message": p.message})).collect();
        println!("{:#}", json!({"errors": errors, "asked": missing, "unknown": outcome.unknown}));
        return Ok(outcome.problems.is_empty());
    }
    for problem in &outcome.problems {
        println!("error: {problem}");
    }
    for key in &outcome.unknown {
        println!("warning: nobody reads the key {key:?}");
    }
    if !missing.is_empty() {
        println!("first boot will ask for: {}", missing.join(", "));
    }
    if outcome.problems.is_empty() {
        println!("{}: good", path.display());
    }
    Ok(outcome.problems.is_empty())
}

/// Prints how far this machine's setup is; tells whether it is complete.
///
/// # Errors
/// When the state file is there but cannot be read.
pub fn status(as_json: bool) -> Result<bool> {
    let path = Path::new(paths::SETUP_STATE);
    let bytes = match std::fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            if as_json {
                println!("{:#}", json!({"complete": false, "seen_states": []}));
            } else {
                println!(
                    "setup has not reached the pool yet ({} is not there); events: {}",
                    path.display(),
                    crate::console::EARLY_LOG
                );
            }
            return Ok(false);
        }
        other => other.with_context(|| format!("reading {}", path.display()))?,
    };
    let state: SetupState =
        serde_json::from_slice(&bytes).with_context(|| format!("reading {}", path.display()))?;
    if as_json {
        println!("{}", serde_json::to_string_pretty(&state)?);
    } else {
        println!(
            "begun     {}\ncurrent   {}\ndone      {}",
            state.start_time,
            state.current_state,
            state.seen_states.join(", ")
        );
        println!("complete  {}", if state.complete { "yes" } else { "no" });
    }
    Ok(state.complete)
}
