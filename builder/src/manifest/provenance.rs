//! Where an image comes from: an in-toto Statement v1 with SLSA's provenance v1 as its predicate
//! (<https://slsa.dev/spec/v1.0/provenance>). It names what went in and what came out, by digest, and
//! nothing of the machine that did it: no host, no local path, no time but the image's own. The same
//! build gives the same bytes.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value};

use super::sbom;

/// What `buildDefinition` means: this identifier stands for builds of `headnode build`.
pub const BUILD_TYPE: &str = "tag:headnode,2026:build/v1";
/// Who vouches for the build when nobody else is named: the program itself, wherever it ran.
pub const BUILDER: &str = "tag:headnode,2026:builder/local";

/// A file that the build made.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Output {
    /// Its name, without a folder.
    pub name: String,
    /// SHA-256 in hex.
    pub sha256: String,
}

/// A file that the build was made from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Input {
    /// What it is: `platform`, `grub-pc-bin`, ….
    pub name: String,
    /// Where anybody can get it; absent for what came from a folder of the build machine.
    pub uri: Option<String>,
    /// SHA-256 in hex.
    pub sha256: String,
}

/// Everything that is told of a build.
#[derive(Debug, Clone, Default)]
pub struct Build {
    /// What it made.
    pub outputs: Vec<Output>,
    /// What it was made from.
    pub inputs: Vec<Input>,
    /// What it was asked for, by names of the spec. Values of secrets are left out, and of paths
    /// only the last part is told.
    pub parameters: Map<String, Value>,
    /// The image's time, seconds since 1970.
    pub created: i64,
    /// Who vouches for the build, a URI; [`BUILDER`] when absent.
    pub builder: Option<String>,
}

/// Why no provenance can be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A digest is none.
    #[error("the SHA-256 of {0:?} is not 64 hex digits")]
    Digest(String),
    /// A name leads to a place of the build machine.
    #[error("{0:?} is no plain file name")]
    Name(String),
    /// An origin says nothing to others, or too much.
    #[error(
        "the origin of {0:?} must be an http(s) address or another URI that means the same \
         everywhere, without user or password"
    )]
    Uri(String),
    /// The time is none.
    #[error("the build was at {0}, which is no time")]
    Created(i64),
    /// It cannot be written as JSON.
    #[error("writing the provenance: {0}")]
    Json(#[from] serde_json::Error),
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Statement {
    #[serde(rename = "_type")]
    kind: &'static str,
    subject: Vec<Resource>,
    predicate_type: &'static str,
    predicate: Predicate,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Predicate {
    build_definition: Definition,
    run_details: Details,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Definition {
    build_type: &'static str,
    external_parameters: Map<String, Value>,
    internal_parameters: Map<String, Value>,
    resolved_dependencies: Vec<Resource>,
}

#[derive(Serialize)]
struct Resource {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    uri: Option<String>,
    digest: BTreeMap<&'static str, String>,
}

#[derive(Serialize)]
struct Details {
    builder: Builder,
    metadata: Metadata,
}

#[derive(Serialize)]
struct Builder {
    id: String,
    version: BTreeMap<&'static str, &'static str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    started_on: String,
    finished_on: String,
}

/// The text of the provenance of a build; inputs and outputs may come in any order.
///
/// # Errors
/// When anything in it would mean nothing elsewhere, or tell of the build machine.
pub fn text(build: &Build) -> Result<Vec<u8>, Error> {
    let time = sbom::timestamp(build.created).map_err(|_| Error::Created(build.created))?;
    let mut outputs = build.outputs.clone();
    outputs.sort();
    let subject = outputs.into_iter().map(|output| {
        if output.name.is_empty() || output.name.contains(['/', '\\']) {
            return Err(Error::Name(output.name));
        }
        Ok(Resource { digest: digest(&output.name, &output.sha256)?, name: output.name, uri: None })
    });
    let mut inputs = build.inputs.clone();
    inputs.sort();
    let dependency = |input: Input| {
        if input.name.starts_with('/') {
            return Err(Error::Name(input.name));
        }
        if input.uri.as_ref().is_some_and(|uri| !is_public(uri)) {
            return Err(Error::Uri(input.name));
        }
        let digest = digest(&input.name, &input.sha256)?;
        Ok(Resource { name: input.name, uri: input.uri, digest })
    };
    let builder = build.builder.clone().unwrap_or_else(|| BUILDER.to_owned());
    if !is_public(&builder) {
        return Err(Error::Uri("builder".to_owned()));
    }
    let statement = Statement {
        kind: "https://in-toto.io/Statement/v1",
        subject: subject.collect::<Result<_, _>>()?,
        predicate_type: "https://slsa.dev/provenance/v1",
        predicate: Predicate {
            build_definition: Definition {
                build_type: BUILD_TYPE,
                external_parameters: parameters(&build.parameters),
                internal_parameters: Map::new(),
                resolved_dependencies: inputs
                    .into_iter()
                    .map(dependency)
                    .collect::<Result<_, _>>()?,
            },
            run_details: Details {
                builder: Builder {
                    id: builder,
                    version: BTreeMap::from([("headnode", env!("CARGO_PKG_VERSION"))]),
                },
                metadata: Metadata { started_on: time.clone(), finished_on: time },
            },
        },
    };
    let mut text = serde_json::to_vec_pretty(&statement)?;
    text.push(b'\n');
    Ok(text)
}

fn digest(name: &str, sha256: &str) -> Result<BTreeMap<&'static str, String>, Error> {
    let good = sha256.len() == 64 && sha256.bytes().all(|byte| byte.is_ascii_hexdigit());
    let good = good.then(|| BTreeMap::from([("sha256", sha256.to_lowercase())]));
    good.ok_or_else(|| Error::Digest(name.to_owned()))
}

/// Whether a URI means the same on any machine and gives nothing away.
fn is_public(uri: &str) -> bool {
    if uri.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return false;
    }
    match uri.split_once(':') {
        Some(("http" | "https", rest)) => {
            let host = rest.strip_prefix("//").and_then(|rest| rest.split(['/', '?', '#']).next());
            host.is_some_and(|host| !host.is_empty() && !host.contains('@'))
        }
        Some(("pkg" | "tag" | "urn", rest)) => !rest.is_empty(),
        _ => false,
    }
}

/// Parameters sorted by name, without secrets and without places of the build machine.
fn parameters(given: &Map<String, Value>) -> Map<String, Value> {
    let sorted: BTreeMap<_, _> = given
        .iter()
        .filter(|(key, _)| !headnode_model::answers::is_secret(key))
        .map(|(key, value)| (key.clone(), plain(value)))
        .collect();
    sorted.into_iter().collect()
}

fn plain(value: &Value) -> Value {
    match value {
        Value::String(text) if text.contains("://") && !is_public(text) => {
            Value::String("(an address with a user)".to_owned())
        }
        // Of a path the last part is told; an address stays whole.
        Value::String(text) if text.contains('/') && !text.contains("://") => {
            let last = text.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
            Value::String(last.to_owned())
        }
        Value::Array(list) => Value::Array(list.iter().map(plain).collect()),
        Value::Object(map) => Value::Object(parameters(map)),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn build() -> Build {
        let parameters = json!({
            "size": "auto", "answer-file": "/home/me/answers.json", "timeout": 2,
            "admin_password": "joypass123", "files": ["../x/y", {"b": "a/b", "a": 1}],
            "bits": "https://user:word@example.com/bits", "channel": "https://example.com/dev",
        });
        Build {
            outputs: ["b.iso", "a.img"]
                .map(|name| Output { name: name.into(), sha256: "aB".repeat(32) })
                .into(),
            inputs: vec![Input {
                name: "platform".into(),
                uri: Some("https://example.com/platform.tgz".into()),
                sha256: "0".repeat(64),
            }],
            parameters: parameters.as_object().unwrap().clone(),
            created: 1_767_323_045,
            builder: None,
        }
    }

    #[test]
    fn it_names_inputs_and_outputs_and_nothing_of_the_machine() {
        let written = text(&build()).unwrap();
        let mut turned = build();
        turned.outputs.reverse();
        assert_eq!(text(&turned).unwrap(), written);
        let statement: Value = serde_json::from_slice(&written).unwrap();
        assert_eq!(statement["_type"], "https://in-toto.io/Statement/v1");
        assert_eq!(statement["subject"][0]["name"], "a.img");
        assert_eq!(statement["subject"][0]["digest"]["sha256"], "ab".repeat(32));
        let definition = &statement["predicate"]["buildDefinition"];
        assert_eq!(
            definition["resolvedDependencies"][0]["uri"],
            "https://example.com/platform.tgz"
        );
        assert_eq!(
            definition["externalParameters"],
            json!({
                "answer-file": "answers.json", "bits": "(an address with a user)",
                "channel": "https://example.com/dev", "files": ["y", {"a": 1, "b": "b"}],
                "size": "auto", "timeout": 2,
            })
        );
        let metadata = &statement["predicate"]["runDetails"]["metadata"];
        assert_eq!(metadata["startedOn"], "2026-01-02T03:04:05Z");
        let written = String::from_utf8(written).unwrap();
        for word in ["/home", "joypass123", "user:word"] {
            assert!(!written.contains(word), "{written}");
        }
    }

    #[test]
    fn what_means_nothing_elsewhere_is_refused() {
        for uri in ["file:///tmp/x", "/tmp/x", "https://me:pw@example.com/x", "https:///x", "x"] {
            let mut build = build();
            build.inputs[0].uri = Some(uri.into());
            assert!(matches!(text(&build), Err(Error::Uri(_))), "{uri}");
        }
        let mut build = build();
        build.outputs[0].name = "out/a.img".into();
        assert!(matches!(text(&build), Err(Error::Name(_))));
        build.outputs[0] = Output { name: "a".into(), sha256: "12".into() };
        assert!(matches!(text(&build), Err(Error::Digest(_))));
    }

    proptest! {
        #[test]
        fn no_local_path_is_told(folder in "/[a-z]{3,9}/[a-z]{12}", name in "[a-z]{1,9}") {
            let mut build = build();
            build.parameters.insert("overlays".into(), format!("{folder}/{name}").into());
            let written = String::from_utf8(text(&build).unwrap()).unwrap();
            prop_assert!(!written.contains(&folder));
        }
    }
}
