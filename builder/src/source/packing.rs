//! Tests whether a packed file is whole.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use super::imgmanifest::Packing;

/// Tests a file: gzip is unpacked to its end and its checksums are compared; of bzip2 and xz only
/// the first bytes are looked at.
///
/// # Errors
/// What is wrong with it.
pub fn test(path: &Path, packing: Packing) -> Result<(), String> {
    let open = || File::open(path).map_err(|error| format!("reading {}: {error}", path.display()));
    match packing {
        Packing::None => Ok(()),
        Packing::Gzip => {
            begins(open()?, &[0x1f, 0x8b], "gzip")?;
            let reader = BufReader::with_capacity(1 << 18, open()?);
            let mut unpacked = flate2::bufread::MultiGzDecoder::new(reader);
            io::copy(&mut unpacked, &mut io::sink())
                .map(|_| ())
                .map_err(|error| format!("it does not unpack: {error}"))
        }
        Packing::Bzip2 => begins(open()?, b"BZh", "bzip2"),
        Packing::Xz => begins(open()?, &[0xfd, b'7', b'z', b'X', b'Z', 0], "xz"),
    }
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
    use std::io::Write;

    use super::*;

    #[test]
    fn damage_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&[7; 100_000]).unwrap();
        let mut bytes = gzip.finish().unwrap();
        std::fs::write(&path, &bytes).unwrap();
        test(&path, Packing::Gzip).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 9]).unwrap();
        assert!(test(&path, Packing::Gzip).unwrap_err().contains("does not unpack"));
        let last = bytes.len() - 6;
        bytes[last] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert!(test(&path, Packing::Gzip).is_err());
        assert!(test(&path, Packing::Bzip2).unwrap_err().contains("bzip2"));
        test(&path, Packing::None).unwrap();
    }
}
