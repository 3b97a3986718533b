//! What changed, and the pages that tell of the verbs.

use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::*;

#[test]
fn what_changed_between_two_images() {
    let dir = tempfile::tempdir().unwrap();
    let (old, _) = Parts::default().build(dir.path(), "old.img", &[]);
    let (same, _) = Parts::default().build(dir.path(), "same.img.zst", &["--compress", "zstd"]);
    let output = headnode(&["diff", text(&old), text(&same)]);
    assert_eq!(output.status.code(), Some(0), "{}", stdout(&output));
    assert!(stdout(&output).starts_with("the same in "), "{}", stdout(&output));
    let overlays = dir.path().join("overlays");
    let tree = Path::new(env!("CARGO_MANIFEST_DIR")).join("../overlays");
    let copied = Command::new("cp").arg("-r").arg(tree).arg(&overlays).status().unwrap();
    assert!(copied.success());
    let unit = overlays.join("common/usr/lib/systemd/system/sdc-agent.service");
    let changed = fs::read_to_string(&unit).unwrap() + "# changed\n";
    fs::write(&unit, changed).unwrap();
    let mut initrd = Parts::default().initrd;
    initrd[400_000] ^= 1;
    let parts = Parts {
        stamp: "20260203T030405Z",
        initrd,
        packages: r#"{"stamp": "20260203T030405Z", "suite": "bookworm", "packages": [
            {"name": "bash", "version": "5.2.15-3", "architecture": "amd64", "sha256": ""},
            {"name": "vim", "version": "9.0", "architecture": "amd64", "sha256": ""}]}"#,
        answers: r#"{"datacenter_name": "dc2"}"#,
        overlays: Some(overlays.clone()),
    };
    let (new, _) = parts.build(dir.path(), "new.img", &["--timeout", "7"]);
    let output = headnode(&["diff", "--json", text(&old), text(&new)]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let diff: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(diff["packages"]["changed"]["bash"]["new"], "5.2.15-3");
    assert_eq!(diff["packages"]["added"]["vim"], "9.0");
    assert_eq!(diff["packages"]["removed"]["zsh"], "5.9-4");
    assert!(diff["platforms"]["added"]["20260203T030405Z"].is_string(), "{diff:#}");
    let changed = &diff["files"]["changed"];
    let initrd = &changed["os/<platform>/platform/x86_64/initrd"];
    assert_eq!(initrd["size"]["new"], 500_000);
    assert!(changed.get("os/<platform>/platform/x86_64/vmlinuz").is_none());
    let grub = changed["boot/grub/grub.cfg"]["diff"].as_str().unwrap();
    assert!(grub.contains("-set timeout=2\n+set timeout=7\n"), "{grub}");
    assert!(!grub.contains("20260"), "the stamp is no change: {grub}");
    let inner = "bundle/node.cpio.zst!usr/lib/systemd/system/sdc-agent.service";
    let unit = changed[inner]["diff"].as_str().unwrap();
    assert!(unit.ends_with("+# changed\n") && !unit.contains("\n-"), "{unit}");
    assert!(changed.get("bundle/node.cpio.zst!usr/lib/headnode/sdc-agent").is_none());
    let answers = &changed["private/answers.json"];
    assert!(answers["diff"].is_null() && !diff.to_string().contains("dc2"), "{answers}");
    let table = stdout(&headnode(&["diff", text(&old), text(&new)]));
    assert!(table.contains("~ bash  5.2.15-2 → 5.2.15-3"), "{table}");
    let notes = stdout(&headnode(&["diff", "--notes", text(&old), text(&new)]));
    assert!(notes.contains("- `bash`: `5.2.15-2` → `5.2.15-3`\n"), "{notes}");
    assert!(notes.contains("```diff\n"), "{notes}");
    let broken = headnode(&["diff", text(&old), "/nonexistent.img"]);
    assert_eq!(broken.status.code(), Some(2));
}

#[test]
fn secrets_of_anybody_s_archive_are_not_shown() {
    let dir = tempfile::tempdir().unwrap();
    let made = ["old", "new"].map(|name| {
        let root = dir.path().join(name);
        let secrets =
            ["private/root.password.20260101t000000z", "private/site.key", "root.password"];
        for path in secrets.into_iter().chain(["banner"]) {
            let path = root.join("x").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("content of {name}\n")).unwrap();
        }
        let tar = dir.path().join(format!("{name}.tgz"));
        let done = Command::new("tar").args(["-czf", text(&tar), "-C", text(&root), "x"]).status();
        assert!(done.unwrap().success());
        tar
    });
    let output = headnode(&["diff", text(&made[0]), text(&made[1])]);
    let told = stdout(&output);
    assert_eq!(output.status.code(), Some(1), "{told}{}", stderr(&output));
    assert!(told.contains("4 changed") && told.contains("x/private/site.key"), "{told}");
    assert!(told.contains("+++ b/x/banner\n"), "{told}");
    assert_eq!(told.matches("content of new").count(), 1, "{told}");
    assert_eq!(told.matches("content of old").count(), 1, "{told}");
}
