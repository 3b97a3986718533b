//! The two lists in the root of Triton's keys (C§1.10), for people and for tools that compare keys.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;

use headnode_model::paths::KEY_PRIVATE;
use md5::{Digest, Md5};

use crate::image::Content;
use crate::image::copy::buffer_size;
use crate::platform::cache::hex;
use crate::source::platform::{Platform, SMARTOS};
use crate::tree::Tree;

/// MD5 digests of the key's files. Triton's build writes digests alone; the paths behind them, which
/// its `coal-diff` looks for, make a list that `md5sum -c` takes.
const USB_KEY: &str = "usb_key.manifest";
/// What is in the boot archive of the platform that boots: its own list.
const BOOT_ARCHIVE: &str = "boot_archive.manifest";

/// Digests of files of this machine that were read already.
#[derive(Default)]
pub(super) struct Known(HashMap<PathBuf, String>);

/// Adds the lists of everything that the tree has so far, where it has none of their names. What a
/// site changes is not in them, nor what is private, whose digests could give it away.
pub(super) fn add(first: &Platform, tree: &mut Tree, known: &mut Known) -> anyhow::Result<()> {
    let [_, archive, _] = SMARTOS;
    let list = archive.rsplit_once('/').map(|(folder, _)| format!("{folder}/{BOOT_ARCHIVE}"));
    if let Some(item) = list.and_then(|path| first.files.get(&path))
        && tree.get(BOOT_ARCHIVE).is_none()
    {
        let content = Content::File { path: item.place.clone(), size: item.size };
        tree.add_hashed(BOOT_ARCHIVE, content, item.sha256.clone())?;
    }
    if tree.get(USB_KEY).is_some() {
        return Ok(());
    }
    let private = format!("{KEY_PRIVATE}/");
    let mut lines = String::new();
    for (path, content) in tree.files() {
        if !content.is_personal() && !path.starts_with(&private) {
            let digest = known.digest(&content).map_err(|source| {
                anyhow::Error::new(source).context(format!("reading the content of {path:?}"))
            })?;
            lines.push_str(&format!("{digest}  ./{path}\n"));
        }
    }
    tree.add(USB_KEY, lines)?;
    Ok(())
}

impl Known {
    fn digest(&mut self, content: &Content) -> io::Result<String> {
        let place = match content {
            Content::File { path, .. } => Some(path),
            Content::Bytes(_) | Content::Personal(_) => None,
        };
        if let Some(digest) = place.and_then(|path| self.0.get(path)) {
            return Ok(digest.clone());
        }
        let digest = md5(content)?;
        if let Some(path) = place {
            self.0.insert(path.clone(), digest.clone());
        }
        Ok(digest)
    }
}

fn md5(content: &Content) -> io::Result<String> {
    let mut hash = Md5::new();
    let mut data = content.open()?;
    let mut buffer = vec![0; buffer_size(content)];
    loop {
        match data.read(&mut buffer)? {
            0 => return Ok(hex(&hash.finalize())),
            count => hash.update(buffer.get(..count).unwrap_or_default()),
        }
    }
}
