use serde_json::{Map, Value, json};

use super::keys::{Form, Key, TOP};
use super::*;

fn spec(text: &str) -> Result<Spec, Error> {
    let merged = Merged::of_texts([("build.spec", text)])?;
    let spec = Spec::of(&merged)?;
    let problems = check::fit(&spec, &merged);
    if problems.is_empty() { Ok(spec) } else { Err(Error::Problems(problems)) }
}

fn no_env(_: &str) -> Option<String> {
    None
}

#[test]
fn flags_win_over_the_file() {
    let file = spec(r#"{"answer-file": "a.json", "console": "tty0", "size": "8gb"}"#).unwrap();
    let flags = Spec { console: Some(Console::Serial), ..Spec::default() };
    let merged = flags.or(file);
    assert_eq!(merged.console, Some(Console::Serial));
    assert_eq!(merged.answer_file, Some(PathBuf::from("a.json")));
    assert_eq!(merged.size, Some(Size::Bytes(8_000_000_000)));
}

#[test]
fn unknown_keys_are_told_with_the_nearest() {
    let error = spec(r#"{"answer-fiel": "x", "zonez": {}}"#).unwrap_err().to_string();
    assert!(error.contains(r#""answer-fiel", did you mean "answer-file"?"#), "{error}");
    assert!(error.contains(r#""zonez""#), "{error}");
    let error = spec("{\n \"size\": \"big\"}").unwrap_err().to_string();
    assert!(error.contains("is no size") && error.contains("build.spec:2"), "{error}");
}

#[test]
fn files_are_read_with_what_is_laid_over_them_and_paths_start_at_their_folder() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mine.spec");
    std::fs::write(&path, r#"{"answers-file": "a.json", "bits-branch": "master"}"#).unwrap();
    std::fs::write(dir.path().join("mine.spec.local"), r#"{"bits-branch": "x"}"#).unwrap();
    std::fs::write(dir.path().join("mine.spec.branches"), r#"{"bits-branch": "y"}"#).unwrap();
    let read = Spec::read(&path).unwrap();
    assert_eq!(read.answer_file, Some(dir.path().join("a.json")));
    assert_eq!(read.parts.bits_branch.as_deref(), Some("y"));
    let missing = Spec::read(&dir.path().join("no.spec")).unwrap_err();
    assert!(missing.to_string().contains("no.spec"), "{missing}");
}

#[test]
fn features_come_from_flags_then_environment_then_file() {
    let text = r#"{"features": {"debug-platform": {"enabled": false, "env": "DEBUG_BUILD"}},
        "files": {"platform": {"if_not_feature": "debug-platform",
                               "file": {"base": "platform", "ext": "tgz"}}}}"#;
    let mut spec = spec(text).unwrap();
    let platform = spec.parts.files["platform"].clone();
    let on = |spec: &Spec, env: parts::Env<'_>| spec.features(env).unwrap();
    assert!(platform.wanted(&on(&spec, &no_env)));
    let yes = |name: &str| (name == "DEBUG_BUILD").then(|| " YES ".to_owned());
    assert_eq!(
        on(&spec, &yes)["debug-platform"],
        parts::Switch { on: true, by: "DEBUG_BUILD".into() }
    );
    assert!(!platform.wanted(&on(&spec, &yes)));
    let empty = |_: &str| Some(String::new());
    assert!(!on(&spec, &empty)["debug-platform"].on);
    let odd = |_: &str| Some("perhaps".to_owned());
    assert!(spec.features(&odd).unwrap_err()[0].contains("DEBUG_BUILD is \"perhaps\""));
    spec.no_feature.push("debug-platform".to_owned());
    assert!(!on(&spec, &yes)["debug-platform"].on);
    spec.feature.push("debug-platfrom".to_owned());
    let error = spec.features(&no_env).unwrap_err();
    assert!(error[0].contains("did you mean \"debug-platform\""), "{error:?}");
}

#[test]
fn what_does_not_fit_is_told_at_once() {
    let text = r#"{
        "features": {"a": {}},
        "zones": {"cnapi": {"source": "imgapi", "if_feature": "b"},
                  "napi": {"alt_manta_base": "nowhere"}},
        "files": {"x": {}, "y": {"source": "http"}},
        "platforms": [{"file": "z"}, {"path": "p", "default": true}, {}]
    }"#;
    let error = spec(text).unwrap_err().to_string();
    for wanted in [
        "build.spec:2: features.a: lacks \"enabled\"",
        "build.spec:3: zones.cnapi: lacks \"uuid\"",
        "build.spec:3: zones.cnapi.if_feature: unknown feature \"b\"",
        "build.spec:4: zones.napi.alt_manta_base: there is no top-level key \"nowhere\"",
        "build.spec:5: files.x: lacks \"file\"",
        "build.spec:5: files.y: lacks \"url\"",
        "build.spec:6: platforms.0: there is no entry \"z\"",
        "build.spec:6: platforms.2: must have either",
    ] {
        assert!(error.contains(wanted), "{wanted} in {error}");
    }
}

/// A value of a form that is right.
fn example(form: &Form) -> Value {
    match form {
        Form::Bool => json!("true"),
        Form::Count(least, _) => json!(least),
        Form::Text | Form::Name => json!("name-1.2_3+4"),
        Form::Path => json!("some/file"),
        Form::MantaPath => json!("/user/stor"),
        Form::Url => json!("https://example.com/x/"),
        Form::Uuid => json!("04a48d7d-6bb5-4e83-8c3b-e60a99e0f48f"),
        Form::Sha256 => json!("0".repeat(64)),
        Form::Stamp => json!("20181024T220414Z"),
        Form::Size => json!("8gb"),
        Form::Choice(choices) => json!(choices[0]),
        Form::List(inner) => json!([example(inner)]),
        Form::Object(keys) => Value::Object(examples(keys)),
        Form::Map(keys::Names::KeyPath, inner) => json!({"scripts/a.sh": example(inner)}),
        Form::Map(_, inner) => json!({ "part": example(inner) }),
    }
}

fn examples(keys: &[Key]) -> Map<String, Value> {
    keys.iter().map(|key| (key.name.to_owned(), example(&key.form))).collect()
}

/// The tables and the types say the same: every key is taken, and those with a use arrive.
#[test]
fn every_key_is_taken_by_the_types() {
    let text = serde_json::to_string_pretty(&examples(TOP)).unwrap();
    let merged = Merged::of_texts([("build.spec", text.as_str())]).unwrap();
    let all = Spec::of(&merged).unwrap();
    for key in TOP.iter().filter(|key| !keys::unused(key)) {
        // `branch` names a Manta folder in the example, so that key must stay.
        let mut without = examples(TOP);
        without.shift_remove(key.name);
        let text = serde_json::to_string(&without).unwrap();
        let merged = Merged::of_texts([("build.spec", text.as_str())]).unwrap();
        let less = Spec::of(&merged).unwrap();
        assert!(less != all, "{} has no effect", key.name);
    }
    for choices in [keys::CONSOLES] {
        for choice in choices {
            spec(&format!(r#"{{"console": "{choice}"}}"#)).unwrap();
        }
    }
    for source in keys::SOURCES {
        let merged = Merged::of_texts([(
            "b",
            format!(r#"{{"override-all-sources": "{source}"}}"#).as_str(),
        )])
        .unwrap();
        Spec::of(&merged).unwrap();
    }
    let nulls: Map<_, _> = TOP.iter().map(|key| (key.name.to_owned(), Value::Null)).collect();
    assert_eq!(spec(&serde_json::to_string(&nulls).unwrap()).unwrap(), Spec::default());
}

#[test]
fn serial_means_the_port_that_serial_dev_names() {
    assert_eq!(Console::SerialDev.with_serial_dev(None).illumos(), "ttyb");
    assert_eq!(Console::SerialDev.with_serial_dev(Some("ttya")).name(), "ttyS0");
    assert_eq!(Console::Vga.with_serial_dev(Some("ttya")).illumos(), "text");
}
