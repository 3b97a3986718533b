//! Reads keys, signatures, MBRs, lists of parts, answers and personal parts made of the fuzzer's bytes: nothing may
//! panic, hang or take memory without bound, and no signature may hold.
#![no_main]

use std::io::Cursor;

use headnode::contents::mbr;
use headnode::manifest::sbom::{Crate, DebianPackage, ZoneImage};
use headnode::manifest::signature::{PublicKey, SecretKey, Signature};
use headnode::personal::held::Held;
use headnode_model::answers::{Answers, seal};
use headnode_model::personal::Part;
use libfuzzer_sys::fuzz_target;

const KEY: &str = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";

fuzz_target!(|data: &[u8]| {
    if let Ok(found) = mbr::read(&mut Cursor::new(data), data.len() as u64) {
        for partition in found.into_iter().flat_map(|found| found.partitions) {
            assert!((partition.start + partition.sectors) * 512 <= data.len() as u64);
        }
    }
    let _ = DebianPackage::list(data);
    let _ = ZoneImage::parse(data);
    for part in Part::ALL {
        // Blank is what holds nothing, and nothing else.
        if let Ok(filled) = part.fill(data)
            && let Ok(held) = Held::read(part, &filled, None)
        {
            assert_eq!(held == Held::Blank, part.is_blank(&filled));
        }
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    let _ = Crate::list(data, text, &["x"]);
    let _ = PublicKey::parse(text);
    let _ = SecretKey::parse(text, None);
    if let (Ok(signature), Ok(key)) = (Signature::parse(text), PublicKey::parse(KEY)) {
        assert!(key.verify(b"what nobody signed", &signature).is_err());
        assert_eq!(Signature::parse(&signature.text()).ok(), Some(signature));
    }
    // Few, as hashing is slow on purpose.
    if data.len() < 200
        && let Ok(answers) = Answers::parse(data)
        && let Ok(sealed) = seal(&answers, b"seed")
    {
        assert!(!sealed.answers.0.contains_key("root_password") || answers.0["root_password"].is_null());
    }
});
