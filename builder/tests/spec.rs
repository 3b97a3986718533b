//! `headnode spec`, and its JSON Schema against Python's jsonschema.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};

fn headnode(folder: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_headnode"));
    command.current_dir(folder).args(args).env_remove("DEBUG_BUILD").output().unwrap()
}

/// The spec that Triton ships, by its keys (C§1.10).
fn triton() -> Value {
    let mut zones = serde_json::Map::new();
    for zone in [
        "adminui",
        "amon",
        "amonredis",
        "assets",
        "binder",
        "cloudapi",
        "cnapi",
        "dhcpd",
        "fwapi",
        "imgapi",
        "mahi",
        "moray",
        "napi",
        "papi",
        "rabbitmq",
        "sapi",
        "sdc",
        "ufds",
        "vmapi",
        "workflow",
    ] {
        zones.insert(zone.to_owned(), json!({}));
    }
    zones.insert("manatee".to_owned(), json!({"jobname": "sdc-manatee"}));
    json!({
        "vmware_version": 7, "build-tgz": "true", "coal-memsize": 8192, "no-rabbit": true,
        "coal-enable-serial": true, "clean-cache": true, "smt_enabled": true,
        "features": {"debug-platform": {"enabled": false, "env": "DEBUG_BUILD"}},
        "bits-branch": "master", "manta-base-path": "/Joyent_Dev/public/builds",
        "manta-user": "Joyent_Dev", "manta-url": "https://us-central.manta.mnx.io",
        "zones": zones,
        "files": {
            "ipxe": {"file": {"base": "ipxe", "ext": "tar.gz"}},
            "platform": {"if_not_feature": "debug-platform",
                         "file": {"base": "platform", "ext": "tgz"}},
            "platform-debug": {"if_feature": "debug-platform",
                               "file": {"base": "platform-debug", "ext": "tgz"}},
            "agents": {"jobname": "agentsshar", "file": {"base": "agents", "ext": "sh"}},
        },
    })
}

#[test]
fn tritons_spec_is_fine_and_shown_with_origins() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("build.spec"), format!("{:#}", triton())).unwrap();
    let local = r#"{"bits-branch": "release-20150514", "zones": {"cnapi": {"branch": "master"}}}"#;
    std::fs::write(dir.path().join("build.spec.local"), local).unwrap();
    let checked = headnode(dir.path(), &["spec", "check"]);
    assert!(checked.status.success(), "{checked:?}");
    let said = String::from_utf8(checked.stderr).unwrap();
    assert!(
        said.contains("bits-branch: \"release-20150514\" (build.spec.local:1) instead of"),
        "{said}"
    );
    assert!(said.contains("clean-cache: not used"), "{said}");
    let shown = headnode(dir.path(), &["spec", "show", "--json", "--feature", "debug-platform"]);
    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(shown["spec"]["bits-branch"], "release-20150514");
    assert_eq!(shown["wanted"]["files"], json!(["agents", "ipxe", "platform-debug"]));
    assert_eq!(shown["wanted"]["zones"].as_array().unwrap().len(), 21);
    let values = shown["values"].as_array().unwrap();
    let branch = values.iter().find(|value| value["key"] == "zones.cnapi.branch").unwrap();
    assert_eq!((&branch["file"], &branch["line"]), (&json!("build.spec.local"), &json!(1)));
}

#[test]
fn everything_that_is_wrong_is_told_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let text = r#"{
        "answer-file": "nowhere.json",
        "files": {"platform": {"if_feature": "debug-platfrom", "file": {"base": "p", "ext": "tgz"}}},
        "features": {"debug-platform": {"enabled": "false"}}
    }"#;
    std::fs::write(dir.path().join("build.spec"), text).unwrap();
    let checked = headnode(dir.path(), &["spec", "check", "--no-feature", "x"]);
    assert_eq!(checked.status.code(), Some(1));
    let said = String::from_utf8(checked.stderr).unwrap();
    let empty = tempfile::tempdir().unwrap();
    let built = headnode(empty.path(), &["build", "--feature", "x"]);
    assert_eq!(built.status.code(), Some(1));
    let told = String::from_utf8(built.stderr).unwrap();
    assert_eq!(
        told.trim(),
        "headnode: --feature x: unknown feature \"x\": the spec defines no features"
    );
    for wanted in [
        "build.spec:2: answer-file: there is no file nowhere.json",
        "build.spec:3: files.platform.if_feature: unknown feature \"debug-platfrom\", did you mean",
        "--no-feature x: unknown feature",
    ] {
        assert!(said.contains(wanted), "{wanted} in {said}");
    }
}

/// What Python's jsonschema says of some specs: whether each is right by our schema.
fn judged(schema: &[u8], specs: &[Value]) -> Vec<bool> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("schema"), schema).unwrap();
    std::fs::write(dir.path().join("specs"), serde_json::to_vec(specs).unwrap()).unwrap();
    let program = "import json, sys, jsonschema
schema = json.load(open(sys.argv[1] + '/schema'))
jsonschema.Draft202012Validator.check_schema(schema)
validator = jsonschema.Draft202012Validator(schema)
print(json.dumps([validator.is_valid(spec) for spec in json.load(open(sys.argv[1] + '/specs'))]))";
    let output = Command::new("python3")
        .args(["-c", program])
        .arg(dir.path())
        .output()
        .expect("python3 with jsonschema: pip install jsonschema");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn schema_and_parser_agree() {
    let dir = tempfile::tempdir().unwrap();
    let schema = headnode(dir.path(), &["spec", "schema"]);
    assert!(schema.status.success());
    let mut specs = vec![triton()];
    for right in [
        json!({"size": "auto"}),
        json!({"size": "8gb", "timeout": "5", "formats": ["usb", "iso"], "console": "ttya"}),
        json!({"size": null, "zones": null}),
        json!({"answers-file": "a.json"}),
        json!({"imgapi-url": "https://example.com:443/a@b?c", "manta-url": "http://[::1]"}),
        json!({"extra-files": {"scripts/x.sh": "x", "..a": "y"}}),
        json!({"joes": "/joe/stor", "files": {"x": {"alt_manta_base": "joes", "file": {"base": "x", "ext": "y"}}}}),
        json!({"zones": {"cnapi": {"source": "imgapi", "channel": "dev",
                                   "uuid": "04a48d7d-6bb5-4e83-8c3b-e60a99e0f48f"}}}),
        json!({"platforms": [{"path": "p", "kind": "smartos", "default": true}]}),
    ] {
        specs.push(right);
    }
    let right = specs.len();
    for wrong in [
        json!([]),
        json!({"zonez": {}}),
        json!({"size": "big"}),
        json!({"size": 5}),
        json!({"timeout": -1}),
        json!({"timeout": 1.5}),
        json!({"timeout": 70000}),
        json!({"no-rabbit": "yes"}),
        json!({"formats": ["usb", "floppy"]}),
        json!({"formats": [null]}),
        json!({"console": "com1"}),
        json!({"zones": {"CNAPI": {}}}),
        json!({"zones": {"cnapi": {"brunch": "x"}}}),
        json!({"zones": {"cnapi": {"branch": "a/../b"}}}),
        json!({"zones": {"cnapi": {"uuid": "04A48D7D-6bb5-4e83-8c3b-e60a99e0f48f"}}}),
        json!({"files": {"x": {"build_timestamp": "yesterday"}}}),
        json!({"files": {"x": {"url": "ftp://x/"}}}),
        json!({"imgapi-url": "https://me:secret@example.com/"}),
        json!({"imgapi-url": "https:///x"}),
        json!({"extra-files": {"../x": "x"}}),
        json!({"extra-files": {"/x": "x"}}),
        json!({"extra-files": {"Scripts/x": "x"}}),
        json!({"extra-files": {"a//x": "x"}}),
        json!({"manta-base-path": "builds"}),
        json!({"features": {"a": {"enabled": 1}}}),
    ] {
        specs.push(wrong);
    }
    let judged = judged(&schema.stdout, &specs);
    for (number, (spec, schema_says)) in specs.iter().zip(judged).enumerate() {
        std::fs::write(dir.path().join("build.spec"), spec.to_string()).unwrap();
        let shown = headnode(dir.path(), &["spec", "show", "--json"]);
        // Whether files exist is no matter of form.
        let problems = serde_json::from_slice::<Value>(&shown.stdout).map_or(1, |report| {
            let all = report["problems"].as_array().unwrap();
            all.iter()
                .filter(|one| !one["text"].as_str().unwrap().starts_with("there is no file"))
                .count()
        });
        assert_eq!(schema_says, number < right, "the schema on {spec}");
        assert_eq!(problems == 0, number < right, "the parser on {spec}: {shown:?}");
    }
}
