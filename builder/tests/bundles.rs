//! Archives, network boot bundles and block maps from outside. Needs tar, bmap-tools and coreutils,
//! as `ci/setup` installs them.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use headnode::image::archive::{Error, write_tgz, write_tgz_with_links};
use headnode::image::output::{BLOCK, Compression, Output, packed};
use headnode::image::pool::Pool;
use headnode::image::pxe::{self, Os, Parts};
use headnode::image::{Content, Sink};
use headnode::manifest::bmap::{self, Bmap};

fn run_in(folder: &Path, program: &str, args: &[&str]) -> (bool, String) {
    let output = Command::new(program)
        .args(args)
        .current_dir(folder)
        .env("LC_ALL", "C.UTF-8")
        .env("TZ", "UTC")
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}; ci/setup installs it"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text)
}

fn run(folder: &Path, program: &str, args: &[&str]) -> String {
    let (success, text) = run_in(folder, program, args);
    assert!(success, "{program} {args:?}: {text}");
    text
}

fn files(paths: &[(&str, &str)]) -> Vec<(String, Content)> {
    paths.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned().into())).collect()
}

#[test]
fn an_archive_depends_on_its_content_only() {
    let long = format!("{}/{}/file", "d".repeat(120), "e".repeat(120));
    let mut tree = files(&[("b/c", "see"), ("b.d", "dot"), ("a", ""), (&long, "long")]);
    tree.push(("b/large".to_owned(), b"0123456789".repeat(500_000).into()));
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    for (dir, threads) in dirs.iter().zip([1, 6]) {
        let file = File::create(dir.path().join("a.tgz")).unwrap();
        write_tgz(&tree, 1_767_323_045, file, Pool::new(threads).unwrap()).unwrap();
        tree.reverse();
    }
    let [one, other] = [0, 1].map(|at: usize| fs::read(dirs[at].path().join("a.tgz")).unwrap());
    assert!(one == other);
    let dir = dirs[0].path();
    let listing = run(dir, "tar", &["--numeric-owner", "-tvzf", "a.tgz"]);
    let lines: Vec<Vec<&str>> =
        listing.lines().map(|line| line.split_whitespace().collect()).collect();
    let names: Vec<_> = lines.iter().map(|line| *line.last().unwrap()).collect();
    let (d, e) = ("d".repeat(120), "e".repeat(120));
    let expected =
        ["a", "b/", "b/c", "b/large", "b.d", &format!("{d}/"), &format!("{d}/{e}/"), &long];
    assert_eq!(names, expected);
    for line in &lines {
        let mode = if line.last().unwrap().ends_with('/') { "drwxr-xr-x" } else { "-rwxr-xr-x" };
        assert_eq!((line[0], line[1], line[3]), (mode, "0/0", "2026-01-02"), "{line:?}");
    }
    run(dir, "tar", &["-xzf", "a.tgz"]);
    for (path, content) in &tree {
        let Content::Bytes(bytes) = content else { panic!("{path}") };
        assert!(fs::read(dir.join(path)).unwrap() == bytes[..], "{path}");
    }
}

#[test]
fn what_cannot_be_archived_is_one_clear_error() {
    let pack = |tree: &[(String, Content)]| {
        write_tgz(tree, 0, tempfile::tempfile().unwrap(), Pool::new(1).unwrap()).err()
    };
    for paths in [&["../a"][..], &["a//b"], &["a", "a"], &["a/b", "a"], &["/a"]] {
        let tree: Vec<_> = paths.iter().map(|path| (*path, "x")).collect();
        assert!(matches!(pack(&files(&tree)), Some(Error::Path { .. })), "{paths:?}");
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("grows");
    fs::write(&path, "some").unwrap();
    let content = Content::of_file(&path).unwrap();
    fs::write(&path, "some bytes").unwrap();
    let error = pack(&[("a".to_owned(), content)]).unwrap();
    assert!(error.to_string().contains("\"a\""), "{error}");
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("became longer"), "{source}");
}

fn overlays() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../overlays")
}

fn smartos() -> Parts {
    Parts {
        os: Os::Smartos,
        stamp: "20260102T030405Z".to_owned(),
        platform: files(&[
            ("platform/i86pc/kernel/amd64/unix", "kernel"),
            ("platform/i86pc/amd64/boot_archive", "archive"),
            ("platform/i86pc/amd64/boot_archive.hash", "hash"),
        ]),
        more: files(&[("fulliso-1.tgz", "all")]),
        links: vec![("fulliso.tgz".to_owned(), "fulliso-1.tgz".to_owned())],
        initrds: vec![],
        base: String::new(),
        console: "ttyb".to_owned(),
        parameters: vec!["headnode=true".to_owned(), "triton_installer=ipxe".to_owned()],
    }
}

fn text_of(files: &[(String, Content)], path: &str) -> String {
    let found = files.iter().find(|(name, _)| name == path);
    let (_, Content::Bytes(bytes)) = found.unwrap_or_else(|| panic!("{path} is missing")) else {
        panic!("{path}")
    };
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn a_network_boot_bundle_holds_script_and_digests() {
    let files = pxe::bundle(smartos(), &overlays()).unwrap();
    let script = text_of(&files, "triton-installer.ipxe");
    let commands: Vec<_> = script.lines().filter(|line| !line.starts_with("# ")).collect();
    // C§1.14 and C§4.4.
    let expected = [
        "#!ipxe",
        "dhcp",
        "kernel 20260102T030405Z/platform/i86pc/kernel/amd64/unix \
         -B console=ttyb,ttyb-mode=\"115200,8,n,1,-\",headnode=true,triton_installer=ipxe",
        "module 20260102T030405Z/platform/i86pc/amd64/boot_archive type=rootfs name=ramdisk",
        "module 20260102T030405Z/platform/i86pc/amd64/boot_archive.hash type=hash name=ramdisk",
        "boot",
    ];
    assert_eq!(commands, expected);

    let dir = tempfile::tempdir().unwrap();
    let file = File::create(dir.path().join("a.tgz")).unwrap();
    write_tgz_with_links(&files, &smartos().links, 0, file, Pool::new(1).unwrap()).unwrap();
    run(dir.path(), "tar", &["-xzf", "a.tgz"]);
    let said = run(dir.path(), "sha256sum", &["--strict", "-c", pxe::SUMS]);
    // All files but the list, and the link.
    assert_eq!(said.matches(": OK").count(), files.len(), "{said}");
    assert_eq!(fs::read_link(dir.path().join("fulliso.tgz")).unwrap(), Path::new("fulliso-1.tgz"));
    assert_eq!(fs::read(dir.path().join("fulliso.tgz")).unwrap(), b"all");

    let link = |name: &str, target: &str| {
        let links = vec![(name.to_owned(), target.to_owned())];
        pxe::bundle(Parts { links, ..smartos() }, &overlays()).err()
    };
    assert!(matches!(link("a", "fulliso-2.tgz"), Some(pxe::Error::Lacks { .. })));
    assert!(matches!(link("fulliso-1.tgz", "fulliso-1.tgz"), Some(pxe::Error::Twice(_))));
}

#[test]
fn a_bundle_of_a_linux_platform_loads_its_own_files_too() {
    let parts = Parts {
        os: Os::Linux,
        links: vec![],
        platform: files(&[("platform/x86_64/vmlinuz", "k"), ("platform/x86_64/initrd", "i")]),
        more: files(&[("bundle/headnode.cpio.zst", "b")]),
        initrds: vec!["bundle/headnode.cpio.zst".to_owned()],
        base: "http://10.0.0.1/headnode/".to_owned(),
        parameters: vec!["headnode=true".to_owned(), "console=ttyS0,115200n8".to_owned()],
        ..smartos()
    };
    let files = pxe::bundle(parts, &overlays()).unwrap();
    let script = text_of(&files, "headnode.ipxe");
    let commands: Vec<_> = script.lines().filter(|line| !line.starts_with("# ")).collect();
    let base = "http://10.0.0.1/headnode";
    let expected = [
        "#!ipxe".to_owned(),
        "dhcp".to_owned(),
        format!(
            "kernel {base}/20260102T030405Z/platform/x86_64/vmlinuz headnode=true console=ttyS0,115200n8"
        ),
        format!("initrd {base}/20260102T030405Z/platform/x86_64/initrd"),
        format!("initrd {base}/bundle/headnode.cpio.zst"),
        "boot".to_owned(),
    ];
    assert_eq!(commands, expected);
}

#[test]
fn a_bundle_that_could_not_boot_is_refused() {
    let refused = |parts: Parts| pxe::bundle(parts, &overlays()).unwrap_err().to_string();
    let mut parts = smartos();
    parts.platform.pop();
    let said = refused(parts);
    assert!(
        said.contains("20260102T030405Z lacks platform/i86pc/amd64/boot_archive.hash"),
        "{said}"
    );
    let parts = Parts { initrds: vec!["no".to_owned()], ..smartos() };
    assert!(refused(parts).contains("lacks no"));
    let parts = Parts { parameters: vec!["a=b\nshell".to_owned()], ..smartos() };
    assert!(refused(parts).contains("a=b\\nshell"));
    let parts = Parts { more: files(&[("SHA256SUMS", "")]), ..smartos() };
    assert!(refused(parts).contains("SHA256SUMS"));
}

#[test]
fn bmaptool_copies_by_the_map_and_finds_damage() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    let file = File::create(folder.join("a.img")).unwrap();
    let raw = packed(file, Compression::None, &Pool::new(1).unwrap()).unwrap();
    let mut out = Output::new(vec![raw], |_| ());
    out.data(&vec![1; 3 * BLOCK + 5]).unwrap();
    out.unused(9 << 20).unwrap();
    out.data(&[2; BLOCK]).unwrap();
    out.zeroes_to(20 << 20).unwrap();
    // The last block of the map is not whole.
    out.data(&[3; 512 * 3]).unwrap();
    let written = out.finish().unwrap();
    let map = bmap::text(
        written.size,
        &written.ranges.iter().map(bmap::Mapped::from).collect::<Vec<_>>(),
    )
    .unwrap();
    fs::write(folder.join("a.bmap"), &map).unwrap();
    let copy = ["copy", "--bmap", "a.bmap", "a.img", "copy.img"];
    let said = run(folder, "bmaptool", &copy);
    assert!(said.contains("format version 2.0"), "{said}");
    assert!(fs::read(folder.join("a.img")).unwrap() == fs::read(folder.join("copy.img")).unwrap());

    let map = Bmap::parse(&map).unwrap();
    let found: u64 = map.ranges.iter().map(|range| range.length).sum();
    assert_eq!((map.size, found), (written.size, written.mapped));
    // A map of bmaptool's own.
    run(folder, "bmaptool", &["create", "-o", "b.bmap", "a.img"]);
    let other = Bmap::parse(&fs::read_to_string(folder.join("b.bmap")).unwrap()).unwrap();
    assert_eq!(other.size, written.size);
    let inside =
        |at: u64| other.ranges.iter().any(|r| (r.offset..r.offset + r.length).contains(&at));
    assert!(map.ranges.iter().all(|range| inside(range.offset)));

    let mut bytes = fs::read(folder.join("a.img")).unwrap();
    bytes[70_000] ^= 1;
    fs::write(folder.join("a.img"), bytes).unwrap();
    let (success, said) = run_in(folder, "bmaptool", &copy);
    assert!(!success && said.contains("checksum mismatch"), "{said}");
}
