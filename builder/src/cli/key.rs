//! `headnode key`.

use std::fs::{self, OpenOptions};
use std::io::{IsTerminal, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use serde_json::json;

use crate::manifest;
use crate::manifest::signature::{self, Error, PASSPHRASE_ENV, PublicKey, SecretKey};
use crate::source::digest::sha256;

/// Make and show keys that images are signed with
///
/// Keys and signatures are minisign's: `minisign -V -p KEY.pub -m IMAGE.manifest.json` checks an
/// image without this program, and keys that minisign made can be used here.
///
/// Exit codes: 0 done, 1 failed, 2 wrong arguments.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    New(New),
    Show(Show),
    Sign(Sign),
}

/// Make a key: FILE is the secret one, FILE with .pub the public one
///
/// The secret key is encrypted with a passphrase, which is asked for at the terminal or taken from
/// the environment variable HEADNODE_KEY_PASSPHRASE. Files that exist are never overwritten.
///
/// Exit codes: 0 done, 1 failed (nothing was written), 2 wrong arguments.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
struct New {
    /// The secret key's file
    #[arg(long, short, value_name = "FILE", default_value = "headnode.key")]
    output: PathBuf,
    /// Do not encrypt the secret key: who has the file can sign
    #[arg(long)]
    no_passphrase: bool,
    /// Tell the result as JSON on standard output
    #[arg(long)]
    json: bool,
}

/// Show the id and the public key of a key file, secret or public
///
/// Exit codes: 0 done, 1 it is no key or the passphrase is wrong, 2 wrong arguments.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
struct Show {
    /// A secret or public key file, or a public key itself
    #[arg(value_name = "KEY", default_value = "headnode.pub")]
    key: String,
    /// Print what a public key file holds
    #[arg(long, conflicts_with = "json")]
    file: bool,
    /// Tell the result as JSON on standard output
    #[arg(long)]
    json: bool,
}

/// Sign the manifest of an image that was built before, or any file: <file>.minisig
///
/// For keys that are kept away from the machine that builds: only the manifest has to be brought to
/// the key. Signing again gives the same signature.
///
/// Exit codes: 0 done, 1 it cannot be read, or the key cannot be used, 2 wrong arguments.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
struct Sign {
    /// The manifest, the image that it lies beside, or another file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The secret key
    #[arg(long, value_name = "FILE", default_value = "headnode.key")]
    key: PathBuf,
    /// Tell the result as JSON on standard output
    #[arg(long)]
    json: bool,
}

/// Runs the verb.
///
/// # Errors
/// When a key cannot be made or read.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.verb {
        Verb::New(args) => new(&args)?,
        Verb::Show(args) => show(&args)?,
        Verb::Sign(args) => sign(&args)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Reads the secret key that signs, asking for its passphrase when it has one: from the environment,
/// else at the terminal.
///
/// # Errors
/// When it cannot be read, or the passphrase is missing or wrong.
pub fn secret(path: &Path) -> anyhow::Result<SecretKey> {
    SecretKey::read(path, &mut passphrase)
        .with_context(|| format!("reading the secret key {}", path.display()))
}

fn passphrase() -> Result<String, Error> {
    if let Ok(text) = std::env::var(PASSPHRASE_ENV) {
        return Ok(text);
    }
    if !std::io::stdin().is_terminal() {
        return Err(Error::Locked);
    }
    let asked = inquire::Password::new("Passphrase of the secret key:").without_confirmation();
    asked.prompt().map_err(|_| Error::Locked)
}

fn new(args: &New) -> anyhow::Result<()> {
    let public_path = public_path(&args.output);
    for path in [&args.output, &public_path] {
        if path.symlink_metadata().is_ok() {
            bail!(
                "{} exists: a key is never overwritten; name another with --output",
                path.display()
            );
        }
    }
    let passphrase = match (args.no_passphrase, std::env::var(PASSPHRASE_ENV)) {
        (true, _) => None,
        (_, Ok(text)) if text.is_empty() => {
            bail!("{PASSPHRASE_ENV} is empty: give a passphrase, or say --no-passphrase")
        }
        (_, Ok(text)) => Some(text),
        (_, Err(_)) if !std::io::stdin().is_terminal() => bail!(
            "there is no terminal to ask for a passphrase: set {PASSPHRASE_ENV}, or say \
             --no-passphrase"
        ),
        (_, Err(_)) => {
            let asked = inquire::Password::new("Passphrase of the new key:")
                .with_custom_confirmation_message("Once more:");
            let text = asked.prompt().context("asking for a passphrase")?;
            if text.is_empty() {
                bail!("the passphrase is empty: say --no-passphrase if the key is to have none");
            }
            Some(text)
        }
    };
    let key = SecretKey::generate()?;
    let public = key.public();
    let secret_text = key.text(passphrase.as_deref())?;
    write_new(&args.output, &secret_text, 0o600)?;
    if let Err(error) = write_new(&public_path, &public.text(), 0o644) {
        // A secret key without its public one would be in the way of the next try.
        fs::remove_file(&args.output)
            .with_context(|| format!("removing {} again", args.output.display()))?;
        return Err(error);
    }
    if args.json {
        let report = json!({
            "key_id": public.id(), "public_key": public.base64(), "secret_key_file": args.output,
            "public_key_file": public_path, "encrypted": passphrase.is_some(),
        });
        println!("{report:#}");
    } else {
        println!("key {}", public.id());
        println!("  secret key: {} (keep it, and keep it to yourself)", args.output.display());
        println!("  public key: {} (give it to those who check)", public_path.display());
        println!("  {}", public.base64());
    }
    Ok(())
}

/// Where the public key of a secret key's file goes: `x.key` has `x.pub`, `x` has `x.pub`.
fn public_path(secret: &Path) -> PathBuf {
    match secret.extension() {
        Some(extension) if extension == "key" => secret.with_extension("pub"),
        _ => {
            let mut name = secret.as_os_str().to_owned();
            name.push(".pub");
            PathBuf::from(name)
        }
    }
}

fn write_new(path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .with_context(|| format!("creating {}", path.display()))?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    if written.is_err() {
        // Half a key is none; the error that is told is that of writing.
        let _ = fs::remove_file(path);
    }
    written.with_context(|| format!("writing {}", path.display()))
}

fn show(args: &Show) -> anyhow::Result<()> {
    let path = Path::new(&args.key);
    let public = match PublicKey::from_argument(&args.key) {
        Ok(public) => public,
        Err(error) if path.is_file() => match SecretKey::read(path, &mut passphrase) {
            Ok(key) => key.public(),
            Err(Error::SecretKey(why)) => bail!(
                "{} is neither a public key ({error}) nor a secret one ({why})",
                path.display()
            ),
            Err(error) => return Err(error).context(format!("reading {}", path.display())),
        },
        Err(error) => return Err(error.into()),
    };
    if args.json {
        println!("{:#}", json!({"key_id": public.id(), "public_key": public.base64()}));
    } else if args.file {
        print!("{}", public.text());
    } else {
        println!("key {}\n  {}", public.id(), public.base64());
    }
    Ok(())
}

fn sign(args: &Sign) -> anyhow::Result<()> {
    const MANIFEST: &str = ".manifest.json";
    let beside = manifest::beside(&args.file);
    let name = args.file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let file = if beside.is_file() { beside } else { args.file.clone() };
    let text = fs::read(&file).with_context(|| format!("reading {}", file.display()))?;
    let key = secret(&args.key)?;
    let signature = if file != args.file || name.ends_with(MANIFEST) {
        signature::sign_manifest(&text, &key)
    } else {
        let plain: String = name.chars().filter(|c| !c.is_control()).collect();
        let comment = format!("{plain} sha256:{}", sha256(&text));
        signature::sign(&text, &comment, &key).map(|signature| signature.text())
    };
    let signature = signature.with_context(|| format!("signing {}", file.display()))?;
    let path = signature::beside(&file);
    fs::write(&path, signature).with_context(|| format!("writing {}", path.display()))?;
    let id = key.public().id();
    if args.json {
        println!("{:#}", json!({"file": file, "signature": path, "key_id": id}));
    } else {
        println!("{}: signed by key {id}", path.display());
    }
    Ok(())
}
