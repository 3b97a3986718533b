//! `headnode spec`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use serde_json::{Value, json};

use crate::spec::merge::{Merged, Problem};
use crate::spec::parts::process_env;
use crate::spec::{self, Spec, check, keys, schema};

/// Look at what is to be built
///
/// A build.spec is JSON, as Triton's is. What build.spec.local says wins over it, and
/// build.spec.branches over both.
///
/// Examples:
///   headnode spec show                what counts, and where each value comes from
///   headnode spec check --json        everything that is wrong
///   headnode spec schema > build.spec.schema.json
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Print the merged result, each value with its file and line
    Show(Which),
    /// Tell everything that is wrong, at once; exit code 1 when there is anything
    Check(Which),
    /// Print the JSON Schema of build.spec
    Schema,
}

/// Which spec.
#[derive(Debug, Clone, clap::Args)]
pub struct Which {
    /// The spec; FILE.local and FILE.branches are laid over it
    #[arg(value_name = "FILE", default_value = spec::DEFAULT)]
    file: PathBuf,
    /// Switch a feature on; may be given several times
    #[arg(long, value_name = "NAME")]
    feature: Vec<String>,
    /// Switch a feature off; may be given several times
    #[arg(long, value_name = "NAME")]
    no_feature: Vec<String>,
    /// Tell the result as JSON on standard output
    #[arg(long)]
    json: bool,
}

/// Runs the verb.
///
/// # Errors
/// When a file cannot be read or is no JSON.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.verb {
        Verb::Show(which) => show(&which),
        Verb::Check(which) => check(&which),
        Verb::Schema => {
            println!("{:#}", schema::schema());
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Reads the spec; what is wrong in it is returned, not an error.
fn read(which: &Which) -> anyhow::Result<(Merged, Option<Spec>, Vec<Problem>)> {
    let merged = read_merged(&which.file)?;
    let Ok(mut spec) = Spec::of(&merged) else {
        let problems = merged.problems.clone();
        return Ok((merged, None, problems));
    };
    spec.feature.clone_from(&which.feature);
    spec.no_feature.clone_from(&which.no_feature);
    let problems = check::all(&spec, &merged, &process_env);
    Ok((merged, Some(spec), problems))
}

fn read_merged(file: &Path) -> anyhow::Result<Merged> {
    Merged::read(file).with_context(|| format!("reading the spec {}", file.display()))
}

/// The values that are no objects, by their dotted keys.
fn leaves(way: &mut Vec<String>, value: &Value, into: &mut BTreeMap<Vec<String>, Value>) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (name, value) in map {
                way.push(name.clone());
                leaves(way, value, into);
                way.pop();
            }
        }
        _ => drop(into.insert(way.clone(), value.clone())),
    }
}

fn show(which: &Which) -> anyhow::Result<ExitCode> {
    let (merged, spec, problems) = read(which)?;
    let mut values = BTreeMap::new();
    for (name, value) in &merged.values {
        leaves(&mut vec![name.clone()], value, &mut values);
    }
    let features = spec.as_ref().and_then(|spec| spec.features(&process_env).ok());
    let wanted = spec.as_ref().zip(features.as_ref()).map(|(spec, features)| {
        let names = |parts: &BTreeMap<String, spec::parts::Part>| -> Vec<String> {
            let wanted = parts.iter().filter(|(_, part)| part.wanted(features));
            wanted.map(|(name, _)| name.clone()).collect()
        };
        json!({"zones": names(&spec.parts.zones), "files": names(&spec.parts.files)})
    });
    if which.json {
        let list: Vec<Value> = values
            .iter()
            .map(|(way, value)| {
                let origin = merged.origins.get(way);
                json!({"key": way.join("."), "value": value,
                       "file": origin.map(|origin| &origin.file),
                       "line": origin.map(|origin| origin.line)})
            })
            .collect();
        let report = json!({
            "files": merged.files, "spec": merged.values, "values": list,
            "overrides": merged.overrides, "features": features, "wanted": wanted,
            "problems": problems,
        });
        println!("{report:#}");
    } else {
        for (way, value) in &values {
            let origin = merged.origins.get(way).map(ToString::to_string).unwrap_or_default();
            println!("{:<44} {origin}", format!("{} = {value}", way.join(".")));
        }
        for (name, switch) in features.iter().flatten() {
            let on = if switch.on { "on" } else { "off" };
            println!("feature {name} is {on} (by {})", switch.by);
        }
        for over in &merged.overrides {
            eprintln!("overridden: {over}");
        }
        tell(&problems);
    }
    Ok(code(&problems))
}

fn check(which: &Which) -> anyhow::Result<ExitCode> {
    let (merged, _, problems) = read(which)?;
    let unused: Vec<String> = merged
        .values
        .keys()
        .filter_map(|name| keys::TOP.iter().find(|key| key.name == name && keys::unused(key)))
        .map(|key| format!("{}: {}", key.name, key.about))
        .collect();
    if which.json {
        let report = json!({"files": merged.files, "problems": problems,
                            "overrides": merged.overrides, "unused": unused});
        println!("{report:#}");
    } else {
        for over in &merged.overrides {
            eprintln!("overridden: {over}");
        }
        for text in &unused {
            eprintln!("{text}");
        }
        tell(&problems);
        if problems.is_empty() {
            let files: Vec<String> =
                merged.files.iter().map(|file| file.display().to_string()).collect();
            println!("{}: nothing is wrong", files.join(", "));
        }
    }
    Ok(code(&problems))
}

fn tell(problems: &[Problem]) {
    for problem in problems {
        eprintln!("{problem}");
    }
}

fn code(problems: &[Problem]) -> ExitCode {
    if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
