//! `headnode customize`.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use headnode_model::manifest::{Image, Manifest};
use serde_json::{Value, json};

use super::interrupt;
use super::site::SiteArgs;
use crate::contents::Contents;
use crate::image::packing::Packing;
use crate::image::reader::{Form, ImageFile};
use crate::manifest::{self, bmap, personal::Part};
use crate::personal::{Patch, copy, image};
use crate::progress::{Steps, bytes, set_length};

/// Put answers, keys and the console into an image, without building it anew
///
/// Every image has places for what belongs to a site: answers to first boot's questions, public keys
/// that may log in as root, the console. They are checked by first boot's rules, all that is wrong is
/// told at once, and then they are written into the places of a copy (--output), or of the image itself
/// (--in-place). Nothing else changes: the manifest and its signature stay as they are and still verify
/// the image, as they list these places apart.
///
/// What is not given stays as it is in the image; --clear makes it blank. Keys replace those that are
/// there. The same command gives the same bytes.
///
/// The image must be raw (.img or .iso), with the manifest that its build wrote beside it. A copy gets
/// the manifest, its signature and the block map (.bmap) for its new content; the list of digests
/// (.SHA256SUMS) is of the image as it was built, and is not copied. With --in-place it stays, and
/// no longer fits. An interrupted copy leaves nothing behind; --in-place writes each place at once,
/// so that a machine that stops in between leaves the old or the new content of each: do it again.
///
/// Exit codes: 0 done, or nothing was to be changed; 1 something is wrong, and nothing was changed;
/// 2 wrong arguments.
///
///   headnode customize key.img --answers site.json --ssh-key ~/.ssh/id_ed25519.pub --output site.img
///   headnode customize key.img --console ttyS1 --in-place
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// The image: raw
    image: PathBuf,
    #[command(flatten)]
    site: SiteArgs,
    /// Make blank what is not given
    #[arg(long)]
    clear: bool,
    /// Where the new image goes
    #[arg(long, short, value_name = "FILE", required_unless_present = "in_place")]
    output: Option<PathBuf>,
    /// Change the image itself
    #[arg(long, conflicts_with = "output")]
    in_place: bool,
    /// The manifest, when it is not beside the image
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,
    /// Tell the result as JSON on standard output
    #[arg(long)]
    json: bool,
}

/// An image to work on.
struct Source {
    path: PathBuf,
    contents: Contents,
    beside: PathBuf,
    manifest: Manifest,
    image: Image,
}

/// Runs the verb.
///
/// # Errors
/// When the image cannot be changed, or what is to be put in is not in order.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let site = args.site.site(args.clear);
    if site.is_empty() {
        bail!("there is nothing to do: give --answers, --ssh-key, --console or --clear");
    }
    // Before the image is looked at: these are the user's own files.
    let wishes = site.read()?;
    let mut steps = Steps::new(args.json);
    let source = steps.run("Looking into the image", |_| open(&args.image, args.manifest))?;
    let patches = wishes.patches(&source.manifest)?;
    let found = look(&source, &patches)?;
    let changing = image::changing(&source.contents.image.file, patches)
        .with_context(|| format!("reading {}", source.path.display()))?;
    interrupt::watch()?;
    let target = match &args.output {
        Some(output) => {
            write_copy(&source, &changing, output, &mut steps)?;
            output.clone()
        }
        None => {
            write_in_place(&source, &changing)?;
            source.path.clone()
        }
    };
    let notes = wishes.notes();
    if args.json {
        println!("{:#}", report(&target, &found, &changing, &notes));
    } else {
        print(&target, &found, &changing, &notes);
    }
    Ok(ExitCode::SUCCESS)
}

/// Opens the image, and sees that it is the one that its manifest describes.
fn open(path: &Path, manifest: Option<PathBuf>) -> anyhow::Result<Source> {
    let reading = || format!("reading {}", path.display());
    if !fs::metadata(path).with_context(reading)?.is_file() {
        bail!(
            "{} is no file: a key gets what belongs to its site while it is written, by \
             `headnode flash` with the same options",
            path.display()
        );
    }
    unpacked(path).with_context(reading)?;
    let beside = manifest.unwrap_or_else(|| manifest::beside(path));
    let text = fs::read(&beside).with_context(|| {
        format!("reading {}: without it, nothing says where the places are", beside.display())
    })?;
    let manifest =
        Manifest::parse(&text).with_context(|| format!("reading {}", beside.display()))?;
    let file = ImageFile::open(path, &mut |_| ()).with_context(reading)?;
    let contents = Contents::of(file).with_context(reading)?;
    let image = match image::check(&contents, &manifest) {
        Ok(image) => image.clone(),
        Err(why) => bail!("{} does not fit to {}: {why}", path.display(), beside.display()),
    };
    Ok(Source { path: path.to_owned(), contents, beside, manifest, image })
}

/// Refuses images whose bytes do not lie where those of the disk do.
fn unpacked(path: &Path) -> anyhow::Result<()> {
    use std::io::Read as _;
    let mut head = Vec::new();
    File::open(path)?.take(16).read_to_end(&mut head)?;
    let (what, how) = match Form::of_magic(&head) {
        Form::Raw(Packing::None) => return Ok(()),
        Form::Raw(packing) => {
            let name = packing.name();
            bail!(
                "it is packed, and only raw images can be changed: unpack it first, with `{name} -d`"
            )
        }
        Form::Qcow2 => (
            "a disk of QEMU",
            "customize the raw image of the same build, then `qemu-img convert -O qcow2`",
        ),
        Form::Vmdk => (
            "a disk of VMware",
            "customize the raw image of the same build, then `qemu-img convert -O vmdk`",
        ),
    };
    bail!("it is {what}, and only raw images can be changed: {how}");
}

/// Makes a changed copy, with what belongs beside it.
fn write_copy(
    source: &Source,
    patches: &[Patch],
    output: &Path,
    steps: &mut Steps,
) -> anyhow::Result<()> {
    let Some(name) = output.file_name().filter(|_| !crate::assemble::is_folder(output)) else {
        bail!("{} is no name for an image", output.display());
    };
    let packed = [".zst", ".gz", ".qcow2", ".vmdk"];
    if packed.iter().any(|end| name.to_string_lossy().ends_with(end)) {
        bail!("{}: the copy is a raw image, name it so", output.display());
    }
    if same(output, &source.path) {
        bail!("{} is the image itself: give --in-place to change it", output.display());
    }
    let folder = match output.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let work = tempfile::Builder::new().prefix(".headnode-customize-").tempdir_in(folder);
    let work = work.with_context(|| format!("creating a file in {}", folder.display()))?;
    interrupt::remove_on_interrupt(work.path().to_owned());
    let writing = || format!("writing {}", output.display());
    let place = work.path().join("image");
    let file = steps.run("Copying the image", |bar| {
        let to = File::options().read(true).write(true).create_new(true).open(&place)?;
        set_length(bar, source.image.size);
        copy::sparse(&source.contents.image.file, &to, &mut |bytes| bar.set_position(bytes))?;
        image::write(&to, patches)?;
        Ok(to)
    });
    let file = file.with_context(writing)?;
    let beside = manifest::beside(output);
    let mut files = vec![(place, output.to_owned())];
    let mut add = |name: &str, text: &[u8], to: PathBuf| -> anyhow::Result<()> {
        let place = work.path().join(name);
        fs::write(&place, text).with_context(|| format!("writing {}", to.display()))?;
        files.push((place, to));
        Ok(())
    };
    add("bmap", &map(&file, &source.image)?, bmap_of(output))?;
    let signature = with_ending(&source.beside, ".minisig");
    if let Some(text) = there(&signature)? {
        add("minisig", &text, with_ending(&beside, ".minisig"))?;
    }
    let text = fs::read(&source.beside);
    let text = text.with_context(|| format!("reading {}", source.beside.display()))?;
    add("manifest", &text, beside)?;
    drop(file);
    let stale = with_ending(&manifest::beside(output), ".minisig");
    if files.iter().all(|(_, to)| *to != stale) && there(&stale)?.is_some() {
        // Of another image that was there; it would make this one's manifest look forged.
        fs::remove_file(&stale).with_context(|| format!("removing {}", stale.display()))?;
    }
    // The manifest is the last: an image without one is seen as unfinished.
    interrupt::undisturbed(|| {
        files.iter().try_for_each(|(from, to)| {
            fs::rename(from, to).with_context(|| format!("creating {}", to.display()))
        })
    })
}

/// Changes the image itself, and its block map when there is one.
fn write_in_place(source: &Source, patches: &[Patch]) -> anyhow::Result<()> {
    let writing = || format!("writing {}", source.path.display());
    let file = File::options().read(true).write(true).open(&source.path).with_context(writing)?;
    interrupt::undisturbed(|| image::write(&file, patches)).with_context(writing)?;
    let path = bmap_of(&source.path);
    let Some(old) = there(&path)? else { return Ok(()) };
    let new = map(&file, &source.image)?;
    if new != old {
        let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let writing = || format!("writing {}", path.display());
        let mut temporary = tempfile::Builder::new()
            .prefix(".headnode-customize-")
            .tempfile_in(folder.unwrap_or(Path::new(".")))
            .with_context(writing)?;
        let mode = fs::metadata(&path).with_context(writing)?.permissions();
        io::Write::write_all(&mut temporary, &new).with_context(writing)?;
        temporary.as_file().set_permissions(mode).with_context(writing)?;
        interrupt::undisturbed(|| temporary.persist(&path)).with_context(writing)?;
    }
    Ok(())
}

fn map(file: &File, image: &Image) -> anyhow::Result<Vec<u8>> {
    let image = image::described(file, image).context("reading the new image")?;
    Ok(bmap::of_image(&image)?.into_bytes())
}

fn bmap_of(image: &Path) -> PathBuf {
    with_ending(image, ".bmap")
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// The content of a file that need not be there.
fn there(path: &Path) -> anyhow::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
    }
}

/// Whether two paths are one file.
fn same(a: &Path, b: &Path) -> bool {
    let id = |path: &Path| fs::metadata(path).map(|meta| (meta.dev(), meta.ino())).ok();
    id(a).is_some() && id(a) == id(b)
}

/// What the parts will hold. What was not given stays as it is, and must be in order.
fn look(source: &Source, patches: &[Patch]) -> anyhow::Result<Vec<Part>> {
    let mut found = Vec::new();
    for place in &source.image.personal {
        let patch = patches.iter().find(|patch| patch.path == place.path);
        let part = match patch {
            Some(patch) => manifest::personal::judge(&source.manifest, place, &patch.bytes),
            None => manifest::personal::look(&source.contents.image, &source.manifest, place)
                .with_context(|| format!("reading {}", source.path.display()))?,
        };
        match part {
            Ok(part) => found.push(part),
            Err(why) => bail!(
                "{}: {} is damaged: {why}. Give it anew, or make it blank with --clear",
                source.path.display(),
                place.path
            ),
        }
    }
    Ok(found)
}

fn report(target: &Path, found: &[Part], changed: &[Patch], notes: &[String]) -> Value {
    let part = |part: &Part| {
        let mut value = json!(part);
        if let Value::Object(map) = &mut value {
            let changed = changed.iter().any(|patch| patch.path == part.path);
            map.insert("changed".to_owned(), json!(changed));
        }
        value
    };
    json!({
        "image": target,
        "manifest": manifest::beside(target),
        "personal": found.iter().map(part).collect::<Vec<_>>(),
        "notes": notes,
    })
}

fn print(target: &Path, found: &[Part], changed: &[Patch], notes: &[String]) {
    for note in notes {
        println!("note: {note}");
    }
    let size = fs::metadata(target).map_or(0, |meta| meta.len());
    println!("{}  {}", target.display(), bytes(size));
    for part in found {
        let changed = changed.iter().any(|patch| patch.path == part.path);
        println!("  {} {part}", if changed { "~" } else { " " });
    }
}
