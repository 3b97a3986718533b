//! What goes with the images: manifests, block maps, the bill of materials, where everything comes from,
//! digests, signatures.

use std::fs;
use std::thread::{self, JoinHandle};

use anyhow::{Context, anyhow};
use headnode_model::manifest::Manifest;
use serde_json::{Map, Value, json};

use super::Inputs;
use super::key::Sources;
use super::outputs::{Done, Outputs, digest_of};
use crate::manifest::provenance::{self, Build, Input, Output};
use crate::manifest::sbom::{self, Crate, DebianPackage, ZoneImage};
use crate::manifest::{self, bmap, signature, sums};
use crate::platform::PACKAGES;
use crate::source::lock::{Kind, Origin};
use crate::source::platform;
use crate::spec::Format;

/// Writes the manifest of an image, its signature and its block map.
pub(super) fn of_image(
    inputs: &Inputs,
    format: Format,
    manifest: &Manifest,
    done: &Done,
    outputs: &mut Outputs<'_>,
) -> anyhow::Result<()> {
    let image = outputs.name(format, inputs);
    let beside = manifest::beside(image.as_ref()).to_string_lossy().into_owned();
    let text = manifest::text(manifest)?;
    outputs.add(Some(format), beside.clone(), &text)?;
    if let Some(key) = &inputs.signing_key {
        let signed = signature::sign_manifest(&text, key)?;
        outputs.add(Some(format), format!("{beside}.minisig"), signed.as_bytes())?;
    }
    if matches!(format, Format::Usb | Format::Iso) {
        let raw = image.strip_suffix(".zst").or_else(|| image.strip_suffix(".gz"));
        let name = format!("{}.bmap", raw.unwrap_or(&image));
        let map = bmap::of_image(&done.image)?;
        outputs.add(Some(format), name, map.as_bytes())?;
    }
    Ok(())
}

/// The crates of our programs. Cargo needs longer to tell them than all other records take, so it is
/// asked while the images are written.
pub(super) struct Crates(Option<JoinHandle<Result<Vec<Crate>, sbom::Error>>>);

impl Crates {
    /// Begins to ask, when there are programs and their workspace is at hand.
    pub(super) fn ask(inputs: &Inputs, with_programs: bool) -> anyhow::Result<Self> {
        let Some(workspace) = inputs.workspace.clone().filter(|_| with_programs) else {
            return Ok(Self(None));
        };
        let ask = move || Crate::of_workspace(&workspace);
        let thread = thread::Builder::new().name("crates".to_owned()).spawn(ask);
        Ok(Self(Some(thread.context("asking cargo for the programs' crates")?)))
    }

    fn wait(self) -> anyhow::Result<Vec<Crate>> {
        let Some(thread) = self.0 else { return Ok(Vec::new()) };
        let told = thread.join().map_err(|_| anyhow!("the thread that asks cargo died"))?;
        Ok(told?)
    }
}

/// Writes what goes with all images.
pub(super) fn of_build(
    inputs: &Inputs,
    sources: &Sources,
    crates: Crates,
    manifest: &Manifest,
    outputs: &mut Outputs<'_>,
) -> anyhow::Result<()> {
    let stem = outputs.stem.clone();
    let bom = bill(inputs, sources, &crates.wait()?, manifest)?;
    outputs.add(None, format!("{stem}.cdx.json"), &bom)?;
    let mut digests: Vec<(String, String)> = Vec::new();
    for made in &outputs.made {
        let digest = match &made.sha256 {
            Some(digest) => digest.clone(),
            None => digest_of(&made.place)?,
        };
        digests.push((made.name.clone(), digest));
    }
    let text = provenance_of(inputs, sources, manifest, &digests)?;
    let name = format!("{stem}.provenance.json");
    outputs.add(None, name.clone(), &text)?;
    digests.push((name, crate::source::digest::sha256(&text)));
    digests.sort();
    let list = sums::text(digests.iter().map(|(name, digest)| (name.as_str(), digest.as_str())));
    let name = format!("{stem}.SHA256SUMS");
    if let Some(key) = &inputs.signing_key {
        let comment = format!("{} {} digests", manifest.name, manifest.version);
        let signed = signature::sign(list.as_bytes(), &comment, key)?;
        outputs.add(None, format!("{name}.minisig"), signed.text().as_bytes())?;
    }
    outputs.add(None, name, list.as_bytes())
}

/// The bill of materials.
fn bill(
    inputs: &Inputs,
    sources: &Sources,
    crates: &[Crate],
    manifest: &Manifest,
) -> anyhow::Result<Vec<u8>> {
    let mut debian = Vec::new();
    for item in sources.platforms.iter().filter_map(|platform| platform.files.get(PACKAGES)) {
        let list = fs::read(&item.place).context("reading the platform's packages.json")?;
        debian.extend(DebianPackage::list(&list)?);
    }
    let mut images = Vec::new();
    for artefact in &inputs.artefacts {
        if let Some(Kind::ZoneManifest(_) | Kind::OriginManifest(_)) = artefact.kind() {
            let text = fs::read(&artefact.path)
                .with_context(|| format!("reading {}", artefact.path.display()))?;
            images.push(ZoneImage::parse(&text)?);
        }
    }
    let all = sbom::Inputs { manifest, debian: &debian, crates, images: &images };
    Ok(sbom::text(&sbom::bom(all)?)?)
}

/// What went in and what came out.
fn provenance_of(
    inputs: &Inputs,
    sources: &Sources,
    manifest: &Manifest,
    outputs: &[(String, String)],
) -> anyhow::Result<Vec<u8>> {
    let mut parts = Vec::new();
    for (platform, path) in manifest.platforms.iter().zip(&inputs.platforms) {
        let name = format!("platform {}", platform.stamp);
        parts.push(Input { name, uri: None, sha256: digest_of(path)? });
    }
    if let Some(path) = &inputs.boot {
        let name = "illumos loader".to_owned();
        parts.push(Input { name, uri: None, sha256: digest_of(path)? });
    }
    for service in &manifest.services {
        let name = format!("program {}", service.name);
        parts.push(Input { name, uri: None, sha256: service.sha256.clone() });
    }
    for firmware in &manifest.firmware {
        let name = format!("{} {} ({})", firmware.package, firmware.version, firmware.name);
        parts.push(Input { name, uri: None, sha256: firmware.sha256.clone() });
    }
    for artefact in &inputs.artefacts {
        let entry = &artefact.entry;
        let uri = (entry.source != Origin::File).then(|| entry.url.clone());
        parts.push(Input { name: entry.name.clone(), uri, sha256: entry.sha256.clone() });
    }
    let mut parameters = Map::new();
    let mut tell = |name: &str, value: Value| parameters.insert(name.to_owned(), value);
    tell("formats", json!(inputs.formats));
    tell("compress", json!(inputs.compress.suffix().trim_start_matches('.')));
    let smartos =
        sources.platforms.first().is_some_and(|first| first.kind == platform::Kind::SmartOs);
    let console = if smartos { inputs.smartos.console } else { inputs.console.name() };
    tell("console", json!(console));
    tell("timeout", json!(inputs.timeout));
    tell("answers", json!(inputs.answers.is_some()));
    tell("signed", json!(inputs.signing_key.is_some()));
    let outputs = outputs
        .iter()
        .map(|(name, sha256)| Output { name: name.clone(), sha256: sha256.clone() })
        .collect();
    let build =
        Build { outputs, inputs: parts, parameters, created: manifest.created, builder: None };
    Ok(provenance::text(&build)?)
}
