//! `headnode flash`: writes an image to keys.

mod ask;
mod image;
pub mod show;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::json;

use super::site::SiteArgs;
use super::{interrupt, told};
use crate::flash::Key;
use crate::flash::device::{self, Disk, Host, Policy, refusals};
use crate::flash::engine::{self, Error, Piece, Plan, Summary};
use crate::flash::source::{self, Source};
use crate::manifest::signature::PublicKey;
use crate::personal::Wishes;
use crate::progress::bytes;
use crate::source::http::Patience;
use image::Image;
use show::{Show, Way, print};

/// Write an image to keys, and read it back
///
/// IMAGE is a file or an address (http, https): a raw disk image or a disc, plain or packed with zstd,
/// gzip, xz or bzip2. It is checked while it is written: against our manifest beside it (and its signature,
/// with --public-key), else against its block map (.bmap) or list of digests (SHA256SUMS, .sha256).
/// An image that has none of these is written with --unverified only.
///
/// Only the used parts are written; then all of them are read back from the key and compared. The
/// first MiB comes last: a key that was pulled out half-way does not boot half-way. An interrupted
/// command, whatever ended it, goes on where it was when it is given again.
///
/// --answers, --ssh-key and --console make it this site's key: they go into places that the image has
/// for them, and its manifest still holds. `headnode customize` does the same with image files.
///
/// DEVICE is named by its path (/dev/sdb) or its id: see --list. Only removable disks are taken, others
/// with --fixed; never one that is in use or that the system runs from. What will be lost is shown, and
/// the disk's short name has to be typed; --yes answers for scripts, which must name the disk by its id.
/// Root is asked for with sudo, and for the opening of the disk alone, where this user may not write
/// to it.
///
/// Exit codes: 0 all keys are written and were read back; 1 one was not, and it does not boot;
/// 2 wrong arguments; 130 interrupted.
///
/// Examples:
///   headnode flash --list
///   headnode flash headnode.img.zst /dev/sdb --public-key release.pub
///   headnode flash https://example.com/headnode.img.zst usb-SanDisk_Ultra_4C530001-0:0 --yes
///   headnode flash headnode.img /dev/sdb /dev/sdc /dev/sdd
///   headnode flash headnode.img /dev/sdb --answers answers.json --ssh-key ~/.ssh/id_ed25519.pub
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// The image: a file or an address
    #[arg(required_unless_present = "list", conflicts_with = "list")]
    image: Option<String>,
    /// The disks to write to
    #[arg(required_unless_present = "list", conflicts_with = "list", value_name = "DEVICE")]
    devices: Vec<String>,
    /// List the disks of this machine: what is on them, and which can be written to
    #[arg(long, short)]
    list: bool,
    /// Take disks that are not removable, too
    #[arg(long)]
    fixed: bool,
    /// Do not ask; disks must be named by their ids
    #[arg(long, short)]
    yes: bool,
    /// The manifest, when it is not beside the image: a file or an address
    #[arg(long, value_name = "FILE|URL")]
    manifest: Option<String>,
    /// The block map, when it is not beside the image
    #[arg(long, value_name = "FILE|URL")]
    bmap: Option<String>,
    /// The list of digests, when it is not beside the image
    #[arg(long, value_name = "FILE|URL")]
    sums: Option<String>,
    /// The key that must have signed the manifest
    #[arg(long, value_name = "FILE")]
    public_key: Option<String>,
    /// Another address of the same image, for when the first one fails
    #[arg(long, value_name = "URL")]
    mirror: Vec<String>,
    /// Write an image that nothing vouches for
    #[arg(long)]
    unverified: bool,
    #[command(flatten)]
    site: SiteArgs,
    /// Do not read back what was written
    #[arg(long)]
    no_verify: bool,
    /// Tell what happens as JSON, an object a line, on standard output
    #[arg(long)]
    json: bool,
}

/// Runs the verb.
///
/// # Errors
/// When nothing was written to any disk.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let host = Host::here();
    let policy = Policy { fixed: args.fixed, ..Policy::default() };
    if args.list {
        let disks = host.disks()?;
        if args.json {
            println!("{:#}", json!(disks));
        } else {
            print!("{}", device::show::table(&disks, &policy));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let image = args.image.as_deref().unwrap_or_default();
    let site = args.site.clone().site(false);
    // Before anything else is looked at: these are the user's own files.
    let wishes = if site.is_empty() { None } else { Some(site.read()?) };
    let disks = chosen(&host, &args.devices)?;
    if args.yes {
        stable(&disks)?;
    }
    let public_key = args.public_key.as_deref().map(PublicKey::from_argument).transpose()?;
    let options = source::Options {
        manifest: args.manifest.as_deref(),
        bmap: args.bmap.as_deref(),
        sums: args.sums.as_deref(),
        public_key: public_key.as_ref(),
        unverified: args.unverified,
        mirrors: &args.mirror,
        patience: Patience::default(),
        trouble: (!args.json)
            .then(|| -> source::Trouble { Arc::new(|what: &str| tracing::warn!("{what}")) }),
    };
    let place = image;
    let image = Image::new(Source::open(place, &options)?, wishes.as_ref())?;
    let (source, plan) = (image.source(), image.plan());
    let policy = Policy {
        needed: needed(&plan),
        image_sector: source.map().sector_size,
        sources: sources(&host, place)?,
        ..policy
    };
    let disks: Vec<Disk> = disks.into_iter().map(|(_, disk)| disk).collect();
    refuse(&disks, &policy)?;
    let way = Way::of(args.json);
    if way != Way::Json {
        eprintln!("{}: {}", source.name(), source.trust());
        for note in wishes.iter().flat_map(Wishes::notes) {
            eprintln!("note: {note}");
        }
    }
    if !args.yes {
        ask::sure(&disks, &plan, args.json)?;
    }
    let keys = open(&disks, &policy)?;
    let stop = interrupt::asked_to_stop(
        "stopping; what is written is flushed first (a second Ctrl-C does not wait for it)",
    )?;
    let names: Vec<String> = keys.iter().map(|key| key.disk().name.clone()).collect();
    let show = Show::new(way, &names).context("starting the display")?;
    let begun = Instant::now();
    let targets: Vec<&dyn engine::Disk> = keys.iter().map(|key| key as &dyn engine::Disk).collect();
    let options = engine::Options { verify: !args.no_verify, stop };
    let results = engine::flash(&plan, &image, &targets, options, &show);
    show.finish();
    // Programs that watch disks, udev above all, look at the new content when they are closed.
    drop(targets);
    drop(keys);
    Ok(report(&names, &results, begun.elapsed(), &args))
}

/// The disks that are meant, with the words that named them.
fn chosen<'a>(host: &Host, names: &'a [String]) -> anyhow::Result<Vec<(&'a str, Disk)>> {
    let mut disks: Vec<(&str, Disk)> = Vec::new();
    for name in names {
        let disk = host.find(name)?;
        if let Some((other, _)) = disks.iter().find(|(_, known)| known.name == disk.name) {
            bail!("{other} and {name} are the same disk");
        }
        disks.push((name, disk));
    }
    Ok(disks)
}

/// Names that may mean another disk tomorrow are not enough when nobody looks.
fn stable(disks: &[(&str, Disk)]) -> anyhow::Result<()> {
    for (name, disk) in disks {
        if !disk.is_stable_name(name) {
            match &disk.id {
                Some(id) => bail!(
                    "{name} may be another disk at the next start: with --yes name it by its id, {id}"
                ),
                None => bail!("{name} has no id that is its own: write to it without --yes"),
            }
        }
    }
    Ok(())
}

/// Bytes that a disk must have.
fn needed(plan: &Plan) -> u64 {
    let end = plan.pieces.iter().flatten().map(Piece::end).max();
    plan.size.or(end).unwrap_or(0)
}

fn sources(host: &Host, image: &str) -> anyhow::Result<Vec<device::refuse::Source>> {
    let path = Path::new(image);
    if !path.exists() {
        return Ok(Vec::new());
    }
    Ok(vec![device::refuse::Source::of(host, path)?])
}

/// Everything that speaks against all disks, at once.
fn refuse(disks: &[Disk], policy: &Policy) -> anyhow::Result<()> {
    let mut problems = Vec::new();
    for disk in disks {
        let found = refusals(disk, policy);
        if !found.is_empty() {
            problems.push(device::Error::Refused(found).to_string());
        }
    }
    if problems.is_empty() { Ok(()) } else { bail!(problems.join("\n")) }
}

fn open(disks: &[Disk], policy: &Policy) -> anyhow::Result<Vec<Key>> {
    let open = |disk: &Disk| {
        let key = Key::new(device::open(disk, policy)?);
        key.with_context(|| format!("opening {}", disk.path.display()))
    };
    disks.iter().map(open).collect()
}

type Outcome = Result<(Summary, Duration), Error>;

fn report(names: &[String], results: &[Outcome], took: Duration, args: &Args) -> ExitCode {
    for (name, result) in names.iter().zip(results) {
        match result {
            Ok((sum, took)) if args.json => {
                let mut object = json!(sum);
                object["event"] = json!("written");
                object["disk"] = json!(name);
                object["seconds"] = json!(took.as_secs_f64());
                print(&object);
            }
            Ok((sum, took)) => println!("{}", line(name, sum, *took, args.no_verify)),
            Err(error) if args.json => {
                let why = told(&anyhow::Error::msg(error.to_string()));
                print(&json!({"event": "failed", "disk": name, "error": why}));
            }
            Err(error) => {
                eprintln!("headnode: {name}: {}", told(&anyhow::Error::msg(error.to_string())));
            }
        }
    }
    let failed = results.iter().filter(|result| result.is_err()).count();
    if results.len() > 1 && !args.json {
        let good = results.len() - failed;
        println!("{good} of {} keys are good, {:.1} s in all", results.len(), took.as_secs_f64());
    }
    match results.iter().any(|result| matches!(result, Err(Error::Stopped))) {
        true => ExitCode::from(130),
        false if failed > 0 => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    }
}

fn line(name: &str, sum: &Summary, took: Duration, unread: bool) -> String {
    let mut line = format!("{name}: {} written", bytes(sum.written));
    if sum.resumed > 0 {
        line += &format!(", {} were there", bytes(sum.resumed));
    }
    if sum.skipped > 0 {
        line += &format!(", {} unused and left out", bytes(sum.skipped));
    }
    line += &match unread {
        true => ", not read back".to_owned(),
        false => format!(", {} read back", bytes(sum.verified)),
    };
    if sum.repaired > 0 {
        let parts = if sum.repaired == 1 { "part" } else { "parts" };
        line += &format!(", {} {parts} written again: this key is not to be trusted", sum.repaired);
    }
    format!("{line}; {:.1} s", took.as_secs_f64())
}
