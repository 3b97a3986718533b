//! `headnode inspect`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use headnode_model::manifest::Manifest;
use headnode_model::{paths, personal};
use serde::Serialize;
use serde_json::{Value, json};

use crate::contents::survey::{self, Survey, place};
use crate::contents::{Contents, Entry, Part, Scheme, pxe};
use crate::image::reader::MAX_UNPACKED;
use crate::personal::held::Held;
use crate::personal::{image, os};
use crate::progress::{Steps, bytes, set_file};

/// The largest manifest that is read from an image, in bytes.
const MAX_MANIFEST: u64 = 64 << 20;

/// Show what is in an image
///
/// Prints partitions, boot loaders and firmware, platforms, programs, sizes and the largest files of
/// any image: ours, SmartOS' and Triton's, and others. Everything is read from the image itself; nothing
/// is checked (see verify).
///
/// Can be read: disk images with a GPT, an MBR or one FAT32 file system, discs (ISO 9660), disks of QEMU
/// (qcow2) and VMware (vmdk), tar archives of a key's files, of files for a boot server (pxe), of a
/// platform or of anything else, and tar archives that hold one disk image, which then is looked into.
/// All but qcow2 and vmdk may be compressed by gzip, zstd, xz or bzip2. What is packed is unpacked into
/// the folder for temporary files (TMPDIR) first, 1 TiB at most.
///
/// Exit codes: 0 done, 1 the image cannot be read or nothing in it is known, 2 wrong arguments.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// The image or archive, as it is or compressed
    image: PathBuf,
    /// How many of the largest files to show
    #[arg(long, default_value_t = 5, value_name = "COUNT")]
    largest: usize,
    /// Tell the result as JSON on standard output
    #[arg(long)]
    json: bool,
}

struct Found {
    contents: Contents,
    survey: Survey,
    manifest: Option<Manifest>,
    notes: Vec<String>,
    largest: Vec<(String, u64)>,
    personal: Vec<Personal>,
}

/// A personal part of the key.
#[derive(Debug, Serialize)]
struct Personal {
    path: String,
    /// Where it begins on the disk, in bytes; absent when it does not lie in one piece.
    offset: Option<u64>,
    /// Its length in bytes.
    length: u64,
    /// What it holds; absent when that is nothing. No secret.
    holds: Option<String>,
}

/// Runs the verb.
///
/// # Errors
/// When the image cannot be read, or nothing in it is known.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut steps = Steps::new(args.json);
    let found =
        look(&args, &mut steps).with_context(|| format!("inspecting {}", args.image.display()))?;
    if args.json {
        let mut told = report(&found);
        told["seconds"] = steps.json();
        println!("{told:#}");
    } else {
        steps.table_if_long();
        print(&found);
    }
    Ok(ExitCode::SUCCESS)
}

fn look(args: &Args, steps: &mut Steps) -> anyhow::Result<Found> {
    let contents = steps.run("Opening the image", |bar| {
        set_file(bar, &args.image);
        Ok(Contents::open(&args.image, &mut |bytes| bar.set_position(bytes))?)
    })?;
    steps.run("Looking into the image", |_| survey(args, contents))
}

fn survey(args: &Args, contents: Contents) -> anyhow::Result<Found> {
    let survey = survey::survey(&contents)?;
    let mut notes = contents.notes.clone();
    let key = contents.key().and_then(|part| part.files.as_ref());
    let entry = key.and_then(|files| files.entry(paths::KEY_MANIFEST));
    // A boot server's files hold their key packed.
    let packed = key.filter(|files| entry.is_none() && pxe::is_pxe(files)).and_then(pxe::key_of);
    let packed = packed.map(|entry| {
        Ok(pxe::key(&contents.image.file, entry, MAX_UNPACKED, false, &mut |_| ())?.manifest)
    });
    let manifest = match entry.map(|entry| read_manifest(&contents, entry)).or(packed) {
        None => None,
        Some(Ok(manifest)) => Some(manifest),
        Some(Err(error)) => {
            notes.push(format!("{} on the key: {error:#}", paths::KEY_MANIFEST));
            None
        }
    };
    let mut largest: Vec<_> = contents
        .parts
        .iter()
        .flat_map(|part| {
            let files = part.files.iter().flat_map(|files| files.files());
            files.map(|entry| (place(&contents, part, &entry.path), entry.size))
        })
        .collect();
    largest.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    largest.truncate(args.largest);
    let personal = personal(&contents, manifest.as_ref(), &mut notes);
    Ok(Found { contents, survey, manifest, notes, largest, personal })
}

/// The personal parts of a key; files of these names on older and foreign keys are none.
fn personal(
    contents: &Contents,
    manifest: Option<&Manifest>,
    notes: &mut Vec<String>,
) -> Vec<Personal> {
    let (Some(files), Some(manifest)) =
        (contents.key().and_then(|part| part.files.as_ref()), manifest)
    else {
        return Vec::new();
    };
    let listed = |part: &personal::Part| {
        let file = manifest.file(part.path());
        file.is_some_and(|file| file.sha256.is_none() && file.size == personal::SIZE as u64)
    };
    let mut found = Vec::new();
    for part in personal::Part::ALL.into_iter().filter(listed) {
        let Some(entry) = files.entry(part.path()) else { continue };
        let read = contents.small(entry, personal::SIZE as u64).map_err(|error| error.to_string());
        let held = read.and_then(|bytes| Held::read(part, &bytes, os(manifest)));
        let holds = match held {
            Ok(Held::Blank) => None,
            Ok(Held::Filled(holds)) => Some(holds),
            Err(why) => {
                notes.push(format!("{}: {why}", part.path()));
                Some("what its readers may refuse".to_owned())
            }
        };
        let offset = image::place_of(entry).map(|(offset, _)| offset);
        found.push(Personal { path: part.path().to_owned(), offset, length: entry.size, holds });
    }
    found
}

fn read_manifest(contents: &Contents, entry: &Entry) -> anyhow::Result<Manifest> {
    Ok(Manifest::parse(&contents.small(entry, MAX_MANIFEST)?)?)
}

fn report(found: &Found) -> Value {
    let (contents, image) = (&found.contents, &found.contents.image);
    let partition = |part: &Part| {
        let mut value = json!(part);
        if let (Value::Object(map), Some(files)) = (&mut value, &part.files) {
            let count = files.files().count();
            let files = json!({
                "kind": files.kind, "label": files.label, "block": files.block, "files": count,
            });
            map.insert("file_system".to_owned(), files);
        }
        value
    };
    let mut report = json!({
        "layout": found.survey.layout,
        "size": image.size,
        "file_size": image.packed_size,
        "compression": format!("{:?}", image.compression).to_lowercase(),
        "inside": contents.inside,
        "scheme": contents.scheme,
        "disk_guid": contents.disk_id,
        "partitions": contents.parts.iter().map(partition).collect::<Vec<_>>(),
        "loaders": found.survey.loaders,
        "platforms": found.survey.platforms,
        "loader_conf": found.survey.loader_conf,
        "images": found.survey.images,
        "zones": found.survey.zones,
        "version": found.survey.version,
        "personal": found.personal,
        "notes": found.notes,
        "largest": found
            .largest
            .iter()
            .map(|(path, size)| json!({"path": path, "size": size}))
            .collect::<Vec<_>>(),
    });
    // What our manifest tells is told in its words.
    if let (Value::Object(report), Some(manifest)) = (&mut report, &found.manifest) {
        for (key, value) in [
            ("name", json!(manifest.name)),
            ("version", json!(manifest.version)),
            ("created", json!(manifest.created)),
            ("platforms", json!(manifest.platforms)),
            ("services", json!(manifest.services)),
            ("firmware", json!(manifest.firmware)),
        ] {
            report.insert(key.to_owned(), value);
        }
    }
    report
}

fn print(found: &Found) {
    let (contents, image, survey) = (&found.contents, &found.contents.image, &found.survey);
    match (&found.manifest, &survey.version) {
        (Some(manifest), _) => println!("{} {}", manifest.name, manifest.version),
        (None, Some(version)) => println!("version {version}"),
        (None, None) => {}
    }
    let what = if contents.scheme == Scheme::Tar { "archive" } else { "disk" };
    println!(
        "  {} ({} {what}, {} in the file, compression {:?}, id {})",
        survey.layout,
        bytes(image.size),
        bytes(image.packed_size),
        image.compression,
        contents.disk_id.as_deref().unwrap_or("none")
    );
    if let Some(inside) = &contents.inside {
        println!("  it lies in the archive as {inside}");
    }
    println!("Partitions");
    for part in &contents.parts {
        let holds = match (&part.files, &part.problem) {
            (Some(files), _) => {
                let count = files.files().count();
                format!("{} {:?}, {count} files", files.kind, files.label)
            }
            (None, Some(problem)) => problem.clone(),
            (None, None) => String::new(),
        };
        let (size, at) = (bytes(part.length), part.offset / 512);
        println!(
            "  {}  {:<9} {:<17} {size:>11}  from sector {at:<9} {holds}",
            part.number, part.name, part.kind
        );
    }
    println!("Loaders");
    for loader in &survey.loaders {
        let size = loader.size.map(bytes).unwrap_or_default();
        println!("  {:<32} {size:>11}  {}", loader.what, loader.place);
    }
    println!("Platforms");
    for platform in &survey.platforms {
        let known = found.manifest.iter().flat_map(|manifest| &manifest.platforms);
        let known = known
            .filter(|known| known.stamp.to_string().eq_ignore_ascii_case(&platform.stamp))
            .map(|known| known.description.as_str());
        let hash = match platform.hash {
            Some(false) => ", its boot archive has no hash",
            _ => "",
        };
        println!(
            "  {}  {} {:>11}  {}{hash}",
            platform.stamp,
            platform.os,
            bytes(platform.size),
            known.collect::<Vec<_>>().join(" ")
        );
    }
    print_parts(found);
    if !found.personal.is_empty() {
        println!("Personal parts");
    }
    for part in &found.personal {
        let holds = part.holds.as_deref().unwrap_or("blank");
        println!("  {:<32} {:>11}  {holds}", part.path, bytes(part.length));
    }
    println!("Largest files");
    for (path, size) in &found.largest {
        println!("  {:>11}  {path}", bytes(*size));
    }
    for note in &found.notes {
        println!("note: {note}");
    }
}

/// What our manifest tells, and what is in a key of Triton.
fn print_parts(found: &Found) {
    let survey = &found.survey;
    if !survey.zones.is_empty() || survey.images > 0 {
        println!("Triton: {} images; zones {}", survey.images, survey.zones.join(", "));
    }
    if !survey.loader_conf.is_empty() {
        println!("boot/loader.conf");
        for (key, value) in &survey.loader_conf {
            println!("  {key}={value:?}");
        }
    }
    let Some(manifest) = &found.manifest else { return };
    println!("Programs");
    for service in &manifest.services {
        println!("  {:<12} {:<10} {:>11}", service.name, service.version, bytes(service.size));
    }
    println!("Firmware");
    for entry in &manifest.firmware {
        println!(
            "  {:<14} {:>11}  {} {} ({})",
            entry.name,
            bytes(entry.size),
            entry.package,
            entry.version,
            entry.licence
        );
    }
}
