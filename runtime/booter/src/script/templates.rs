//! The templates of scripts: ours, and a site's own ones in their place.

use std::error::Error as StdError;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};
use tera::{Context, Tera};

use crate::Error;

/// Where a site's own templates are, below the root.
const SITE: &str = "config.inc/booter/templates";
/// Larger files are no templates, in bytes.
const SIZE_LIMIT: u64 = 1 << 20;

/// A part of the scripts that boot: asks when nothing is known of a machine.
const ASK: &str = "ask.ipxe";
/// Their end.
const FAILED: &str = "failed.ipxe";
pub(super) const LINUX: &str = "linux.ipxe";
pub(super) const LIVE: &str = "live.ipxe";
pub(super) const SMARTOS: &str = "smartos.ipxe";
pub(super) const MENU: &str = "menu.ipxe";
pub(super) const MESSAGE: &str = "message.ipxe";
pub(super) const CHAIN: &str = "chain.ipxe";
pub(super) const IDENTIFY: &str = "identify.ipxe";
pub(super) const GRUB: &str = "menu.lst";
pub(super) const GRUB_MESSAGE: &str = "message.lst";

/// Our templates by name; a site's one has `.tera` at its end.
const OURS: [(&str, &str); 11] = [
    (ASK, include_str!("../../../../overlays/booter/ask.ipxe.tera")),
    (FAILED, include_str!("../../../../overlays/booter/failed.ipxe.tera")),
    (LIVE, include_str!("../../../../overlays/booter/live.ipxe.tera")),
    (LINUX, include_str!("../../../../overlays/booter/linux.ipxe.tera")),
    (SMARTOS, include_str!("../../../../overlays/booter/smartos.ipxe.tera")),
    (MENU, include_str!("../../../../overlays/booter/menu.ipxe.tera")),
    (MESSAGE, include_str!("../../../../overlays/booter/message.ipxe.tera")),
    (CHAIN, include_str!("../../../../overlays/booter/chain.ipxe.tera")),
    (IDENTIFY, include_str!("../../../../overlays/booter/identify.ipxe.tera")),
    (GRUB, include_str!("../../../../overlays/booter/menu.lst.tera")),
    (GRUB_MESSAGE, include_str!("../../../../overlays/booter/message.lst.tera")),
];

/// A template that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the template {name} cannot be used: {why}")]
pub struct TemplateError {
    /// Its name, or its path when it is a site's own one.
    pub name: String,
    /// What is wrong, and in which line.
    pub why: String,
}

impl TemplateError {
    fn new(name: String, error: &dyn StdError) -> Self {
        let mut why = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            why.push_str(&format!(": {cause}"));
            source = cause.source();
        }
        Self { name, why }
    }
}

/// What tells one version of a site's file from another: size, time, time's fraction, number.
type Stamp = (u64, i64, i64, u64);
/// The site's files that are there.
type Seen = Vec<(&'static str, Stamp)>;

/// Ours and the site's ones together.
#[derive(Debug)]
struct All {
    templates: Tera,
    /// The site's ones that cannot be used: the others still can.
    wrong: Vec<(&'static str, TemplateError)>,
}

/// All templates.
#[derive(Debug)]
pub(super) struct Templates {
    ours: Tera,
    site: PathBuf,
    /// The site's files as they were read, and what they gave.
    read: Mutex<Option<(Seen, Arc<All>)>>,
}

impl Templates {
    /// Reads ours. The site's ones are read when they are wanted, and again when they have changed.
    ///
    /// # Errors
    /// When one of ours is broken.
    pub fn new(root: &Path) -> Result<Self, Error> {
        let mut ours = Tera::default();
        ours.autoescape_on(Vec::<String>::new());
        ours.add_raw_templates(OURS).map_err(Error::Template)?;
        Ok(Self { ours, site: root.join(SITE), read: Mutex::default() })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.site.join(format!("{name}.tera"))
    }

    fn seen(&self) -> Seen {
        let stamp = |name| {
            let about = fs::metadata(self.path(name)).ok()?;
            Some((name, (about.len(), about.mtime(), about.mtime_nsec(), about.ino())))
        };
        OURS.iter().filter_map(|(name, _)| stamp(*name)).collect()
    }

    fn with_site(&self, seen: &Seen) -> All {
        let mut all = All { templates: self.ours.clone(), wrong: Vec::new() };
        for (name, (size, ..)) in seen {
            match self.added(&all.templates, name, *size) {
                Ok(templates) => all.templates = templates,
                Err(error) => all.wrong.push((*name, error)),
            }
        }
        all
    }

    /// The same templates with the site's one of this name.
    fn added(&self, templates: &Tera, name: &str, size: u64) -> Result<Tera, TemplateError> {
        let path = self.path(name);
        let shown = path.display().to_string();
        if size > SIZE_LIMIT {
            return Err(TemplateError { name: shown, why: "it is far too large".to_owned() });
        }
        let text =
            fs::read_to_string(&path).map_err(|error| TemplateError::new(shown.clone(), &error))?;
        let mut more = templates.clone();
        more.add_raw_template(name, &text).map_err(|error| TemplateError::new(shown, &error))?;
        Ok(more)
    }

    /// Renders a template, the site's one when there is one. Blocks.
    ///
    /// # Errors
    /// What is wrong with it, and where: also when it uses a variable that does not exist.
    pub fn render(&self, name: &'static str, context: &Context) -> Result<String, TemplateError> {
        let seen = self.seen();
        if seen.is_empty() {
            return self.render_ours(name, context);
        }
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let all = match &*read {
            Some((before, all)) if *before == seen => Arc::clone(all),
            _ => {
                let all = Arc::new(self.with_site(&seen));
                *read = Some((seen.clone(), Arc::clone(&all)));
                all
            }
        };
        drop(read);
        let shown = match seen.iter().any(|(own, _)| *own == name) {
            true => self.path(name).display().to_string(),
            false => name.to_owned(),
        };
        if let Some((_, error)) = all.wrong.iter().find(|(wrong, _)| *wrong == name) {
            return Err(TemplateError { name: error.name.clone(), why: error.why.clone() });
        }
        let rendered = all.templates.render(name, context);
        rendered.map_err(|error| TemplateError::new(shown, &error))
    }

    /// What is wrong with the site's own templates: each is rendered with made-up values. Blocks.
    pub fn problems(&self) -> Vec<TemplateError> {
        let seen = self.seen();
        let render = |(name, _): &(&'static str, Stamp)| self.render(name, &sample(name)).err();
        seen.iter().filter_map(render).collect()
    }

    /// Renders one of ours, whatever the site has.
    ///
    /// # Errors
    /// As [`Templates::render`].
    pub fn render_ours(
        &self,
        name: &'static str,
        context: &Context,
    ) -> Result<String, TemplateError> {
        let rendered = self.ours.render(name, context);
        rendered.map_err(|error| TemplateError::new(name.to_owned(), &error))
    }
}

/// Values as a template of this name gets them.
fn sample(name: &str) -> Context {
    let module = json!({ "path": "/x", "kind": "file", "name": "x" });
    let mut all = json!({
        "base": "http://192.0.2.1", "load": "http://192.0.2.1", "mac": "02:00:00:00:00:01", "bare": "020000000001",
        "server": "192.0.2.1", "retry": 10, "next": 1,
    });
    let more = match name {
        ASK => json!({ "platform": "x", "notes": ["x"], "ask": true }),
        LINUX => json!({
            "platform": "x", "notes": ["x"], "ask": true, "bundle": "x", "files": "x", "args": "x",
        }),
        LIVE => json!({
            "platform": "x", "notes": ["x"], "ask": true, "files": "x", "args": "x", "http": "x",
        }),
        SMARTOS => json!({
            "platform": "x", "notes": ["x"], "ask": true, "args": "x", "modules": [module],
        }),
        MENU => json!({
            "heading": "x", "lines": ["x"], "first": "retry", "rescue": "x",
            "platforms": [{ "name": "x", "kind": "Linux" }],
        }),
        MESSAGE => json!({ "lines": ["x"] }),
        IDENTIFY => json!({ "try": 0, "choice": "&rescue=true" }),
        GRUB => json!({
            "platform": "x", "unit": 0, "serial": true,
            "entries": [{ "title": "x", "args": "x", "modules": [module] }],
        }),
        GRUB_MESSAGE => json!({ "lines": ["x"], "unit": 0 }),
        _ => json!({}),
    };
    if let (Some(all), Value::Object(more)) = (all.as_object_mut(), more) {
        if name == CHAIN {
            all.retain(|name, _| name == "base");
        }
        all.extend(more);
    }
    let mut context = Context::new();
    for (name, value) in all.as_object().into_iter().flatten() {
        context.insert(name.clone(), value);
    }
    context
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_templates_of_a_site_are_looked_at_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let templates = Templates::new(dir.path()).unwrap();
        assert!(templates.problems().is_empty());
        fs::create_dir_all(dir.path().join(SITE)).unwrap();
        let file = |name: &str| dir.path().join(SITE).join(format!("{name}.tera"));
        // Ours with what they are given, and nothing more.
        for (name, text) in OURS {
            fs::write(file(name), text).unwrap();
        }
        assert_eq!(templates.problems().len(), 0, "{:?}", templates.problems());
        fs::write(file(MENU), "{{ args }}").unwrap();
        fs::write(file(GRUB), "{{ lines }}").unwrap();
        let problems = templates.problems();
        assert_eq!(problems.len(), 2, "{problems:?}");
        fs::write(file(LINUX), "{{").unwrap();
        let problems = templates.problems();
        assert_eq!(problems.len(), 3, "{problems:?}");
        assert!(problems[0].to_string().contains("linux.ipxe.tera"));
        // It spoils none but itself.
        assert!(templates.render(SMARTOS, &sample(SMARTOS)).is_ok());
        assert!(templates.render(LINUX, &sample(LINUX)).is_err());
    }

    fn context() -> Context {
        let mut context = Context::new();
        context.insert("base", "http://10.99.99.7");
        context
    }

    #[test]
    fn a_sites_own_template_counts_at_once_and_ours_again_when_it_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let templates = Templates::new(dir.path()).unwrap();
        let ours = templates.render(CHAIN, &context()).unwrap();
        assert!(ours.contains("http://10.99.99.7/boot.ipxe.01"), "{ours}");
        let path = dir.path().join(SITE).join("chain.ipxe.tera");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "#!ipxe\necho site <{{ base }}>\n").unwrap();
        let text = templates.render(CHAIN, &context()).unwrap();
        assert_eq!(text, "#!ipxe\necho site <http://10.99.99.7>\n");
        fs::write(&path, "#!ipxe\necho other\n").unwrap();
        assert_eq!(templates.render(CHAIN, &context()).unwrap(), "#!ipxe\necho other\n");
        fs::remove_file(&path).unwrap();
        assert_eq!(templates.render(CHAIN, &context()).unwrap(), ours);
    }

    #[test]
    fn a_wrong_template_is_named_with_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let templates = Templates::new(dir.path()).unwrap();
        let path = dir.path().join(SITE).join("chain.ipxe.tera");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        for wrong in ["#!ipxe\n\necho {{ bas }}\n", "#!ipxe\n\necho {{ base\n"] {
            fs::write(&path, wrong).unwrap();
            let error = templates.render(CHAIN, &context()).unwrap_err().to_string();
            assert!(error.contains("templates/chain.ipxe.tera"), "{error}");
            assert!(error.contains("3:") || error.contains("line 3"), "{error}");
        }
    }
}
