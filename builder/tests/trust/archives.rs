//! Archives, and images that are packed in any way: all verbs that look into images take them.

use std::os::unix::fs::FileExt as _;

use crate::*;
use sha1::Digest as _;

/// Runs another program in a folder; what it wrote.
pub fn tool(dir: &Path, program: &str, args: &[&str]) -> Vec<u8> {
    let output = Command::new(program).args(args).current_dir(dir).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}; ci/setup installs it"));
    assert!(output.status.success(), "{program} {args:?}: {}", stderr(&output));
    output.stdout
}

/// Looks at what a verb says when it must fail; one line, and no panic.
pub fn refused(args: &[&str]) -> String {
    let output = headnode(args);
    let code = if args[0] == "diff" { 2 } else { 1 };
    assert_eq!(output.status.code(), Some(code), "{args:?}: {}", stdout(&output));
    let said = stderr(&output);
    let errors: Vec<_> = said.lines().filter(|line| line.starts_with("headnode: ")).collect();
    assert_eq!(errors.len(), 1, "{said}");
    assert!(!said.contains("panicked"), "{said}");
    errors[0].to_owned()
}

/// A file system with the files of Triton's keys; smaller than a disk.
pub fn key(dir: &Path) -> PathBuf {
    let files = triton_files().into_iter();
    let files: Vec<(String, Content)> =
        files.map(|(path, bytes)| (path.to_owned(), bytes.to_vec().into())).collect();
    let sectors = 70_000;
    let format = Format { label: "KEY".into(), id: 1, sectors, hidden: 0, time: 1_767_225_600 };
    let mut fat = Vec::new();
    Plan::new(format, files).unwrap().write(&mut fat).unwrap();
    let path = dir.join("key.img");
    fs::write(&path, fat).unwrap();
    tool(dir, "fallocate", &["-d", text(&path)]);
    path
}

const TOOLS: [(&str, &str); 4] = [("gzip", "gz"), ("zstd", "zst"), ("xz", "xz"), ("bzip2", "bz2")];

#[test]
fn packed_images_of_other_programs_are_looked_into() {
    let dir = tempfile::tempdir().unwrap();
    let image = key(dir.path());
    for (program, ending) in TOOLS {
        tool(dir.path(), program, &["-k", "-q", "-1", text(&image)]);
        let packed = dir.path().join(format!("key.img.{ending}"));
        let found = json(&["inspect", "--json", text(&packed)]);
        assert_eq!(found["compression"], program, "{found:#}");
        assert_eq!(found["layout"], "a Triton headnode's key, no partitions");
        assert!(good(&["diff", text(&image), text(&packed)]).starts_with("the same in"));
        let to = dir.path().join(format!("to-{ending}"));
        good(&["extract", text(&packed), "boot/loader", "--to", text(&to)]);
        assert_eq!(fs::read(to.join("boot/loader")).unwrap(), b"loader");
        // A part of it, and a damaged one.
        let bytes = fs::read(&packed).unwrap();
        let broken = dir.path().join("broken");
        fs::write(&broken, &bytes[..bytes.len() - 5]).unwrap();
        for verb in ["inspect", "verify"] {
            let said = refused(&[verb, text(&broken)]);
            assert!(said.contains("ends too early") && said.contains(program), "{said}");
        }
        let mut bytes = bytes;
        let middle = bytes.len() / 2;
        bytes[middle..middle + 40].fill(0x55);
        fs::write(&broken, &bytes).unwrap();
        let said = refused(&["inspect", text(&broken)]);
        assert!(said.contains("data is damaged") || said.contains("too early"), "{said}");
        // What has no end is given up.
        let endless =
            headnode::image::reader::ImageFile::open_within(&packed, 1 << 20, &mut |_| ());
        assert!(endless.is_err_and(|error| error.to_string().contains("larger than")));
    }
}

/// Signals for too large files are ignored, so that writing fails as on a full disk.
#[test]
fn a_lack_of_room_is_one_clear_error() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("a.img");
    fs::write(&image, noise()).unwrap();
    tool(dir.path(), "xz", &["-0", "-k", text(&image)]);
    let packed = dir.path().join("a.img.xz");
    tool(dir.path(), "tar", &["-czf", "a.tgz", "a.img"]);
    for packed in [packed, dir.path().join("a.tgz")] {
        let script = "trap '' XFSZ; ulimit -f 100; exec \"$0\" inspect \"$1\"";
        let output = Command::new("bash")
            .args(["-c", script, env!("CARGO_BIN_EXE_headnode"), text(&packed)])
            .env("TMPDIR", dir.path())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1));
        let said = stderr(&output);
        assert!(said.contains(text(dir.path())) && said.contains("TMPDIR"), "{said}");
    }
    // Nothing stays.
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
}

pub fn noise() -> Vec<u8> {
    (0..1_000_000_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8 ^ (n >> 9) as u8)
        .collect()
}

#[test]
fn a_disk_image_in_an_archive_is_looked_into() {
    let dir = tempfile::tempdir().unwrap();
    let image = key(dir.path());
    fs::create_dir(dir.path().join("usb")).unwrap();
    fs::rename(&image, dir.path().join("usb/usb-1.img")).unwrap();
    fs::write(dir.path().join("usb/README"), "read me").unwrap();
    let image = dir.path().join("usb/usb-1.img");
    for (name, options) in [
        ("a.tgz", &["-czf"][..]),
        ("sparse.tgz", &["-S", "--format=gnu", "-czf"]),
        ("plain.tar", &["-cf"]),
        ("pax.tar.xz", &["-I", "xz -0", "--format=pax", "-cf"]),
    ] {
        let mut args = options.to_vec();
        args.extend([name, "usb"]);
        tool(dir.path(), "tar", &args);
        let archive = dir.path().join(name);
        let found = json(&["inspect", "--json", text(&archive)]);
        assert_eq!(found["inside"], "usb/usb-1.img", "{name}: {found:#}");
        assert_eq!(found["layout"], "a Triton headnode's key, no partitions");
        assert!(good(&["inspect", text(&archive)]).contains("in the archive as usb/usb-1.img"));
        assert!(good(&["diff", text(&image), text(&archive)]).starts_with("the same in"));
        let to = dir.path().join(format!("to-{name}"));
        good(&["extract", text(&archive), "boot/loader", "--to", text(&to)]);
        assert_eq!(fs::read(to.join("boot/loader")).unwrap(), b"loader");
        // There is nothing to check it by, as of the image itself.
        let said = refused(&["verify", text(&archive)]);
        assert!(said.contains("no manifest beside the image"), "{said}");
    }
    // Packed by itself, and two of them.
    tool(dir.path(), "bzip2", &["-k", "-1", text(&image)]);
    tool(dir.path(), "tar", &["-cf", "packed.tar", "usb/usb-1.img.bz2"]);
    let packed = dir.path().join("packed.tar");
    assert_eq!(json(&["inspect", "--json", text(&packed)])["inside"], "usb/usb-1.img.bz2");
    tool(dir.path(), "tar", &["-cf", "two.tar", "usb"]);
    let two = good(&["inspect", text(&dir.path().join("two.tar"))]);
    assert!(two.contains("several disk images") && two.contains("usb/README"), "{two}");
    // As PAX has sparse files, they are not read; it is told what to do.
    tool(dir.path(), "tar", &["-S", "--format=pax", "-cf", "pax-sparse.tar", "usb/usb-1.img"]);
    let said = refused(&["inspect", text(&dir.path().join("pax-sparse.tar"))]);
    assert!(said.contains("tar xf"), "{said}");
}

/// A platform of SmartOS as its builds publish it.
pub fn platform(dir: &Path, stamp: &str, password: &str) -> PathBuf {
    let top = dir.join(format!("platform-{stamp}"));
    let archive = vec![stamp.as_bytes()[7]; 700_000];
    let hash: String = sha1::Sha1::digest(&archive).iter().map(|b| format!("{b:02x}")).collect();
    for (path, content) in [
        ("i86pc/kernel/amd64/unix", &[7; 5000][..]),
        ("i86pc/amd64/boot_archive", &archive),
        ("i86pc/amd64/boot_archive.hash", format!("{hash}\n").as_bytes()),
        ("root.password", password.as_bytes()),
    ] {
        let path = top.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    let name = format!("platform-{stamp}.tgz");
    tool(dir, "tar", &["-czf", &name, &format!("platform-{stamp}")]);
    dir.join(name)
}

#[test]
fn platforms_are_looked_into() {
    let dir = tempfile::tempdir().unwrap();
    let [old, new] = ["20260101T000000Z", "20260202T000000Z"];
    let (old, new) =
        (platform(dir.path(), old, "one-secret\n"), platform(dir.path(), new, "two\n"));
    let found = json(&["inspect", "--json", text(&old)]);
    assert_eq!(found["layout"], "a platform, tar");
    assert_eq!(found["scheme"], "tar");
    assert_eq!(found["platforms"][0]["stamp"], "20260101T000000Z");
    assert_eq!(found["platforms"][0]["hash"], true);
    assert!(good(&["verify", text(&old)]).contains("whole; 1 files"));
    let output = headnode(&["diff", text(&old), text(&new)]);
    assert_eq!(output.status.code(), Some(1));
    let said = stdout(&output);
    assert!(said.contains("1 the same") && said.contains("<platform>/root.password"), "{said}");
    assert!(!said.contains("secret"), "{said}");
    let to = dir.path().join("to");
    good(&["extract", text(&old), "--to", text(&to)]);
    let top = "platform-20260101T000000Z";
    tool(dir.path(), "diff", &["-r", &format!("to/{top}"), top]);
    // Another boot archive.
    let archive = dir.path().join("platform-20260101T000000Z/i86pc/amd64/boot_archive");
    fs::File::options().write(true).open(archive).unwrap().write_all_at(b"x", 9).unwrap();
    tool(dir.path(), "tar", &["-cf", "changed.tar", "platform-20260101T000000Z"]);
    let output = headnode(&["verify", text(&dir.path().join("changed.tar"))]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).contains("its SHA-1 is not"), "{}", stdout(&output));
    // Nothing to check it by.
    tool(dir.path(), "tar", &["-cf", "other.tar", "platform-20260101T000000Z/root.password"]);
    let said = refused(&["verify", text(&dir.path().join("other.tar"))]);
    assert!(said.contains("nothing to check it by"), "{said}");
}

#[test]
fn hostile_archives_are_refused_by_all_verbs() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "x").unwrap();
    let change = |name: &str, options: &[&str]| {
        let archive = dir.path().join(name);
        let mut args = vec!["-P", "-cf", text(&archive)];
        args.extend(options);
        tool(dir.path(), "tar", &args);
        archive
    };
    std::os::unix::fs::symlink("../outside", dir.path().join("link")).unwrap();
    let twice = change("twice.tar", &["file"]);
    tool(dir.path(), "tar", &["-rf", text(&twice), "file"]);
    let whole = change("whole.tar", &["file"]);
    let cut = dir.path().join("cut.tar");
    fs::write(&cut, &fs::read(whole).unwrap()[..700]).unwrap();
    let to = dir.path().join("to");
    for (archive, word) in [
        (change("absolute.tar", &[text(&file)]), "leads out"),
        (change("above.tar", &["--transform=s,^,../,", "file"]), "leads out"),
        (change("link.tar", &["link"]), "leads out"),
        (twice, "twice"),
        (cut, "too early"),
    ] {
        let archive = text(&archive);
        for args in [
            &["inspect", archive][..],
            &["verify", archive],
            &["diff", archive, archive],
            &["extract", archive, "--to", text(&to)],
        ] {
            let said = refused(args);
            assert!(said.contains(word), "{said}");
        }
    }
    assert!(!to.exists());
}

/// What was built from these parts as a tar and for boot servers, signed.
pub fn built(dir: &Path) -> (PathBuf, PathBuf, PathBuf, String) {
    let key = dir.join("release.key");
    let made = json(&["key", "new", "--no-passphrase", "--json", "--output", text(&key)]);
    let out = dir.join("out/");
    let sign = ["--format", "usb,tar,pxe", "--sign", text(&key)];
    Parts::default().build(&out, "", &sign);
    let found = |end: &str| {
        let items = fs::read_dir(&out).unwrap().map(|item| item.unwrap().path());
        items.filter(|path| text(path).ends_with(end)).min_by_key(|path| text(path).len()).unwrap()
    };
    let pxe = found("-pxe.tgz");
    let tar = PathBuf::from(text(&pxe).replace("-pxe.tgz", ".tgz"));
    (tar, pxe, found(".img"), made["public_key"].as_str().unwrap().to_owned())
}

#[test]
fn what_a_build_packs_is_checked_and_compared() {
    let dir = tempfile::tempdir().unwrap();
    let (tar, pxe, image, public) = built(dir.path());
    for (archive, layout) in [
        (&tar, "a headnode's key with our manifest, tar"),
        (&pxe, "the files for a boot server, tar"),
    ] {
        let found = json(&["inspect", "--json", text(archive)]);
        assert_eq!(found["layout"], layout);
        assert_eq!(found["version"], json(&["inspect", "--json", text(&image)])["version"]);
        assert_eq!(found["platforms"][0]["stamp"], "20260102T030405Z");
        assert_eq!(found["services"].as_array().unwrap().len(), 5);
        for more in [&[][..], &["--deep"], &["--public-key", &public]] {
            let mut args = vec!["verify", text(archive)];
            args.extend(more);
            let said = good(&args);
            let signed = if more.len() == 2 { "signed by key" } else { "not checked" };
            assert!(said.contains(": whole; ") && said.contains(signed), "{said}");
            assert!(said.contains("SHA256SUMS"), "{said}");
        }
        let other = json(&[
            "key",
            "new",
            "--no-passphrase",
            "--json",
            "--output",
            text(&dir.path().join(format!("{}.key", layout.len()))),
        ]);
        let other = other["public_key"].as_str().unwrap();
        let output = headnode(&["verify", text(archive), "--public-key", other]);
        assert_eq!(output.status.code(), Some(1));
        assert!(stdout(&output).contains("BAD"), "{}", stdout(&output));
        // As other programs unpack it.
        let (to, theirs) = (dir.path().join("to"), dir.path().join("theirs"));
        fs::create_dir(&theirs).unwrap();
        good(&["extract", text(archive), "--to", text(&to)]);
        tool(&theirs, "tar", &["-xzf", text(archive)]);
        tool(dir.path(), "diff", &["-r", "to", "theirs"]);
        fs::remove_dir_all(to).unwrap();
        fs::remove_dir_all(theirs).unwrap();
    }
    // The tar has the files of the disk's key.
    let output = headnode(&["diff", "--json", text(&image), text(&tar)]);
    let found: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(found["files"]["added"], serde_json::json!({}), "{found:#}");
    assert_eq!(found["files"]["changed"], serde_json::json!({}), "{found:#}");
    // A disk of ours that somebody packed.
    let folder = image.parent().unwrap();
    let name = image.file_name().unwrap().to_str().unwrap();
    tool(dir.path(), "tar", &["-S", "-C", text(folder), "-czf", "disk.tgz", name]);
    let said = good(&["verify", text(&dir.path().join("disk.tgz"))]);
    assert!(said.contains(": whole; ") && said.contains("which lies in the archive"), "{said}");
    // Where the time went.
    let (tar_text, to) = (text(&tar), dir.path().join("timed"));
    for (args, steps) in [
        (&["inspect", tar_text][..], &["Opening the image", "Looking into the image"][..]),
        (&["verify", tar_text], &["Opening the image", "Checking the image"]),
        (&["extract", tar_text, "--to", text(&to)], &["Opening the image", "Writing files"]),
        (&["diff", tar_text, text(&pxe)], &["Opening ", "Opening ", "Comparing"]),
    ] {
        let output = headnode(&[args, &["--json"]].concat());
        assert!(output.stderr.is_empty(), "{}", stderr(&output));
        let found: Value = serde_json::from_str(&stdout(&output)).unwrap();
        let found = found["seconds"].as_array().unwrap();
        assert_eq!(found.len(), steps.len(), "{found:?}");
        for (found, step) in found.iter().zip(steps) {
            assert!(found["step"].as_str().unwrap().starts_with(step), "{found}");
            assert!(found["seconds"].is_f64());
        }
    }
    // Without what lies beside them, by what is in them.
    let alone = tempfile::tempdir().unwrap();
    for archive in [&tar, &pxe] {
        let copy = alone.path().join(archive.file_name().unwrap());
        fs::copy(archive, &copy).unwrap();
        assert!(good(&["verify", text(&copy)]).contains("own manifest"));
        let said = refused(&["verify", text(&copy), "--public-key", &public]);
        assert!(said.contains("signature cannot be checked"), "{said}");
    }
}

#[test]
fn a_disk_that_looks_like_a_tar_is_checked_as_a_disk() {
    let dir = tempfile::tempdir().unwrap();
    let (image, _) = Parts::default().build(dir.path(), "a.img", &[]);
    good(&["verify", text(&image)]);
    let file = fs::File::options().write(true).open(&image).unwrap();
    let mut header = tar::Header::new_ustar();
    header.set_path("x").unwrap();
    header.set_size(fs::metadata(&image).unwrap().len() - 512);
    header.set_cksum();
    file.write_all_at(header.as_bytes(), 0).unwrap();
    let zeroes = fs::metadata(&image).unwrap().len();
    file.write_all_at(&[0; 1024], zeroes).unwrap();
    assert_eq!(json(&["inspect", "--json", text(&image)])["scheme"], "tar");
    let found = json(&["verify", "--json", text(&image)]);
    let damage: Vec<_> = found["damage"].as_array().unwrap().iter().collect();
    assert!(damage.iter().any(|d| d["what"] == "the image's size"), "{found:#}");
    assert!(damage.iter().any(|d| d["what"] == "the partition table"), "{found:#}");
}

/// Packs a folder again.
pub fn packed(folder: &Path, name: &str) -> PathBuf {
    let archive = folder.parent().unwrap().join(name);
    tool(folder, "tar", &["-czf", text(&archive), "."]);
    archive
}

#[test]
fn damage_in_archives_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (tar, pxe, ..) = built(dir.path());
    let damage = |archive: &Path, more: &[&str]| {
        let mut args = vec!["verify", text(archive), "--json"];
        args.extend(more);
        let found = json(&args);
        let list = found["damage"].as_array().unwrap().clone();
        list.iter().map(|d| format!("{}: {}", d["what"], d["why"])).collect::<Vec<_>>()
    };
    // A file that is not the one that was built, whole as a gzip and as a tar.
    let folder = dir.path().join("key");
    fs::create_dir(&folder).unwrap();
    tool(&folder, "tar", &["-xzf", text(&tar)]);
    fs::write(folder.join("extra"), "x").unwrap();
    let manifest: Value =
        serde_json::from_slice(&fs::read(folder.join("manifest.json")).unwrap()).unwrap();
    let file = manifest["files"].as_array().unwrap().iter().find(|file| {
        file["sha256"].is_string() && file["size"].as_u64().is_some_and(|size| size > 1000)
    });
    let path = file.unwrap()["path"].as_str().unwrap();
    let mut bytes = fs::read(folder.join(path)).unwrap();
    bytes[500] ^= 1;
    fs::write(folder.join(path), bytes).unwrap();
    let found = damage(&packed(&folder, "key.tgz"), &[]);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found.iter().any(|d| d.contains(path) && d.contains("not what was written")));
    assert!(found.iter().any(|d| d.contains("extra") && d.contains("does not list it")));

    let folder = dir.path().join("pxe");
    fs::create_dir(&folder).unwrap();
    tool(&folder, "tar", &["-xzf", text(&pxe)]);
    fs::write(folder.join("extra"), "x").unwrap();
    fs::write(folder.join("headnode.cpio.zst"), "x").unwrap();
    let script = fs::read_to_string(folder.join("headnode.ipxe")).unwrap();
    let at = script.find("sha256:").unwrap() + 7;
    let other = if script.as_bytes()[at] == b'0' { "1" } else { "0" };
    let changed = format!("{}{other}{}", &script[..at], &script[at + 1..]);
    fs::write(folder.join("headnode.ipxe"), changed).unwrap();
    let found = damage(&packed(&folder, "a-pxe.tgz"), &[]).join("\n");
    for word in [
        "\"headnode.cpio.zst\": \"its content",
        "\"extra\": \"SHA256SUMS does not list it",
        "\"headnode.ipxe\": \"its content",
        "\"headnode.ipxe\": \"it names another manifest",
    ] {
        assert!(found.contains(word), "{word}: {found}");
    }
    // A key that was packed again with another file: only the files tell, and only with --deep.
    fs::remove_file(folder.join("extra")).unwrap();
    tool(&folder, "tar", &["-xzf", text(&pxe)]);
    let key = dir.path().join("unpacked");
    fs::create_dir(&key).unwrap();
    let script = "zstd -dc \"$0\" | cpio -idm --quiet && f=headnode-key/$1 && printf X | \
         dd of=\"$f\" conv=notrunc bs=1 seek=500 status=none && \
         find headnode-key | sort | cpio -o -H newc --quiet | zstd -q -f -o \"$0\" && \
         cd \"$2\" && find . -type f ! -name SHA256SUMS -printf '%P\\n' | sort | xargs sha256sum > SHA256SUMS";
    tool(&key, "bash", &["-c", script, text(&folder.join("key.cpio.zst")), path, text(&folder)]);
    let archive = packed(&folder, "b-pxe.tgz");
    assert_eq!(damage(&archive, &[]), Vec::<String>::new());
    let found = damage(&archive, &["--deep"]);
    assert!(found.len() == 1 && found[0].contains(&format!("key.cpio.zst!{path}")), "{found:?}");
    fs::write(folder.join("key.cpio.zst"), b"\x28\xb5\x2f\xfdnothing").unwrap();
    let found = damage(&packed(&folder, "c-pxe.tgz"), &[]);
    assert!(found.iter().any(|d| d.starts_with("\"key.cpio.zst\": ")), "{found:?}");
    // The file as a whole, by the list beside it: bytes behind the archive are in no other list.
    let mut bytes = fs::read(&tar).unwrap();
    bytes.extend([0; 512]);
    fs::write(&tar, bytes).unwrap();
    let found = damage(&tar, &[]);
    assert!(found.len() == 1 && found[0].contains("list of digests"), "{found:?}");
}
