//! ISO images from outside: what other programs say of them and read from them. Needs xorriso,
//! genisoimage (for isoinfo), gdisk, dosfstools, mtools and GRUB's packages, as `ci/setup` installs
//! them.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::process::Command;

use headnode::boot::grub_iso;
use headnode::image::Content;
use headnode::image::iso::{Boot, Error, Format, Iso, Volume};
use headnode::image::output::{Compression, Output, packed};
use headnode::image::pool::Pool;
use headnode_model::manifest::Partition;
use nix::sys::stat::{Mode, umask};
use proptest::prelude::*;

const TIME: i64 = 1_767_323_045;

fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program)
        .args(args)
        .env("LC_ALL", "C.UTF-8")
        .env("TZ", "UTC")
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}; ci/setup installs it"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {}\n{text}", output.status);
    text
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn format(boot: Boot) -> Format {
    Format { volume: "HEADNODE_1".to_owned(), time: TIME, digest: [3; 32], boot }
}

fn write(format: Format, files: Vec<(String, Content)>, to: &Path) -> Vec<Partition> {
    let iso = Iso::plan(format, files).unwrap();
    let pool = Pool::new(1).unwrap();
    let raw = packed(File::create(to).unwrap(), Compression::None, &pool).unwrap();
    let mut out = Output::new(vec![raw], |_| ());
    let partitions = iso.write(&mut out).unwrap();
    assert_eq!(out.finish().unwrap().size, iso.size());
    partitions
}

fn some_files() -> Vec<(String, Content)> {
    let pi = "20260102t030405z";
    [
        (".joyliveusb".to_owned(), vec![]),
        (format!("os/{pi}/platform/i86pc/kernel/amd64/unix"), vec![1; 1_000_000]),
        (format!("os/{pi}/platform/i86pc/amd64/boot_archive.hash"), vec![b'a'; 40]),
        ("boot/grub/grub.cfg".to_owned(), b"echo hello\n".to_vec()),
        ("boot.d/x".to_owned(), vec![2; 2048]),
        (format!("long/{}", "name-".repeat(50)), vec![3; 2049]),
    ]
    .into_iter()
    .map(|(path, bytes)| (path, bytes.into()))
    .collect()
}

/// Extracts an image by xorriso and compares every file.
fn compare(image: &Path, files: &[(String, Content)], out: &Path) {
    run("xorriso", &["-osirrox", "on", "-indev", text(image), "-extract", "/", text(out)]);
    for (path, content) in files {
        let mut expected = Vec::new();
        content.open().unwrap().read_to_end(&mut expected).unwrap();
        let found = fs::read(out.join(path));
        assert!(found.is_ok_and(|found| found == expected), "{path}");
    }
}

#[test]
fn other_programs_find_the_image_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("a.iso");
    let boot = grub_iso::build(dir.path(), ".joyliveusb").unwrap();
    let partitions = write(format(boot.clone()), some_files(), &image);

    let said = run("xorriso", &["-indev", text(&image), "-report_el_torito", "plain"]);
    let images: Vec<Vec<&str>> = said
        .lines()
        .filter(|line| line.starts_with("El Torito boot img :"))
        .map(|line| line.split_whitespace().collect())
        .collect();
    // Columns: number, platform, bootable, emulation, segment, sectors to load, block.
    assert_eq!(images.len(), 2, "{said}");
    assert_eq!(images[0][5..9], ["1", "BIOS", "y", "none"], "{said}");
    assert_eq!(images[1][5..9], ["2", "UEFI", "y", "none"], "{said}");
    assert!(said.contains("El Torito img opts :   1  boot-info-table grub2-boot-info"), "{said}");
    let said = run("xorriso", &["-indev", text(&image), "-report_system_area", "plain"]);
    assert!(said.contains("protective-msdos-label grub2-mbr"), "{said}");
    assert!(said.contains("GPT partition name :   1  6c00"), "{said}");
    let said = run("xorriso", &["-indev", text(&image), "-toc"]);
    assert!(said.contains("HEADNODE_1"), "{said}");

    let said = run("isoinfo", &["-R", "-l", "-i", text(&image)]);
    for part in ["unix", "boot_archive.hash", ".joyliveusb", &"name-".repeat(50), "boot.d"] {
        assert!(said.contains(part), "{part} is not in\n{said}");
    }
    assert!(said.contains("-r-xr-xr-x   1    0    0         1000000 Jan  2 2026"), "{said}");
    assert!(run("sgdisk", &["-v", text(&image)]).contains("No problems found"));

    let out = dir.path().join("out");
    compare(&image, &some_files(), &out);
    let esp = out.join(grub_iso::ESP_PATH);
    run("fsck.fat", &["-n", text(&esp)]);
    let loader = dir.path().join("loader");
    run("mcopy", &["-i", text(&esp), "::efi/boot/bootx64.efi", text(&loader)]);
    assert!(fs::read(&loader).unwrap() == fs::read(dir.path().join("bootx64-iso.efi")).unwrap());

    // The partition is that file.
    let [partition] = &partitions[..] else { panic!("{partitions:?}") };
    let mut bytes = vec![0; usize::try_from(partition.sectors * 512).unwrap()];
    let mut file = File::open(&image).unwrap();
    file.seek(SeekFrom::Start(partition.start * 512)).unwrap();
    file.read_exact(&mut bytes).unwrap();
    assert!(bytes == fs::read(&esp).unwrap());
}

#[test]
fn images_with_illumos_loader_are_in_order_too() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("a.iso");
    let boot = Boot::illumos(vec![0x90; 2500], vec![1; 400_000].into());
    let partitions = write(format(boot), some_files(), &image);
    assert_eq!(partitions[0].sectors, 524_288);
    let said = run("xorriso", &["-indev", text(&image), "-report_el_torito", "plain"]);
    // The sectors to load are the column before the last one.
    let found = |line: &str, words: &[&str]| words.iter().all(|word| line.contains(word));
    assert!(said.lines().any(|line| found(line, &["BIOS  y   none", "     5 "])), "{said}");
    assert!(said.lines().any(|line| found(line, &["UEFI  y   none"])), "{said}");
    assert!(said.contains("El Torito img path :   1  /boot/cdboot"), "{said}");
    assert!(said.contains("El Torito img opts :   1  boot-info-table"), "{said}");
    assert!(said.contains("El Torito img path :   2  /boot/efiboot.img"), "{said}");
    assert!(run("sgdisk", &["-v", text(&image)]).contains("No problems found"));
    let out = dir.path().join("out");
    compare(&image, &some_files(), &out);
    run("fsck.fat", &["-n", text(&out.join("boot/efiboot.img"))]);
}

#[test]
fn an_image_depends_on_its_content_only() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    for (at, dir) in dirs.iter().enumerate() {
        let boot = grub_iso::build(dir.path(), ".joyliveusb").unwrap();
        let mut files = some_files();
        if at == 1 {
            umask(Mode::from_bits_truncate(0o077));
            files.reverse();
        }
        write(format(boot), files, &dir.path().join("a.iso"));
    }
    let [one, other] = [0, 1].map(|at: usize| fs::read(dirs[at].path().join("a.iso")).unwrap());
    assert!(one == other);
}

#[test]
fn files_of_more_than_4_gib_are_whole() {
    let dir = tempfile::tempdir().unwrap();
    let large = dir.path().join("large");
    let size = (4 << 30) + 5000_u64;
    let mut file = File::create(&large).unwrap();
    file.seek(SeekFrom::Start((4 << 30) - 2050)).unwrap();
    file.write_all(&[7; 3000]).unwrap();
    file.set_len(size).unwrap();
    let image = dir.path().join("a.iso");
    let files = vec![
        ("d/large".to_owned(), Content::of_file(&large).unwrap()),
        ("z".to_owned(), b"behind it".to_vec().into()),
    ];
    write(format(Boot::default()), files, &image);
    let said = run("xorriso", &["-indev", text(&image), "-find", "/", "-exec", "lsdl"]);
    assert!(said.contains("4294972296"), "{said}");
    let length = fs::metadata(&image).unwrap().len();
    let mut volume = Volume::open(File::open(&image).unwrap(), 0, length).unwrap();
    let nodes = volume.walk().unwrap();
    let node = nodes.iter().find(|node| node.path == "d/large").unwrap();
    let extents = volume.extents(node).unwrap();
    assert_eq!((node.size, extents.len()), (size, 2));
    assert_eq!(extents[0].0 + extents[0].1, extents[1].0);
    let mut bytes = vec![0; 6002];
    let mut file = File::open(&image).unwrap();
    file.seek(SeekFrom::Start(extents[0].0 + (4 << 30) - 2051)).unwrap();
    file.read_exact(&mut bytes).unwrap();
    let expected = [vec![0], vec![7; 3000], vec![0; 3001]].concat();
    assert!(bytes == expected);
    let said = run("isoinfo", &["-R", "-i", text(&image), "-x", "/z"]);
    assert_eq!(said, "behind it");
}

#[test]
fn what_cannot_be_stored_is_one_clear_error() {
    let plan = |paths: &[&str]| {
        let files = paths.iter().map(|path| ((*path).to_owned(), b"x".to_vec().into()));
        Iso::plan(format(Boot::default()), files).err().map(|error| error.to_string())
    };
    let long = "n".repeat(256);
    for (paths, said) in [
        (vec!["a/../b"], "\"a/../b\" cannot be stored on ISO 9660: a part of the path is . or .."),
        (vec!["/a"], "a part of the path is empty"),
        (vec![&long], "a name is longer than 255 bytes"),
        (vec!["a", "a/b"], "\"a\" is both a file and a folder"),
        (vec!["a", "a"], "\"a\" is to be on the ISO image twice"),
    ] {
        let error = plan(&paths).unwrap();
        assert!(error.contains(said), "{error}");
    }
    let label = Format { volume: "lower".to_owned(), ..format(Boot::default()) };
    assert!(matches!(Iso::plan(label, vec![]), Err(Error::Label(_))));
    let early = Format { time: -1, ..format(Boot::default()) };
    assert!(matches!(Iso::plan(early, vec![]), Err(Error::Time(-1))));

    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("shrinks");
    fs::write(&file, "some bytes").unwrap();
    let content = Content::of_file(&file).unwrap();
    fs::write(&file, "some").unwrap();
    let iso = Iso::plan(format(Boot::default()), vec![("a".to_owned(), content)]).unwrap();
    let error = iso.write(&mut Output::new(vec![], |_| ())).unwrap_err().to_string();
    assert!(error.contains("\"a\"") && error.contains("6 bytes shorter"), "{error}");
}

/// An image that is not ours: deep folders that are moved, links, Joliet, or bare names.
#[test]
fn images_of_others_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    let deep = "1/2/3/4/5/6/7/8/9/file-of-some-name.text";
    fs::create_dir_all(tree.join(deep).parent().unwrap()).unwrap();
    fs::write(tree.join(deep), "deep").unwrap();
    fs::write(tree.join("n".repeat(240)), "long").unwrap();
    std::os::unix::fs::symlink("../a/./b", tree.join("link")).unwrap();
    let walk = |options: &[&str]| -> BTreeMap<String, (String, Option<String>)> {
        let image = dir.path().join("a.iso");
        let mut args = vec!["-quiet", "-o", text(&image)];
        args.extend(options);
        args.push(text(&tree));
        run("genisoimage", &args);
        let length = fs::metadata(&image).unwrap().len();
        let mut volume = Volume::open(File::open(&image).unwrap(), 0, length).unwrap();
        let nodes = volume.walk().unwrap();
        let read = |node: &headnode::image::iso::Node| {
            let mut bytes = Vec::new();
            let mut take = |part: &[u8]| {
                bytes.extend_from_slice(part);
                Ok(())
            };
            volume.read(node, &mut take).unwrap();
            let content = String::from_utf8(bytes).unwrap();
            (node.path.clone(), (content, node.link.clone()))
        };
        nodes.iter().filter(|node| !node.folder).map(read).collect()
    };
    let found = walk(&["-R"]);
    assert_eq!(found[deep].0, "deep", "{found:?}");
    assert_eq!(found[&"n".repeat(240)].0, "long");
    assert_eq!(found["link"].1.as_deref(), Some("../a/./b"));
    assert_eq!(found.len(), 3);
    let found = walk(&["-J", "-joliet-long", "-D"]);
    assert_eq!(found[deep].0, "deep", "{found:?}");
    let found = walk(&["-D"]);
    assert_eq!(found["1/2/3/4/5/6/7/8/9/FILE_OF_.TEX"].0, "deep", "{found:?}");
}

fn names() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z]{1,8}(\\.[a-z]{1,3})?",
        "[a-zA-Z0-9._ +-]{1,40}",
        "[a-zäéß ]{1,12}",
        "[ab]{100,255}"
    ]
    .prop_filter("a name", |name| name != "." && name != "..")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn a_random_tree_is_read_back_by_xorriso(
        tree in proptest::collection::vec(
            (proptest::collection::vec(names(), 1..5), 0usize..9000), 0..80),
    ) {
        let mut kept: BTreeMap<String, usize> = BTreeMap::new();
        for (parts, size) in tree {
            let path = parts.join("/");
            let below = |path: &str, of: &str| path.strip_prefix(of).is_some_and(|p| p.starts_with('/'));
            if !kept.keys().any(|other| below(&path, other) || below(other, &path)) {
                kept.insert(path, size);
            }
        }
        let files: Vec<(String, Content)> = kept
            .iter()
            .enumerate()
            .map(|(at, (path, size))| (path.clone(), vec![at as u8; *size].into()))
            .collect();
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("a.iso");
        write(format(Boot::default()), files.clone(), &image);
        compare(&image, &files, &dir.path().join("out"));
        let length = fs::metadata(&image).unwrap().len();
        let mut volume = Volume::open(File::open(&image).unwrap(), 0, length).unwrap();
        let found: Vec<_> =
            volume.walk().unwrap().into_iter().filter(|node| !node.folder).map(|node| node.path).collect();
        let mut found = found;
        found.sort();
        let expected: Vec<_> = kept.into_keys().collect();
        prop_assert_eq!(found, expected);
    }
}
