//! `headnode platform`: making platform images.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};

use crate::platform::apt::Mirrors;
use crate::platform::{self, Built, Options};

/// Arguments of `headnode platform`.
#[derive(Debug, Args)]
pub struct Platform {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Build the reference platform: Debian 12 with OpenZFS, its root in RAM
    Build(Build),
}

/// Builds the reference platform from Debian's packages, as `platform-<stamp>.tgz` in the layout of a
/// Triton Linux platform: vmlinuz, initrd (the whole root), the stamp and the list of packages.
///
/// The first build pins every package's version and digest in the lock file and compiles OpenZFS
/// (some minutes). A later build from the same lock takes everything from the cache and gives the
/// same bytes, also when the mirror has moved on.
///
/// Runs as root, or as an ordinary user where user namespaces are allowed. Proxies that this
/// machine's apt is configured for, and http_proxy, are used.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  headnode platform build                      out/platform-<stamp>.tgz from platform.lock
  headnode platform build --update-lock        the same, with the newest packages
  headnode platform build --mirror http://mirror.example/debian --json

Exit codes: 0 built, 1 failed, 2 wrong arguments.")]
pub struct Build {
    /// Folder for platform-<stamp>.tgz
    #[arg(long, short, value_name = "DIR", default_value = "out")]
    output: PathBuf,
    /// Lock file: read when it is there, else written
    #[arg(long, value_name = "FILE", default_value = "platform.lock")]
    lock: PathBuf,
    /// Pin the newest packages of the mirror instead of those in the lock file
    #[arg(long)]
    update_lock: bool,
    /// Stamp of a newly pinned platform, YYYYMMDDTHHMMSSZ [default: SOURCE_DATE_EPOCH, or now]
    #[arg(long, value_name = "STAMP", value_parser = stamp)]
    stamp: Option<u32>,
    /// Cache of packages and finished parts [default: $XDG_CACHE_HOME/headnode or ~/.cache/headnode]
    #[arg(long, value_name = "DIR", env = "HEADNODE_CACHE")]
    cache: Option<PathBuf>,
    /// Folder of files that are laid over the root
    #[arg(long, value_name = "DIR", default_value = "overlays/reference/base")]
    overlay: PathBuf,
    /// Mirror of Debian's archive (main and contrib)
    #[arg(long, value_name = "URL", env = "HEADNODE_DEBIAN_MIRROR")]
    mirror: Option<String>,
    /// Mirror of Debian's security archive
    #[arg(long, value_name = "URL", env = "HEADNODE_DEBIAN_SECURITY_MIRROR")]
    security_mirror: Option<String>,
    /// Print the result as JSON: paths, sizes, digests, times
    #[arg(long)]
    json: bool,
}

fn stamp(text: &str) -> Result<u32, String> {
    platform::lock::epoch_of(text).ok_or_else(|| {
        "a stamp is a time written YYYYMMDDTHHMMSSZ, such as 20260131T235959Z".into()
    })
}

/// Runs the command.
///
/// # Errors
/// What the build could not do.
pub fn run(args: Platform) -> Result<()> {
    match args.verb {
        Verb::Build(args) => build(args),
    }
}

fn build(args: Build) -> Result<()> {
    let epoch = match args.stamp {
        Some(epoch) => epoch,
        None => epoch_now()?,
    };
    let cache = args
        .cache
        .or_else(platform::default_cache)
        .context("finding a place for the cache: neither HOME nor --cache is set")?;
    let built = platform::build(&Options {
        lock: args.lock,
        update_lock: args.update_lock,
        epoch,
        output: args.output,
        cache,
        overlay: args.overlay,
        mirrors: Mirrors::new(args.mirror.as_deref(), args.security_mirror.as_deref()),
    })?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&built).context("writing JSON")?);
    } else {
        print!("{}", summary(&built));
    }
    Ok(())
}

fn epoch_now() -> Result<u32> {
    let seconds = match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => {
            text.parse().with_context(|| format!("reading SOURCE_DATE_EPOCH ({text:?})"))?
        }
        Err(_) => std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .context("reading the clock")?
            .as_secs(),
    };
    u32::try_from(seconds).context("taking the stamp: the time is after 2106")
}

fn summary(built: &Built) -> String {
    let mut text = format!(
        "\nplatform {}: kernel {}, ZFS {}, {} packages, {} of RAM\n  {}\n",
        built.stamp,
        built.kernel,
        built.zfs,
        built.packages,
        platform::mib(built.unpacked_size),
        built.platform.path,
    );
    for file in built.files.iter().chain([&built.platform]) {
        let name = file.path.rsplit('/').next().unwrap_or_default();
        text += &format!("  {:>10}  {}  {name}\n", platform::mib(file.size), file.sha256);
    }
    text + &format!("built in {:.1} s; pinned by {}\n", built.seconds, built.lock.display())
}
