//! Archives that are not what they seem: nothing that lies in them is called whole unseen, and nothing
//! that merely looks like a disk keeps the rest from being seen.

use crate::archives::{built, key, noise, packed, platform, refused, tool};
use crate::*;

/// What verify says of an archive that it finds damaged: a line for each place.
fn damage(archive: &Path) -> Vec<String> {
    let found = json(&["verify", "--json", text(archive)]);
    let list = found["damage"].as_array().unwrap().clone();
    list.iter().map(|d| format!("{}: {}", d["what"], d["why"])).collect()
}

/// Unpacks an archive into a new folder.
fn unpacked(archive: &Path, folder: &Path) {
    fs::create_dir(folder).unwrap();
    tool(folder, "tar", &["-xzf", text(archive)]);
}

/// Writes the list of digests of all that is in a folder.
fn list(folder: &Path) {
    let script =
        "find . -type f ! -name SHA256SUMS -printf '%P\\n' | sort | xargs sha256sum > SHA256SUMS";
    tool(folder, "bash", &["-c", script]);
}

#[test]
fn the_files_for_a_boot_server_need_their_list_and_their_script() {
    let dir = tempfile::tempdir().unwrap();
    let (_, pxe, ..) = built(dir.path());
    let folder = dir.path().join("pxe");
    unpacked(&pxe, &folder);
    let script = folder.join("headnode.ipxe");
    let told = fs::read_to_string(&script).unwrap();
    let at = told.find("headnode.manifest=sha256:").unwrap();
    let mut silent = told.clone();
    silent.replace_range(at..at + 25 + 64, "");
    fs::write(&script, silent).unwrap();
    list(&folder);
    let found = damage(&packed(&folder, "silent-pxe.tgz"));
    assert!(found.len() == 1 && found[0].contains("does not name the manifest"), "{found:?}");
    // The last one that the kernel is told counts, and the first one that our programs find.
    let other = format!("{told}# headnode.manifest=sha256:{}\n", "0".repeat(64));
    fs::write(&script, other).unwrap();
    list(&folder);
    let found = damage(&packed(&folder, "two-pxe.tgz"));
    assert!(found.len() == 1 && found[0].contains("names another manifest"), "{found:?}");
    // A folder is no list.
    fs::remove_file(folder.join("SHA256SUMS")).unwrap();
    fs::create_dir(folder.join("SHA256SUMS")).unwrap();
    let said = refused(&["verify", text(&packed(&folder, "folder-pxe.tgz"))]);
    assert!(said.contains("nothing to check it by"), "{said}");
}

#[test]
fn a_boot_archives_hash_vouches_for_no_key() {
    let dir = tempfile::tempdir().unwrap();
    let stamp = "20260101T000000Z";
    let said = good(&["verify", text(&platform(dir.path(), stamp, "secret"))]);
    assert!(said.contains("2 other files were not checked"), "{said}");
    let platform = dir.path().join(format!("platform-{stamp}"));
    let folder = dir.path().join("key");
    let os = folder.join(format!("os/{stamp}"));
    fs::create_dir_all(&os).unwrap();
    fs::rename(platform, os.join("platform")).unwrap();
    let said = refused(&["verify", text(&packed(&folder, "os.tgz"))]);
    assert!(said.contains("nothing to check it by"), "{said}");
    // The same where it is called otherwise, with something beside it.
    fs::rename(os.join("platform"), folder.join("platform")).unwrap();
    fs::remove_dir_all(folder.join("os")).unwrap();
    good(&["verify", text(&packed(&folder, "alone.tgz"))]);
    for path in ["scripts/headnode.sh", ".joyliveusb"] {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "x").unwrap();
        let said = refused(&["verify", text(&packed(&folder, "beside.tgz"))]);
        assert!(said.contains("nothing to check it by"), "{said}");
        fs::remove_file(path).unwrap();
    }
}

#[test]
fn what_is_left_out_of_an_archive_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    let (tar, pxe, ..) = built(dir.path());
    for (archive, name) in [(tar, "key"), (pxe, "pxe")] {
        let folder = dir.path().join(name);
        unpacked(&archive, &folder);
        assert_eq!(damage(&packed(&folder, "same.tgz")), Vec::<String>::new());
        std::os::unix::fs::symlink("nothing", folder.join("link")).unwrap();
        tool(&folder, "mkfifo", &["pipe"]);
        let found = damage(&packed(&folder, "more.tgz"));
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].contains("1 links") && found[1].contains("1 entries"), "{found:?}");
    }
}

#[test]
fn what_merely_looks_like_a_disk_keeps_nothing_from_being_seen() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("boot");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("vmlinuz"), "kernel").unwrap();
    for (name, program, ending) in
        [("initrd.img", "gzip", ""), ("initrd.img", "zstd", ""), ("x.vmdk", "gzip", ".gz")]
    {
        let file = folder.join(name);
        fs::write(&file, noise()).unwrap();
        let whole = tool(&folder, program, &["-q", "-1", "-c", name]);
        fs::remove_file(&file).unwrap();
        let file = folder.join(format!("{name}{ending}"));
        // Whole, and with data behind it as initial file systems may have it.
        for behind in [&b""[..], b"and more"] {
            fs::write(&file, [&whole[..], behind].concat()).unwrap();
            let archive = packed(&folder, "boot.tgz");
            let found = json(&["inspect", "--json", text(&archive)]);
            assert_eq!(found["scheme"], "tar", "{found:#}");
            assert!(found["notes"][0].as_str().unwrap().contains("looks like a disk image"));
            assert!(good(&["diff", text(&archive), text(&archive)]).starts_with("the same in"));
            let to = dir.path().join("to");
            good(&["extract", text(&archive), "vmlinuz", "--to", text(&to)]);
            assert_eq!(fs::read(to.join("vmlinuz")).unwrap(), b"kernel");
            fs::remove_dir_all(to).unwrap();
            let said = refused(&["verify", text(&archive)]);
            assert!(said.contains("nothing to check it by"), "{said}");
            assert!(said.contains("looks like a disk image"), "{said}");
        }
        fs::remove_file(file).unwrap();
    }
}

#[test]
fn an_image_with_its_digest_beside_it_is_looked_into() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("release");
    fs::create_dir(&folder).unwrap();
    key(&folder);
    list(&folder);
    tool(&folder, "tar", &["-S", "--format=gnu", "-cf", "../release.tar", "key.img", "SHA256SUMS"]);
    let found = json(&["inspect", "--json", text(&dir.path().join("release.tar"))]);
    assert_eq!(found["inside"], "key.img", "{found:#}");
    assert_eq!(found["layout"], "a Triton headnode's key, no partitions");
}

#[test]
fn the_manifest_of_a_disk_is_none_of_an_archive() {
    let dir = tempfile::tempdir().unwrap();
    let (tar, _, image, _) = built(dir.path());
    let manifest = manifest_of(&image);
    good(&["verify", text(&image), "--manifest", text(&manifest)]);
    let said = refused(&["verify", text(&tar), "--manifest", text(&manifest)]);
    assert!(said.contains("of a disk image") && said.contains("is an archive"), "{said}");
    assert!(said.contains("leave --manifest out"), "{said}");
}
