use super::*;

use std::io::Write;

/// Writes a tarball of files.
pub(crate) fn tarball(path: &Path, files: &[(&str, &[u8])]) {
    let gzip =
        flate2::write::GzEncoder::new(File::create(path).unwrap(), flate2::Compression::fast());
    let mut tar = tar::Builder::new(gzip);
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, path, *content).unwrap();
    }
    tar.into_inner().unwrap().finish().unwrap().flush().unwrap();
}

/// SHA-1 of `archive`.
const HASH: &[u8] = b"ebfb55f4432b592119a10592e4f26272cc72359e\n";

fn files<'a>(top: &str, kernel: &'a [u8]) -> Vec<(String, &'a [u8])> {
    [
        ("i86pc/kernel/amd64/unix", kernel),
        ("i86pc/amd64/boot_archive", b"archive"),
        ("i86pc/amd64/boot_archive.hash", HASH),
        ("i86pc/amd64/boot_archive.manifest", b"f / 0755\n"),
        ("i86pc/amd64/boot_archive.gitstatus", b"[]\n"),
        ("etc/version/platform", b"20260101T000000Z\n"),
        ("root.password", b"Secret123\n"),
    ]
    .map(|(path, content)| (format!("{top}/{path}"), content))
    .to_vec()
}

fn unpacked(files: &[(String, &[u8])]) -> Result<(Platform, tempfile::TempDir), String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("p.tgz");
    let borrowed: Vec<(&str, &[u8])> = files.iter().map(|(p, c)| (p.as_str(), *c)).collect();
    tarball(&path, &borrowed);
    unpack(&path, &dir.path().join("into"), &mut |_| ())
        .map(|platform| (platform, dir))
        .map_err(|error| error.to_string())
}

#[test]
fn both_kinds_of_top_folder_are_read() {
    let kernel = multiboot::tests::kernel();
    for top in ["platform", "platform-20260101T000000Z"] {
        let (platform, dir) = unpacked(&files(top, &kernel)).unwrap();
        assert_eq!(platform.kind, Kind::SmartOs);
        assert_eq!(platform.stamp.to_string(), "20260101T000000Z");
        assert!(platform.efi);
        assert_eq!(platform.files.len(), 6);
        let password = platform.root_password.unwrap();
        assert_eq!(fs::read(&password.place).unwrap(), b"Secret123\n");
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(&password.place).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!platform.files.keys().any(|path| path.contains("password")));
        assert_eq!(kind(&dir.path().join("p.tgz")).unwrap(), Kind::SmartOs);
    }
}

#[test]
fn what_is_wrong_is_told() {
    let kernel = multiboot::tests::kernel();
    let good = files("platform", &kernel);
    let without = |part: &str| -> Vec<_> {
        good.iter().filter(|(path, _)| !path.ends_with(part)).cloned().collect()
    };
    let with = |part: &str, content: &'static [u8]| -> Vec<(String, &[u8])> {
        let mut files = without(part);
        files.push((format!("platform/{part}"), content));
        files
    };
    let cases = [
        (without("unix"), "neither platform/i86pc/kernel/amd64/unix nor"),
        (without("boot_archive"), "it lacks platform/i86pc/amd64/boot_archive"),
        (without("boot_archive.hash"), "it lacks platform/i86pc/amd64/boot_archive.hash"),
        (without("version/platform"), "it lacks platform/etc/version/platform"),
        (with("etc/version/platform", b"yesterday"), "\"yesterday\" is not a platform stamp"),
        (with("i86pc/kernel/amd64/unix", b"\x7fELF\x02"), "is no multiboot kernel"),
        (with("i86pc/amd64/boot_archive", b"other"), "the SHA-1 of its"),
        (with("i86pc/amd64/boot_archive.hash", b"none"), "is no SHA-1"),
        (with("x86_64/vmlinuz", b"x"), "both a SmartOS and a Linux kernel"),
        (files("smartos", &kernel), "all must be below one folder"),
        (files("platform-20250101T000000Z", &kernel), "not 20250101T000000Z"),
    ];
    for (files, word) in cases {
        let error = unpacked(&files).map(|_| ()).unwrap_err();
        assert!(error.contains(word) && error.contains("p.tgz"), "{word}: {error}");
        assert!(!error.contains("Secret123"), "{error}");
    }
}

#[test]
fn a_loader_is_read_and_what_it_lacks_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("boot.tgz");
    let all: Vec<(&str, &[u8])> = loader::NEEDED.iter().map(|name| (*name, &b"x"[..])).collect();
    let with_logo = [&all[..], &[("boot/forth/Logo-Joyent.4th", b"y")]].concat();
    tarball(&path, &with_logo);
    let files = loader::unpack(&path, &dir.path().join("a"), &mut |_| ()).unwrap();
    assert!(files.contains_key("boot/forth/logo-joyent.4th"));
    tarball(&path, &all[1..]);
    let error = loader::unpack(&path, &dir.path().join("b"), &mut |_| ()).unwrap_err().to_string();
    assert!(error.contains("it lacks boot/pmbr"), "{error}");
    tarball(&path, &[("platform/x", b"y")]);
    let error = loader::unpack(&path, &dir.path().join("c"), &mut |_| ()).unwrap_err().to_string();
    assert!(error.contains("\"platform/x\""), "{error}");
}
