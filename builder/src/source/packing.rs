//! Tests whether a packed file is whole.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use super::imgmanifest::Packing;
use crate::image::packing::{self, unpacker};

/// Tests a file: it is unpacked to its end, and its checksums are compared.
///
/// # Errors
/// What is wrong with it.
pub fn test(path: &Path, packing: Packing) -> Result<(), String> {
    let open = || File::open(path).map_err(|error| format!("reading {}: {error}", path.display()));
    let (magic, by): (&[u8], _) = match packing {
        Packing::None => return Ok(()),
        Packing::Gzip => (&[0x1f, 0x8b], packing::Packing::Gzip),
        Packing::Bzip2 => (b"BZh", packing::Packing::Bzip2),
        Packing::Xz => (&[0xfd, b'7', b'z', b'X', b'Z', 0], packing::Packing::Xz),
    };
    begins(open()?, magic, by.name())?;
    let reader = BufReader::with_capacity(1 << 18, open()?);
    unpacker(by, reader)
        .and_then(|mut unpacked| io::copy(&mut unpacked, &mut io::sink()))
        .map(|_| ())
        .map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => {
                "it does not unpack: it ends too early, a part of it is missing".to_owned()
            }
            _ => format!("it does not unpack: {error}"),
        })
}

fn begins(mut file: File, magic: &[u8], name: &str) -> Result<(), String> {
    let mut head = vec![0; magic.len()];
    let read = file.read_exact(&mut head);
    if read.is_err() || head != magic {
        return Err(format!("it is not packed by {name}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    const ALL: [(&str, &str, Packing); 3] = [
        ("gzip", "gz", Packing::Gzip),
        ("bzip2", "bz2", Packing::Bzip2),
        ("xz", "xz", Packing::Xz),
    ];

    #[test]
    fn damage_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let noise: Vec<u8> = (0..300_000_u32).map(|n| (n.wrapping_mul(n) >> 9) as u8).collect();
        for (program, ending, packing) in ALL {
            std::fs::write(&path, &noise).unwrap();
            let status = Command::new(program).args(["-k", "-f", "-1"]).arg(&path).status();
            assert!(status.unwrap().success(), "{program}");
            let packed = dir.path().join(format!("x.{ending}"));
            test(&packed, packing).unwrap();
            let bytes = std::fs::read(&packed).unwrap();
            // Cut off anywhere, the last byte included.
            for cut in [20, bytes.len() / 2, bytes.len() - 9, bytes.len() - 1] {
                std::fs::write(&packed, &bytes[..cut]).unwrap();
                let error = test(&packed, packing).unwrap_err();
                assert!(error.contains("does not unpack: it ends too early"), "{program}: {error}");
            }
            for at in [bytes.len() / 3, bytes.len() - 6] {
                let mut bytes = bytes.clone();
                bytes[at] ^= 0x10;
                std::fs::write(&packed, &bytes).unwrap();
                let error = test(&packed, packing).unwrap_err();
                assert!(error.contains("does not unpack"), "{program}: {error}");
            }
            for (_, _, other) in ALL.into_iter().filter(|(name, ..)| *name != program) {
                std::fs::write(&packed, &bytes).unwrap();
                assert!(test(&packed, other).unwrap_err().contains("not packed by"), "{program}");
            }
        }
        test(&path, Packing::None).unwrap();
    }
}
