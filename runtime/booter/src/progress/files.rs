//! What a file is for, from its name.

use headnode_model::booter::Stage;
use headnode_model::paths;

/// The stage that a machine reaches with a file; `None` for files that say nothing about it.
pub(super) fn stage(path: &str) -> Option<Stage> {
    let path = path.split(['?', '#']).next().unwrap_or_default().to_ascii_lowercase();
    let name = path.rsplit(['/', '\\']).next().unwrap_or_default();
    let begins = |words: &[&str]| words.iter().any(|word| name.starts_with(word));
    let ends = |words: &[&str]| words.iter().any(|word| name.ends_with(word));
    if path.contains("extra/agents/") {
        return Some(Stage::Bundle);
    }
    if path.ends_with(paths::EXTRA_NODE_CONFIG) {
        return Some(Stage::Agent);
    }
    // A digest beside a file, and a script's own request, which is told as a script.
    if ends(&[".hash", ".sha1", ".sha256", ".sig"]) || name.starts_with("boot.ipxe") {
        return None;
    }
    if name.starts_with("menu.lst") {
        return Some(Stage::Script);
    }
    if begins(&["boot_archive", "initrd", "initramfs", "ramdisk"])
        || ends(&[".squashfs", ".iso", ".wim", ".cpio", ".img", "cpio.zst", "cpio.gz"])
    {
        return Some(Stage::Archive);
    }
    if begins(&["vmlinu", "bzimage", "zimage", "kernel", "linux"])
        || matches!(name, "unix" | "image" | "xen" | "xen.gz")
    {
        return Some(Stage::Kernel);
    }
    if ends(&[".kpxe", ".pxe", ".kkpxe", ".efi", ".0", ".lkrn"]) || begins(&["pxegrub", "grub"]) {
        return Some(Stage::Loader);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn files_of_a_boot() {
        for (path, expected) in [
            ("undionly.kpxe", Some(Stage::Loader)),
            ("/snponly.efi", Some(Stage::Loader)),
            ("boot.ipxe.0190B8D0010203", None),
            ("menu.lst.0190B8D0010203", Some(Stage::Script)),
            ("/os/20260101T000000Z/platform/i86pc/kernel/amd64/unix", Some(Stage::Kernel)),
            ("/os/20260101T000000Z/platform/x86_64/vmlinuz", Some(Stage::Kernel)),
            ("/os/20260101T000000Z/platform/i86pc/amd64/boot_archive", Some(Stage::Archive)),
            ("/os/20260101T000000Z/platform/i86pc/amd64/boot_archive.hash", None),
            ("/os/20260101T000000Z/platform/x86_64/initrd?x=1", Some(Stage::Archive)),
            ("/extra/agents/node.cpio.zst", Some(Stage::Bundle)),
            ("/extra/joysetup/node.config", Some(Stage::Agent)),
            ("", None),
        ] {
            assert_eq!(stage(path), expected, "{path}");
        }
    }

    proptest! {
        #[test]
        fn no_name_panics(path: String) {
            stage(&path);
        }
    }
}
