//! What a file is, by its first bytes: names lie, and downloads lose them.

/// Files that are no raw images and not packed in a way that is read here: offset and bytes of what
/// tells, what they are, and whether they are disks of virtual machines.
const OTHERS: [(usize, &[u8], &str, bool); 15] = [
    (0, b"QFI\xfb", "qcow2", true),
    (0, b"KDMV", "vmdk", true),
    (0, b"COWD", "vmdk", true),
    (0, b"# Disk DescriptorFile", "vmdk", true),
    (0, b"vhdxfile", "vhdx", true),
    (0, b"conectix", "vpc", true),
    (64, &[0x7f, 0x10, 0xda, 0xbe], "vdi", true),
    (0, b"PK\x03\x04", "a zip file: unpack it first, with `unzip`", false),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip file: unpack it first, with `7z x`", false),
    (0, &[0x04, 0x22, 0x4d, 0x18], "an lz4 file: unpack it first, with `lz4 -d`", false),
    (0, b"\x5d\x00\x00", "an lzma file: unpack it first, with `unlzma`", false),
    (257, b"ustar", "a tar archive: unpack it first, with `tar xf`", false),
    (0, b"<?xml", "a text, not an image", false),
    (0, b"{", "a text, not an image", false),
    (0, b"-----BEGIN", "a text, not an image", false),
];

/// What a file is when it can be no image, and what to do; `None` when it may be one.
pub fn refusal(head: &[u8]) -> Option<String> {
    for (offset, magic, what, machine) in OTHERS {
        if head.get(offset..).is_some_and(|head| head.starts_with(magic)) {
            return Some(match machine {
                true => format!(
                    "a disk of a virtual machine ({what}), not a raw image: convert it first, with \
                     `qemu-img convert -f {what} -O raw FROM TO`"
                ),
                false => what.to_owned(),
            });
        }
    }
    is_page(head).then(|| "a web page, not an image: is the address right?".to_owned())
}

/// Whether a file begins as web pages do.
pub fn is_page(head: &[u8]) -> bool {
    let begin = head.trim_ascii_start();
    [&b"<!doctype html"[..], b"<html"]
        .iter()
        .any(|tag| begin.get(..tag.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(tag)))
}

/// Bytes per sector of the disk that an image was made for: its GPT begins in the second sector.
pub fn sector_size(head: &[u8]) -> u32 {
    let gpt = |at: usize| head.get(at..).is_some_and(|head| head.starts_with(b"EFI PART"));
    if gpt(4096) && !gpt(512) { 4096 } else { 512 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_image_is_told() {
        assert!(refusal(b"QFI\xfb....").unwrap().contains("qemu-img convert -f qcow2 -O raw"));
        assert!(refusal(b"\n <!DOCTYPE HTML><html>").unwrap().contains("web page"));
        let mut boot = vec![0; 8192];
        assert_eq!(refusal(&boot), None);
        assert_eq!(sector_size(&boot), 512);
        boot[4096..4104].copy_from_slice(b"EFI PART");
        assert_eq!(sector_size(&boot), 4096);
        boot[512..520].copy_from_slice(b"EFI PART");
        assert_eq!(sector_size(&boot), 512);
        boot[257..262].copy_from_slice(b"ustar");
        assert!(refusal(&boot).unwrap().contains("tar"));
        assert_eq!(refusal(&[]), None);
    }
}
