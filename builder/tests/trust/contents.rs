//! Other people's images, and taking files out of them.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use crate::*;

#[test]
fn someone_elses_images_are_looked_into() {
    let dir = tempfile::tempdir().unwrap();
    let image = smartos(dir.path(), &triton_files(), 0);
    let found = json(&["inspect", "--json", text(&image)]);
    assert_eq!(found["layout"], "a Triton headnode's key, illumos disk layout 2 (GPT)");
    assert_eq!(found["platforms"][0]["stamp"], "20260101T000000Z");
    assert_eq!(found["platforms"][0]["os"], "smartos");
    assert_eq!(found["platforms"][0]["hash"], false);
    assert_eq!(found["platforms"][0]["size"], 14_000);
    assert_eq!(found["zones"], serde_json::json!(["imgapi", "sapi"]));
    assert_eq!(found["images"], 1);
    assert_eq!(found["loader_conf"]["console"], "ttyb");
    assert!(found["loader_conf"].get("root_shadow").is_none());
    let loaders: Vec<_> = found["loaders"]
        .as_array()
        .unwrap()
        .iter()
        .map(|l| (l["what"].as_str().unwrap(), l["place"].as_str().unwrap()))
        .collect();
    assert!(loaders.contains(&("illumos stage 1 (layout 2)", "MBR")), "{loaders:?}");
    assert!(loaders.contains(&("illumos stage 2 (multiboot)", "boot:")), "{loaders:?}");
    assert!(loaders.contains(&("illumos loader", "boot/loader")), "{loaders:?}");
    assert_eq!(found["partitions"][2]["kind"], "illumos root");
    assert_eq!(found["partitions"][2]["file_system"]["label"], "SMARTOSBOOT");
    let shown = good(&["inspect", text(&image)]);
    assert!(
        shown.contains("illumos boot") && shown.contains("boot archive has no hash"),
        "{shown}"
    );
    // Enlarged, so that the backup of the table is not at the end any more.
    fs::File::options().write(true).open(&image).unwrap().set_len(500_000_000).unwrap();
    let found = json(&["inspect", "--json", text(&image)]);
    assert!(found["notes"][0].as_str().unwrap().contains("backup"), "{found:#}");
    assert_eq!(found["zones"].as_array().unwrap().len(), 2);
}

#[test]
fn a_disk_made_by_other_programs_is_looked_into() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("mbr.img");
    let file = fs::File::create(&image).unwrap();
    file.set_len(80 << 20).unwrap();
    let at = format!("{}@@1M", text(&image));
    for (program, args) in [
        ("sgdisk", vec!["-n", "1:2048", "-t", "1:0c01", "--gpttombr=1", text(&image)]),
        (
            "mkfs.fat",
            vec!["-F", "32", "-s", "1", "-n", "OTHER", "--offset", "2048", text(&image), "80800"],
        ),
        ("mmd", vec!["-i", &at, "::platform"]),
        ("mcopy", vec!["-i", &at, "/etc/hostname", "::platform/Name"]),
    ] {
        let output = Command::new(program).args(&args).output();
        let output =
            output.unwrap_or_else(|error| panic!("{program}: {error}; ci/setup installs it"));
        assert!(output.status.success(), "{program}: {}{}", stdout(&output), stderr(&output));
    }
    let found = json(&["inspect", "--json", text(&image)]);
    assert_eq!(found["scheme"], "mbr", "{found:#}");
    assert_eq!(found["partitions"][0]["file_system"]["label"], "OTHER");
    assert_eq!(found["largest"][0]["path"], "platform/Name");
    let nothing = dir.path().join("nothing");
    fs::write(&nothing, vec![0; 100_000]).unwrap();
    let output = headnode(&["inspect", text(&nothing)]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("no disk image"), "{}", stderr(&output));
}

#[test]
fn files_are_taken_out_and_nothing_else_is_touched() {
    let dir = tempfile::tempdir().unwrap();
    let image = smartos(dir.path(), &triton_files(), 0);
    let to = dir.path().join("to");
    let list = good(&["extract", "--list", text(&image), "boot"]);
    assert!(list.contains("boot/loader.conf") && !list.contains("zones"), "{list}");
    assert!(!to.exists());
    good(&["extract", text(&image), "os", "boot/pmbr", "--to", text(&to)]);
    assert_eq!(fs::read(to.join(STAMP_UNIX)).unwrap(), vec![7; 5000]);
    assert!(to.join("boot/pmbr").is_file() && !to.join("boot/loader").exists());
    fs::write(to.join("boot/pmbr"), "mine").unwrap();
    let again = headnode(&["extract", text(&image), "boot/pmbr", "--to", text(&to)]);
    assert_eq!(again.status.code(), Some(1));
    assert!(stderr(&again).contains("--force"), "{}", stderr(&again));
    assert_eq!(fs::read(to.join("boot/pmbr")).unwrap(), b"mine");
    good(&["extract", text(&image), "boot/pmbr", "--to", text(&to), "--force"]);
    assert_eq!(fs::read(to.join("boot/pmbr")).unwrap(), b"x");
    // A link within the folder leads nowhere, forced or not.
    let outside = dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    symlink(&outside, to.join("zones")).unwrap();
    symlink(outside.join("loader"), to.join("boot/loader")).unwrap();
    let output = headnode(&["extract", text(&image), "zones", "--to", text(&to), "--force"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("symbolic link"), "{}", stderr(&output));
    good(&["extract", text(&image), "boot/loader", "--to", text(&to), "--force"]);
    assert_eq!(fs::read(to.join("boot/loader")).unwrap(), b"loader");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    let missing = headnode(&["extract", text(&image), "a/b", "boot", "c", "--to", text(&to)]);
    assert!(stderr(&missing).contains("no a/b, no c"), "{}", stderr(&missing));
    let left = fs::read_dir(to.join("boot")).unwrap().map(|e| e.unwrap().file_name());
    assert!(left.into_iter().all(|name| !name.to_str().unwrap().starts_with('.')));
}

#[test]
fn completions_and_pages_are_those_of_the_command() {
    let bash = good(&["completion", "bash"]);
    let checked = Command::new("bash").args(["-n", "-c", &bash]).output().unwrap();
    assert!(checked.status.success(), "{}", stderr(&checked));
    assert!(bash.contains("extract") && bash.contains("--public-key"));
    let dir = tempfile::tempdir().unwrap();
    good(&["man", "--to", text(dir.path())]);
    for page in ["headnode.1", "headnode-verify.1", "headnode-key-new.1"] {
        let page = dir.path().join(page);
        let shown = Command::new("man").args(["--warnings", "-l", text(&page)]).output().unwrap();
        assert!(shown.status.success() && shown.stderr.is_empty(), "{}", stderr(&shown));
    }
    let page = good(&["man", "key", "new"]);
    assert!(page.contains("no\\-passphrase"), "{page}");
    assert_eq!(headnode(&["man", "fly"]).status.code(), Some(1));
    for verb in ["verify", "inspect", "diff", "extract", "key", "completion", "man"] {
        assert!(good(&[verb, "--help"]).contains("Exit codes: 0 "), "{verb}");
    }
}
