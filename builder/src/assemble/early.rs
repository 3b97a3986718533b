//! What no key can hold, and what an image will not be able to do, told before anything is made.

use std::collections::BTreeMap;
use std::fs;

use super::{Inputs, boot_archive};
use crate::image::fat::{self, Error, names};
use crate::source::platform::{Kind, Platform};
use crate::spec::{Format, Spec};
use crate::tree::Tree;

/// Checks the names and sizes of a spec's extra files for FAT, when a disk is to be made. What else
/// may be wrong with them is found when the key is laid out.
///
/// # Errors
/// When FAT cannot hold one of them.
pub fn check(spec: &Spec) -> Result<(), Error> {
    let disk = |format: &Format| matches!(format, Format::Usb | Format::Qcow2 | Format::Vmdk);
    if !spec.format.is_empty() && !spec.format.iter().any(disk) {
        return Ok(());
    }
    let mut folded = BTreeMap::new();
    for (path, file) in &spec.parts.extra_files {
        if let Some(why) = path.split('/').find_map(names::refuse) {
            return Err(Error::Name { path: path.clone(), why });
        }
        if let Some(other) = folded.insert(names::folded(path), path) {
            return Err(Error::Duplicate(other.clone(), path.clone()));
        }
        // A file that is not there is told by who reads it.
        let size = fs::metadata(file).map_or(0, |meta| meta.len());
        if size > fat::MAX_FILE {
            return Err(Error::FileTooLarge { path: path.clone(), size });
        }
    }
    Ok(())
}

/// Warns of installers of SmartOS that will start, but not install a machine that boots: what is
/// missing cannot be seen in the parts, or cannot be made here.
///
/// # Errors
/// When the boot archive is to be added to, but is damaged.
pub(super) fn warn(inputs: &Inputs, first: &Platform) -> anyhow::Result<()> {
    let wants = |format: Format| inputs.formats.contains(&format);
    if first.kind != Kind::SmartOs {
        return Ok(());
    }
    if inputs.boot.is_none() && (wants(Format::Iso) || wants(Format::Pxe)) {
        tracing::warn!(
            "iso and pxe install SmartOS onto a pool, which only the illumos loader can boot: give it \
             with --boot"
        );
    }
    if wants(Format::Pxe)
        && let Some(why) = boot_archive::refuses(first)?
    {
        // See `image::pxe`.
        tracing::warn!(
            "pxe installs only from a platform whose boot archive holds /scripts and /config.inc. \
             They cannot be added to this one, which is taken as it is: {why}"
        );
    }
    Ok(())
}

/// What first boot of a SmartOS headnode runs from its key, by the platform's own names (C§1.5, C§1.8).
const SCRIPTS: [&str; 2] = ["scripts/prompt-config.sh", "scripts/headnode.sh"];
/// What the second of them unpacks and copies (C§1.10). Triton's repository does not hold it: its
/// makefile makes it there.
const TOOLS: [&str; 2] = ["tools.tar.gz", "cn_tools.tar.gz"];

/// Warns of a SmartOS key that boots, but cannot become a headnode.
pub(super) fn warn_of_scripts(kind: Kind, tree: &Tree) {
    if kind == Kind::SmartOs
        && let Some(what) = lacks(|path| tree.get(path).is_some())
    {
        tracing::warn!("{what}");
    }
}

/// What a key lacks to become a headnode, and what to do.
fn lacks(has: impl Fn(&str) -> bool) -> Option<String> {
    let missing =
        |of: [&str; 2]| of.into_iter().filter(|path| !has(path)).collect::<Vec<_>>().join(" and ");
    let (scripts, tools) = (missing(SCRIPTS), missing(TOOLS));
    let make = format!(
        "Run `make {}` in the checkout of sdc-headnode, which has them only after that, or give them \
         as the entries tools and cn_tools of \"files\"",
        TOOLS.join(" ")
    );
    let first = match (scripts.is_empty(), tools.is_empty()) {
        (true, true) => return None,
        (true, false) => {
            return Some(format!(
                "the key lacks {tools}: SmartOS boots from it, but setting a headnode up fails, because \
                 scripts/headnode.sh wants them. {make}"
            ));
        }
        (false, _) => format!(
            "the key lacks {scripts}: SmartOS boots from it, but nothing sets a headnode up. Give \
             Triton's own with \"sdc-headnode\" in the build.spec, a checkout or tarball of its \
             repository sdc-headnode, or single files with \"extra-files\""
        ),
    };
    Some(match tools.is_empty() {
        true => first,
        false => format!("{first}. It lacks {tools}, too. {make}"),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::image::Content;
    use crate::image::fat::{Format as Volume, Plan};

    #[test]
    fn what_a_headnode_lacks_is_told_once() {
        let all = SCRIPTS.into_iter().chain(TOOLS);
        let without = |gone: &[&str]| {
            let has: Vec<&str> = all.clone().filter(|path| !gone.contains(path)).collect();
            lacks(|path| has.contains(&path))
        };
        assert_eq!(without(&[]), None);
        let told = without(&TOOLS[1..]).unwrap();
        assert!(told.starts_with("the key lacks cn_tools.tar.gz: "), "{told}");
        let make = "`make tools.tar.gz cn_tools.tar.gz`";
        assert!(told.contains(make) && !told.contains("nothing sets"), "{told}");
        let told = without(&SCRIPTS[1..]).unwrap();
        assert!(told.starts_with("the key lacks scripts/headnode.sh: "), "{told}");
        assert!(!told.contains("make") && !told.contains("tools"), "{told}");
        let told = without(&["scripts/headnode.sh", "tools.tar.gz"]).unwrap();
        assert!(told.contains("It lacks tools.tar.gz, too") && told.contains(make), "{told}");
    }

    proptest! {
        /// Nothing is refused early that FAT would take.
        #[test]
        fn only_what_fat_refuses(paths in proptest::collection::btree_set("[ab./ :ßsA]{1,4}|aux|com1.x", 1..6)) {
            let mut spec = Spec::default();
            let files = paths.iter().map(|path| (path.clone(), "/nonexistent/file".into()));
            spec.parts.extra_files = files.collect();
            let volume = Volume {
                label: "KEY".to_owned(),
                id: 1,
                sectors: 200_000,
                hidden: 0,
                time: 0,
            };
            let content = |path: &String| (path.clone(), Content::from("x"));
            let planned = Plan::new(volume, paths.iter().map(content));
            if let Err(refused) = check(&spec) {
                prop_assert!(planned.is_err(), "{refused}");
            }
        }
    }

    #[test]
    fn discs_take_what_fat_does_not() {
        let mut spec = Spec { format: vec![Format::Iso], ..Spec::default() };
        spec.parts.extra_files.insert("aux".to_owned(), "/nonexistent/file".into());
        check(&spec).unwrap();
        spec.format.push(Format::Qcow2);
        assert!(check(&spec).unwrap_err().to_string().contains("\"aux\""));
    }
}
