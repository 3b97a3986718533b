//! Disks of virtual machines are read, ours and those that QEMU makes. Needs qemu-utils, as
//! `ci/setup` installs it.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use headnode::image::Sink;
use headnode::image::output::{BLOCK, ImageSink, Output};
use headnode::image::pool::Pool;
use headnode::image::qcow2::Qcow2;
use headnode::image::reader::{Form, ImageFile};
use headnode::image::vmdk::Vmdk;
use proptest::prelude::*;

/// Some text, some noise, and holes between.
fn content() -> Vec<u8> {
    let mut state = 1_u32;
    let mut noise = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    let mut bytes = vec![0; 40 << 20];
    bytes[..BLOCK].copy_from_slice(&b"a text ".repeat(BLOCK)[..BLOCK]);
    bytes[3 << 20..4 << 20].fill_with(&mut noise);
    bytes[36 << 20..37 << 20].copy_from_slice(&b"another text ".repeat(1 << 20)[..1 << 20]);
    bytes.truncate((40 << 20) - 512);
    let end = bytes.len() - 100;
    bytes[end..].fill_with(&mut noise);
    bytes
}

fn make(bytes: &[u8], folder: &Path) {
    let pool = Pool::new(2).unwrap();
    let file = |name: &str| File::create(folder.join(name)).unwrap();
    let sinks: Vec<Box<dyn ImageSink>> = vec![
        Box::new(Qcow2::new(file("own.qcow2"), Arc::clone(&pool))),
        Box::new(Vmdk::new(file("own.vmdk"), "own.vmdk", pool).unwrap()),
    ];
    let mut out = Output::new(sinks, |_| ());
    out.data(bytes).unwrap();
    out.finish().unwrap();
}

fn open(path: &Path) -> std::io::Result<(Form, Vec<u8>)> {
    let mut image = ImageFile::open(path, &mut |_| ())?;
    let mut bytes = Vec::new();
    image.file.read_to_end(&mut bytes)?;
    assert_eq!(bytes.len() as u64, image.size);
    Ok((image.form, bytes))
}

#[test]
fn own_and_other_disks_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = content();
    fs::write(dir.path().join("raw"), &bytes).unwrap();
    make(&bytes, dir.path());
    let mut names =
        vec![("own.qcow2".to_owned(), Form::Qcow2), ("own.vmdk".to_owned(), Form::Vmdk)];
    for (number, (form, format, options)) in [
        (Form::Qcow2, "qcow2", &["-o", "compat=0.10"][..]),
        (Form::Qcow2, "qcow2", &["-c", "-o", "cluster_size=4k"]),
        (Form::Qcow2, "qcow2", &["-c", "-o", "cluster_size=2M,compression_type=zstd"]),
        (Form::Qcow2, "qcow2", &["-S", "0"]),
        (Form::Vmdk, "vmdk", &["-o", "subformat=streamOptimized"]),
        (Form::Vmdk, "vmdk", &["-o", "subformat=monolithicSparse"]),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("{number}.{format}");
        let output = Command::new("qemu-img")
            .args(["convert", "-f", "raw", "-O", format])
            .args(options)
            .args(["raw", &name])
            .current_dir(dir.path())
            .output()
            .expect("ci/setup installs qemu-utils");
        assert!(output.status.success(), "{output:?}");
        names.push((name, form));
    }
    for (name, form) in names {
        let (found_form, found) = open(&dir.path().join(&name)).unwrap();
        assert_eq!(found_form, form, "{name}");
        assert!(found == bytes, "{name} holds something else");
    }
}

#[test]
fn what_cannot_be_read_is_one_clear_error() {
    let dir = tempfile::tempdir().unwrap();
    make(&content(), dir.path());
    let change = |name: &str, at: usize, bytes: &[u8]| {
        let mut whole = fs::read(dir.path().join(name)).unwrap();
        whole[at..at + bytes.len()].copy_from_slice(bytes);
        let path = dir.path().join("changed");
        fs::write(&path, whole).unwrap();
        open(&path).unwrap_err().to_string()
    };
    for (name, at, bytes, said) in [
        ("own.qcow2", 15, &[8][..], "only what differs from another file"),
        ("own.qcow2", 35, &[1], "it is encrypted"),
        ("own.qcow2", 23, &[40], "clusters have an impossible size"),
        ("own.qcow2", 79, &[16], "features that are not known here"),
        ("own.qcow2", 24, &[1], "its size and its tables do not fit"),
        ("own.qcow2", 65_536, &[0xff; 64], "a compressed cluster cannot be unpacked"),
        ("own.vmdk", 65_536, &[1], "a grain is not where the table says"),
        ("own.vmdk", 65_560, &[0xff; 9], "a compressed grain cannot be unpacked"),
    ] {
        let error = change(name, at, bytes);
        assert!(error.contains(said), "{name}: {error}");
    }
    for name in ["own.qcow2", "own.vmdk"] {
        let path = dir.path().join(name);
        let length = fs::metadata(&path).unwrap().len();
        File::options().write(true).open(&path).unwrap().set_len(length - 300_000).unwrap();
        assert!(open(&path).is_err(), "{name} is read though its end is missing");
    }
}

/// Writes numbers at places of some bytes.
fn set<const N: usize>(bytes: &mut [u8], numbers: &[(usize, [u8; N])]) {
    for (at, number) in numbers {
        bytes[*at..at + N].copy_from_slice(number);
    }
}

#[test]
fn a_small_file_cannot_fill_a_disk() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bomb");
    // Clusters of 512 bytes: header, table of tables, table, data.
    let mut qcow2 = vec![7; 4 * 512];
    qcow2[..3 * 512].fill(0);
    set(&mut qcow2, &[(0, *b"QFI\xfb"), (4, 2_u32.to_be_bytes()), (20, 9_u32.to_be_bytes())]);
    set(&mut qcow2, &[(36, 2_u32.to_be_bytes())]);
    set(&mut qcow2, &[(24, (2 * 64 * 512_u64).to_be_bytes()), (40, 512_u64.to_be_bytes())]);
    set(&mut qcow2, &[(512, 1024_u64.to_be_bytes()), (1024, 1536_u64.to_be_bytes())]);
    // Grains and tables of one sector each.
    let mut vmdk = vec![7; 4 * 512];
    vmdk[..3 * 512].fill(0);
    set(&mut vmdk, &[(0, *b"KDMV"), (4, 1_u32.to_le_bytes()), (44, 128_u32.to_le_bytes())]);
    set(&mut vmdk, &[(12, 256_u64.to_le_bytes()), (20, 1_u64.to_le_bytes())]);
    set(&mut vmdk, &[(56, 1_u64.to_le_bytes())]);
    set(&mut vmdk, &[(512, 2_u32.to_le_bytes()), (1024, 3_u32.to_le_bytes())]);
    for (bytes, entry) in [(&mut qcow2, &1536_u64.to_be_bytes()[..]), (&mut vmdk, &[3, 0, 0, 0])] {
        fs::write(&path, &bytes).unwrap();
        let (_, found) = open(&path).unwrap();
        assert_eq!(
            (&found[..512], &found[512..]),
            (&[7; 512][..], &vec![0; found.len() - 512][..])
        );
        // All entries of the table lead to the same place.
        for place in bytes[1024..1536].chunks_exact_mut(entry.len()) {
            place.copy_from_slice(entry);
        }
        fs::write(&path, &bytes).unwrap();
        let error = open(&path).unwrap_err().to_string();
        assert!(error.contains("name one place more than once"), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn damage_never_panics(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        tail in any::<bool>(), name in prop_oneof![Just("own.qcow2"), Just("own.vmdk")],
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut bytes = vec![0; 2 << 20];
        bytes[100] = 1;
        bytes[1 << 20] = 2;
        make(&bytes, dir.path());
        let path = dir.path().join(name);
        let mut whole = fs::read(&path).unwrap();
        let length = whole.len();
        for (at, value) in changes {
            // Headers lie at both ends.
            let at = if tail { length - 1 - at.index(4096) } else { at.index(128) };
            whole[at] = value;
        }
        fs::write(&path, whole).unwrap();
        if let Ok(image) = ImageFile::open(&path, &mut |_| ()) {
            prop_assert!(image.size <= 16 << 40);
        }
    }
}
