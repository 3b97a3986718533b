//! What cannot be seen in one value alone: whether the values of a build.spec fit each other, and
//! whether the files exist that they name.

use super::Spec;
use super::merge::{Merged, Problem};
use super::parts::{Env, Part, Source, unknown_feature};

/// Everything that is wrong with how the values fit. Switches that come from the environment or
/// from flags are not looked at, nor is the disk.
pub fn fit(spec: &Spec, merged: &Merged) -> Vec<Problem> {
    let mut check = Check { merged, problems: Vec::new() };
    let parts = &spec.parts;
    for (name, feature) in &parts.features {
        if feature.enabled.is_none() {
            check.say(&["features", name], "lacks \"enabled\": true or false".to_owned());
        }
    }
    for (list, all) in [("zones", &parts.zones), ("files", &parts.files)] {
        for (name, part) in all {
            for (key, feature) in
                [("if_feature", &part.if_feature), ("if_not_feature", &part.if_not_feature)]
            {
                let unknown =
                    feature.as_ref().filter(|feature| !parts.features.contains_key(*feature));
                if let Some(feature) = unknown {
                    let text = unknown_feature("", feature, &parts.features);
                    check.say(&[list, name, key], text.trim_start_matches(": ").to_owned());
                }
            }
            check.source(list, name, part, parts.override_all_sources);
            if let Some(base) = &part.alt_manta_base
                && !merged.values.get(base).is_some_and(serde_json::Value::is_string)
            {
                let text = format!("there is no top-level key {base:?} with a Manta folder");
                check.say(&[list, name, "alt_manta_base"], text);
            }
        }
    }
    check.platforms(spec);
    check.problems
}

/// Everything that is wrong: form, fit, switches, and files that do not exist.
pub fn all(spec: &Spec, merged: &Merged, env: Env<'_>) -> Vec<Problem> {
    let mut problems = merged.problems.clone();
    problems.extend(fit(spec, merged));
    if let Err(texts) = spec.features(env) {
        let about = |text| Problem { origin: None, key: String::new(), text };
        problems.extend(texts.into_iter().map(about));
    }
    let mut check = Check { merged, problems };
    let parts = &spec.parts;
    let files = [
        ("answer-file", &spec.answer_file),
        ("authorized-keys", &spec.authorized_keys),
        ("boot", &spec.boot),
        ("control-bundle", &parts.control_bundle),
        ("firmware", &spec.firmware),
        ("signing-key", &parts.signing_key),
    ];
    for (key, path) in files {
        if let Some(path) = path.as_ref().filter(|path| !path.is_file()) {
            check.say(&[key], format!("there is no file {}", path.display()));
        }
    }
    for path in spec.platform.iter().filter(|path| !path.is_file()) {
        check.say(&["platform"], format!("there is no file {}", path.display()));
    }
    let folders = [
        ("bits-dir", &parts.bits_dir),
        ("overlays", &spec.overlays),
        ("runtime-dir", &spec.runtime_dir),
        ("sapi-config", &parts.sapi_config),
    ];
    for (key, path) in folders {
        if let Some(path) = path.as_ref().filter(|path| !path.is_dir()) {
            check.say(&[key], format!("there is no folder {}", path.display()));
        }
    }
    if let Some(path) = parts.sdc_headnode.as_ref().filter(|path| !path.exists()) {
        let text = format!("there is no folder or tarball {}", path.display());
        check.say(&["sdc-headnode"], text);
    }
    for (name, path) in parts.extra_files.iter().filter(|(_, path)| !path.is_file()) {
        check.say(&["extra-files", name], format!("there is no file {}", path.display()));
    }
    for (number, platform) in parts.platforms.iter().enumerate() {
        if let Some(path) = platform.path.as_ref().filter(|path| !path.is_file()) {
            let text = format!("there is no file {}", path.display());
            check.say(&["platforms", &number.to_string(), "path"], text);
        }
    }
    check.problems
}

struct Check<'a> {
    merged: &'a Merged,
    problems: Vec<Problem>,
}

impl Check<'_> {
    fn say(&mut self, way: &[&str], text: String) {
        // Lists are one value to the merger.
        let origin = self.merged.origin(way).or_else(|| self.merged.origin(way.get(..1)?));
        self.problems.push(Problem { origin, key: way.join("."), text });
    }

    fn source(&mut self, list: &str, name: &str, part: &Part, all: Option<Source>) {
        let source = all.or(part.source).unwrap_or_default();
        let zone = list == "zones";
        let lacks =
            |key: &str, source: &str| format!("lacks {key:?}, which source {source:?} needs");
        let mut texts = Vec::new();
        match source {
            Source::Imgapi if !zone => {
                texts.push("single files do not come from source \"imgapi\"".to_owned());
            }
            Source::Imgapi if part.uuid.is_none() => texts.push(lacks("uuid", "imgapi")),
            Source::Http if part.url.is_none() => texts.push(lacks("url", "http")),
            Source::Dir if part.path.is_none() => texts.push(lacks("path", "dir")),
            Source::Http if zone && !part.url.as_ref().is_some_and(|url| url.ends_with('/')) => {
                texts.push(
                    "url must be a folder, with / at its end: a zone is two files".to_owned(),
                );
            }
            _ => {}
        }
        let one_file = match source {
            Source::Http => part.url.as_ref().is_some_and(|url| !url.ends_with('/')),
            Source::Dir => part.path.as_ref().is_some_and(|path| !path.is_dir()),
            _ => false,
        };
        let named =
            part.file.as_ref().is_some_and(|file| !file.base.is_empty() && !file.ext.is_empty());
        if !zone && !one_file && !named {
            texts.push("lacks \"file\" with \"base\" and \"ext\"".to_owned());
        }
        for text in texts {
            self.say(&[list, name], text);
        }
    }

    fn platforms(&mut self, spec: &Spec) {
        let platforms = &spec.parts.platforms;
        for (number, platform) in platforms.iter().enumerate() {
            let number = number.to_string();
            let way = ["platforms", number.as_str()];
            match (&platform.path, &platform.file) {
                (Some(_), None) => {}
                (None, Some(file)) if spec.parts.files.contains_key(file) => {}
                (None, Some(file)) => {
                    self.say(&way, format!("there is no entry {file:?} in files"));
                }
                _ => self.say(&way, "must have either \"path\" or \"file\"".to_owned()),
            }
        }
        let defaults = platforms.iter().filter(|platform| platform.default).count();
        if platforms.len() > 1 && defaults != 1 {
            self.say(&["platforms"], format!("one must be the default, but {defaults} are"));
        }
        if !platforms.is_empty() && !spec.platform.is_empty() {
            self.say(&["platform"], "there is \"platforms\" too: keep one of them".to_owned());
        }
    }
}
