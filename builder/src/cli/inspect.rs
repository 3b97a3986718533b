//! `headnode inspect`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use headnode_model::manifest::Manifest;
use serde_json::json;

use super::progress::bytes;
use crate::image::SECTOR;
use crate::image::disk::ROOT_NUMBER;
use crate::image::fat::{Node, Volume};
use crate::image::gpt::{self, Table};
use crate::image::reader::ImageFile;
use crate::manifest::verify::key_manifest;

/// Show what is in an image
///
/// Prints partitions, boot loaders and firmware, platforms, programs, sizes and the largest files.
/// Everything is read from the image itself, raw or compressed; nothing is checked (see verify).
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// The image: raw, .zst or .gz
    image: PathBuf,
    /// How many of the largest files to show
    #[arg(long, default_value_t = 5, value_name = "COUNT")]
    largest: usize,
    /// Tell the result as JSON on standard output
    #[arg(long)]
    json: bool,
}

struct Found {
    image: ImageFile,
    table: Table,
    label: String,
    cluster: u64,
    nodes: Vec<Node>,
    manifest: Manifest,
}

/// Runs the verb.
///
/// # Errors
/// When the image cannot be read, or is none of a headnode.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let found = look(&args).with_context(|| format!("inspecting {}", args.image.display()))?;
    let mut largest: Vec<&Node> = found.nodes.iter().filter(|node| !node.folder).collect();
    largest.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.path.cmp(&b.path)));
    largest.truncate(args.largest);
    if args.json {
        print_json(&found, &largest);
    } else {
        print(&found, &largest);
    }
    Ok(ExitCode::SUCCESS)
}

fn look(args: &Args) -> anyhow::Result<Found> {
    let mut image = ImageFile::open(&args.image, &mut |_| ())?;
    let table = Table::read(&mut image.file, image.size)?;
    let root = table.partitions.iter().find(|(number, _)| *number == ROOT_NUMBER);
    let (_, root) = root.context("it has no third partition, where the key should be")?;
    let mut volume = Volume::open(&image.file, root.start * SECTOR, root.sectors * SECTOR)?;
    let nodes = volume.walk()?;
    let manifest = key_manifest(&mut volume, &nodes)?;
    let (label, cluster) = (volume.label().to_owned(), volume.cluster_bytes());
    Ok(Found { image, table, label, cluster, nodes, manifest })
}

fn kind(partition: &gpt::Partition) -> &'static str {
    match partition.kind {
        gpt::TYPE_ESP => "EFI system",
        gpt::TYPE_BIOS_BOOT => "BIOS boot",
        gpt::TYPE_DATA => "FAT32 data",
        _ => "other",
    }
}

fn print_json(found: &Found, largest: &[&Node]) {
    let manifest = &found.manifest;
    let partition = |(number, p): &(u32, gpt::Partition)| {
        json!({
            "number": number, "name": p.name, "type": kind(p), "type_guid": p.kind, "guid": p.guid,
            "start": p.start, "sectors": p.sectors,
        })
    };
    let report = json!({
        "name": manifest.name,
        "version": manifest.version,
        "created": manifest.created,
        "size": found.image.size,
        "file_size": found.image.packed_size,
        "compression": format!("{:?}", found.image.compression).to_lowercase(),
        "disk_guid": found.table.guid,
        "partitions": found.table.partitions.iter().map(partition).collect::<Vec<_>>(),
        "key": {"label": found.label, "cluster": found.cluster, "files": manifest.files.len()},
        "platforms": manifest.platforms,
        "services": manifest.services,
        "firmware": manifest.firmware,
        "largest": largest
            .iter()
            .map(|node| json!({"path": node.path, "size": node.size}))
            .collect::<Vec<_>>(),
    });
    println!("{report:#}");
}

fn print(found: &Found, largest: &[&Node]) {
    let (manifest, image) = (&found.manifest, &found.image);
    println!("{} {}", manifest.name, manifest.version);
    println!(
        "  {} disk ({} in the file, compression {:?}), id {}",
        bytes(image.size),
        bytes(image.packed_size),
        image.compression,
        found.table.guid
    );
    println!("Partitions");
    for (number, p) in &found.table.partitions {
        let size = bytes(p.sectors * SECTOR);
        println!("  {number}  {:<8} {:<11} {size:>11}  from sector {}", p.name, kind(p), p.start);
    }
    println!(
        "Key: {}, {} files, clusters of {}",
        found.label,
        manifest.files.len(),
        bytes(found.cluster)
    );
    println!("Platforms");
    for platform in &manifest.platforms {
        println!("  {}  {}  {}", platform.stamp, platform.os, platform.description);
    }
    println!("Programs");
    for service in &manifest.services {
        println!("  {:<12} {:<10} {:>11}", service.name, service.version, bytes(service.size));
    }
    println!("Boot loaders and firmware");
    for entry in &manifest.firmware {
        let size = bytes(entry.size);
        println!(
            "  {:<14} {size:>11}  {} {} ({})",
            entry.name, entry.package, entry.version, entry.licence
        );
    }
    println!("Largest files");
    for node in largest {
        println!("  {:>11}  {}", bytes(node.size), node.path);
    }
}
