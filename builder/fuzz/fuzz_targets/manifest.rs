//! The manifest of an image, and what is made of one.
#![no_main]

use headnode::manifest::bmap::{self, Bmap};
use headnode::manifest::gaps::gaps;
use headnode::manifest::sbom::{Inputs, bom};
use headnode::manifest::text;
use headnode_model::manifest::Manifest;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(list) = std::str::from_utf8(data) {
        let _ = Bmap::parse(list);
    }
    let Ok(manifest) = Manifest::parse(data) else { return };
    let written = text(&manifest).expect("texts and numbers");
    assert_eq!(Manifest::parse(&written).expect("what is written is read"), manifest);
    for file in &manifest.files {
        assert!(!file.path.split('/').any(|part| matches!(part, "" | "." | "..")), "{}", file.path);
        assert!(manifest.file(&file.path).is_some());
    }
    let _ = bom(Inputs { manifest: &manifest, debian: &[], crates: &[], images: &[] });
    let Some(image) = &manifest.image else { return };
    let _ = bmap::of_image(image);
    let mut at = 0;
    for (offset, length) in gaps(&image.ranges, &image.personal, image.size) {
        assert!(offset >= at && length > 0);
        at = offset.checked_add(length).expect("within the image");
        assert!(at <= image.size);
    }
});
