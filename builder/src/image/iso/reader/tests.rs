use std::io::Cursor;

use proptest::prelude::*;

use super::*;
use crate::image::iso::{Boot, Efi, Format, Iso};
use crate::image::output::{Compression, Output, packed};
use crate::image::pool::Pool;

fn image(files: &[(&str, Vec<u8>)], boot: Boot) -> Vec<u8> {
    let format = Format { volume: "TEST".to_owned(), time: 1_767_225_600, digest: [7; 32], boot };
    let files = files.iter().map(|(path, bytes)| ((*path).to_owned(), bytes.clone().into()));
    let iso = Iso::plan(format, files).unwrap();
    let raw =
        packed(tempfile::tempfile().unwrap(), Compression::None, &Pool::new(1).unwrap()).unwrap();
    let mut out = Output::new(vec![raw], |_| ());
    iso.write(&mut out).unwrap();
    let mut written = out.finish().unwrap();
    assert_eq!(written.size, iso.size());
    let mut bytes = Vec::new();
    let file = &mut written.files[0];
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}

fn open(bytes: Vec<u8>) -> Result<Volume<Cursor<Vec<u8>>>, Error> {
    let length = bytes.len() as u64;
    Volume::open(Cursor::new(bytes), 0, length)
}

fn content(volume: &mut Volume<Cursor<Vec<u8>>>, node: &Node) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut take = |part: &[u8]| {
        bytes.extend_from_slice(part);
        Ok(())
    };
    volume.read(node, &mut take).unwrap();
    bytes
}

#[test]
fn what_is_written_is_read_back() {
    let long = "n".repeat(255);
    let files = [
        ("a long folder name/ütf.8", vec![1; 1]),
        ("boot/grub/grub.cfg", vec![2; 2048]),
        ("boot/grub/x/y/z/1/2/3/4/5/6.tar.gz", vec![3; 5000]),
        ("EMPTY", vec![]),
        (&long, vec![4; 7]),
        ("config.inc/generic", vec![5; 2049]),
        ("Config.inc/generic", vec![6; 9]),
    ];
    let esp = Efi {
        path: "boot/efiboot.img".to_owned(),
        label: "system".to_owned(),
        files: vec![("efi/boot/bootx64.efi".to_owned(), vec![8; 3000].into())],
        sectors: 68_000,
    };
    let bytes = image(&files, Boot { efi: Some(esp), ..Boot::default() });
    let mut volume = open(bytes).unwrap();
    assert_eq!(volume.label(), "TEST");
    assert!(volume.has_rock_ridge());
    let nodes = volume.walk().unwrap();
    let found: Vec<_> = nodes.iter().filter(|node| !node.folder).cloned().collect();
    for (path, expected) in &files {
        let node = found.iter().find(|node| node.path == *path).unwrap();
        assert_eq!(&content(&mut volume, node), expected, "{path}");
        assert_eq!(node.mode, Some(0o555));
    }
    assert_eq!(found.len(), files.len() + 1);
    let esp = found.iter().find(|node| node.path == "boot/efiboot.img").unwrap();
    let offset = volume.extents(esp).unwrap()[0].0;
    let entry = BootEntry { platform: 0xef, bootable: true, emulation: 0, sectors: 0, offset };
    assert_eq!(volume.boot_entries().unwrap(), [entry]);
    let fat = crate::image::fat::Volume::open(Cursor::new(content(&mut volume, esp)), 0, esp.size);
    let paths: Vec<_> = fat.unwrap().walk().unwrap().into_iter().map(|node| node.path).collect();
    assert_eq!(paths, ["efi", "efi/boot", "efi/boot/bootx64.efi"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn damage_never_panics(changes in proptest::collection::vec((0usize..8 * 2048, any::<u8>()), 1..12)) {
        let name = "x".repeat(200);
        let mut bytes = image(&[("a/b/c", vec![9; 3000]), (&name, vec![8; 10])], Boot::default());
        // Descriptors, path tables and folders begin here.
        for (at, value) in changes {
            bytes[16 * 2048 + at] = value;
        }
        if let Ok(mut volume) = open(bytes) {
            let _ = volume.boot_entries();
            for node in volume.walk().unwrap_or_default().iter().filter(|node| !node.folder) {
                let _ = volume.read(node, &mut |_| Ok(()));
            }
        }
    }

    #[test]
    fn any_entries_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let mut extra = Extra::default();
        let _ = extra.read(&bytes);
        let _ = susp::begins(&bytes);
        let _ = record(&bytes);
    }
}
