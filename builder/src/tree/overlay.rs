//! Overlays: folders of the source tree whose files go into the image as they are, or rendered.
//!
//! A file `<path>.tera` is a template (Tera); it becomes `<path>`. A variable that the template
//! uses but nobody defined is an error that names file and line.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::image::Content;

/// Why an overlay cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something could not be read.
    #[error("reading {path}: {source}")]
    Read {
        /// What.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A template is wrong.
    #[error("rendering the template {path}{line}: {message}",
        line = .line.map(|line| format!(", line {line}")).unwrap_or_default())]
    Template {
        /// The template.
        path: PathBuf,
        /// The line, from 1, when it is known.
        line: Option<usize>,
        /// What is wrong with it.
        message: String,
    },
    /// A name is no UTF-8 or the file is of a kind that cannot be stored.
    #[error("{path}: {why}")]
    Kind {
        /// The file.
        path: PathBuf,
        /// Why it cannot be used.
        why: &'static str,
    },
    /// A file and its template are both there.
    #[error("the overlays hold {0:?} more than once")]
    Twice(String),
}

/// A file of an overlay.
#[derive(Debug, Clone)]
pub enum Entry {
    /// A regular file.
    File {
        /// What is in it, rendered.
        content: Content,
        /// Whether it may be run.
        executable: bool,
    },
    /// A symbolic link with this target.
    Symlink(String),
}

/// Reads the overlay in `folder`, which may be absent, into `entries`, by path below it.
///
/// # Errors
/// See [`Error`].
pub fn read(
    folder: &Path,
    context: &tera::Context,
    entries: &mut BTreeMap<String, Entry>,
) -> Result<(), Error> {
    if folder.exists() { read_folder(folder, "", context, entries) } else { Ok(()) }
}

fn read_folder(
    folder: &Path,
    prefix: &str,
    context: &tera::Context,
    entries: &mut BTreeMap<String, Entry>,
) -> Result<(), Error> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::Read { path, source }
    };
    for item in fs::read_dir(folder).map_err(failed(folder))? {
        let item = item.map_err(failed(folder))?;
        let path = item.path();
        let kind = |why| Error::Kind { path: path.clone(), why };
        let name = item.file_name();
        let Some(name) = name.to_str() else { return Err(kind("its name is not UTF-8")) };
        let inside = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}/{name}") };
        let meta = fs::symlink_metadata(&path).map_err(failed(&path))?;
        let (inside, entry) = if meta.is_dir() {
            read_folder(&path, &inside, context, entries)?;
            continue;
        } else if meta.is_symlink() {
            let target = fs::read_link(&path).map_err(failed(&path))?;
            let target = target.to_str().ok_or_else(|| kind("its target is not UTF-8"))?;
            (inside, Entry::Symlink(target.to_owned()))
        } else if meta.is_file() {
            let executable = meta.permissions().mode() & 0o111 != 0;
            match inside.strip_suffix(".tera") {
                Some(inside) => {
                    let text = fs::read_to_string(&path).map_err(failed(&path))?;
                    let content = render(&path, &text, context)?.into();
                    (inside.to_owned(), Entry::File { content, executable })
                }
                None => {
                    let content = Content::of_file(&path).map_err(failed(&path))?;
                    (inside, Entry::File { content, executable })
                }
            }
        } else {
            return Err(kind("only files, folders and symbolic links can be part of an overlay"));
        };
        if entries.insert(inside.clone(), entry).is_some() {
            return Err(Error::Twice(inside));
        }
    }
    Ok(())
}

/// Renders a template; `path` is for errors.
///
/// # Errors
/// When it is wrong or uses a variable that is not defined.
pub fn render(path: &Path, text: &str, context: &tera::Context) -> Result<String, Error> {
    tera::Tera::one_off(text, context, false).map_err(|error| {
        let (line, message) = match error.kind() {
            tera::ErrorKind::SyntaxError(report) | tera::ErrorKind::RenderingError(report) => {
                (Some(report.span().start_line), report.message().to_owned())
            }
            _ => (None, error.to_string()),
        };
        Error::Template { path: path.to_owned(), line, message }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_links_and_templates_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let wants = dir.path().join("etc/systemd/system/multi-user.target.wants");
        fs::create_dir_all(&wants).unwrap();
        std::os::unix::fs::symlink("../a.service", wants.join("a.service")).unwrap();
        fs::write(dir.path().join("etc/motd.tera"), "version {{ version }}\n").unwrap();
        let mut context = tera::Context::new();
        context.insert("version", "1.2");
        let mut entries = BTreeMap::new();
        read(dir.path(), &context, &mut entries).unwrap();
        let Some(Entry::File { content: Content::Bytes(bytes), executable: false }) =
            entries.get("etc/motd")
        else {
            panic!("{entries:?}");
        };
        assert_eq!(&bytes[..], b"version 1.2\n");
        let link = &entries["etc/systemd/system/multi-user.target.wants/a.service"];
        assert!(matches!(link, Entry::Symlink(target) if target == "../a.service"));
    }

    #[test]
    fn an_undefined_variable_names_file_and_line() {
        let text = "first\nsecond {{ nobody_knows }}\n";
        let error = render(Path::new("x/y.tera"), text, &tera::Context::new()).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("x/y.tera, line 2"), "{text}");
        assert!(text.contains("nobody_knows"), "{text}");
    }
}
