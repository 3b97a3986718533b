//! A compute node's configuration: fetched from the headnode, kept on the pool, applied.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use headnode_command::Command;
use headnode_model::boot::KernelParams;
use headnode_model::config::Config;
use headnode_model::net::MacAddr;
use headnode_model::paths;
use headnode_node::file::write_atomic;
use tokio::time::Instant;

use super::STATE;
use crate::clock::Backoff;
use crate::steps::Step;

/// The longest file that is taken from the headnode, in bytes.
const FILE_LIMIT: usize = 1 << 20;
/// The longest pause between tries.
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// How often the console hears that the headnode is still away.
const TELL_EVERY: Duration = Duration::from_secs(30);

/// What the headnode gives a compute node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fetched {
    /// `node.config`.
    pub config: Config,
    /// `root.authorized_keys`; `None` when the headnode has none.
    pub keys: Option<String>,
}

/// A client for small files of the headnode.
///
/// # Errors
/// When the HTTP client cannot be made.
pub fn client() -> anyhow::Result<reqwest::Client> {
    reqwest::Client::builder()
        .connect_timeout(Duration::from_secs(3))
        .timeout(Duration::from_secs(10))
        .no_proxy()
        .build()
        .context("making the HTTP client")
}

/// Fetches the configuration and keys from `base`, as `http://10.99.99.7`, however long the
/// headnode is away.
pub async fn fetch(client: &reqwest::Client, base: &str, step: &Step) -> Fetched {
    let mut backoff = Backoff::new(Duration::from_millis(250), PAUSE_MAX);
    let mut told: Option<Instant> = None;
    loop {
        match fetch_once(client, base).await {
            Ok(fetched) => return fetched,
            Err(error) => {
                let text = format!("{error:#}");
                tracing::debug!(error = text, "fetching the configuration");
                if told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
                    step.message(format!("{text}; trying again"));
                    told = Some(Instant::now());
                }
                tokio::time::sleep(backoff.pause()).await;
            }
        }
    }
}

async fn fetch_once(client: &reqwest::Client, base: &str) -> anyhow::Result<Fetched> {
    let url = format!("{base}/{}", paths::EXTRA_NODE_CONFIG);
    let text = get(client, &url).await?.with_context(|| format!("{url} is not there"))?;
    let config = Config::parse(&text).with_context(|| format!("reading {url}"))?;
    if config.get("datacenter_name").is_none_or(str::is_empty) {
        bail!("{url} has no datacenter_name: not the configuration of a compute node");
    }
    let keys = get(client, &format!("{base}/{}", paths::EXTRA_AUTHORIZED_KEYS)).await?;
    Ok(Fetched { config, keys })
}

/// A file's text; `None` when the server says that there is none.
async fn get(client: &reqwest::Client, url: &str) -> anyhow::Result<Option<String>> {
    let mut response = client.get(url).send().await.map_err(cause)?;
    if response.status() == reqwest::StatusCode::NOT_FOUND {
        return Ok(None);
    }
    if !response.status().is_success() {
        bail!("{url} answered {}", response.status());
    }
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(cause)? {
        if bytes.len() + chunk.len() > FILE_LIMIT {
            bail!("{url} is longer than {FILE_LIMIT} bytes");
        }
        bytes.extend_from_slice(&chunk);
    }
    String::from_utf8(bytes).map(Some).with_context(|| format!("{url} is not text"))
}

/// reqwest names the URL but hides why it failed in the chain, several layers of which say little:
/// the URL and the last cause are what an operator needs.
fn cause(error: reqwest::Error) -> anyhow::Error {
    let url = error.url().map(ToString::to_string).unwrap_or_default();
    let mut last: &dyn std::error::Error = &error;
    while let Some(source) = last.source() {
        last = source;
    }
    anyhow::anyhow!("fetching {url}: {last}")
}

/// The configuration that an earlier boot kept on the pool.
pub fn kept() -> Option<Config> {
    let config = Config::parse(&fs::read_to_string(paths::NODE_CONFIG).ok()?).ok()?;
    config.get("datacenter_name").is_some().then_some(config)
}

/// Keeps the configuration; readable by root only, it has the password's hash.
///
/// # Errors
/// When the file system refuses.
pub fn keep(config: &Config) -> anyhow::Result<()> {
    write_new(Path::new(paths::NODE_CONFIG), &config.to_string(), 0o600)
}

/// Writes a file unless it has this content already.
fn write_new(path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    if fs::read_to_string(path).is_ok_and(|there| there == text) {
        return Ok(());
    }
    write_atomic(path, text.as_bytes(), mode).with_context(|| format!("writing {}", path.display()))
}

fn hostname_file() -> PathBuf {
    Path::new(STATE).join("hostname")
}

/// Keeps the host name that setup gave, for later boots.
///
/// # Errors
/// When the file system refuses.
pub fn keep_hostname(hostname: &str) -> anyhow::Result<()> {
    write_new(&hostname_file(), hostname, 0o644)
}

/// The host name: configuration, boot parameter, what setup gave, the MAC with dashes (C§1.7).
pub fn hostname(config: &Config, params: &KernelParams, mac: Option<MacAddr>) -> String {
    let kept = fs::read_to_string(hostname_file()).unwrap_or_default();
    choose_hostname(config.get("hostname"), params.get("hostname"), kept.trim(), mac)
}

fn choose_hostname(
    config: Option<&str>,
    param: Option<&str>,
    kept: &str,
    mac: Option<MacAddr>,
) -> String {
    let by_mac = mac.map_or_else(|| "computenode".to_owned(), MacAddr::dashed);
    // CNAPI's default parameter is the MAC's form too: a name that setup gave is more.
    let param = param.filter(|name| *name != by_mac || kept.is_empty());
    let names = [config, param, Some(kept)].into_iter().flatten();
    names.into_iter().find(|name| is_hostname(name)).unwrap_or(&by_mac).to_owned()
}

/// RFC 1123 §2.1: letters, digits and dashes in labels of at most 63, 253 in all.
fn is_hostname(name: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(label)
}

/// Sets the host name of the running system, and `/etc/hosts` so that it resolves.
///
/// # Errors
/// When the name cannot be one, or the system refuses.
pub fn set_hostname(hostname: &str) -> anyhow::Result<()> {
    if !is_hostname(hostname) {
        bail!("{hostname:?} cannot be a host name");
    }
    nix::unistd::sethostname(hostname).with_context(|| format!("setting host name {hostname}"))?;
    write_new(Path::new("/etc/hostname"), &format!("{hostname}\n"), 0o644)?;
    let hosts = format!("127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost\n");
    write_new(Path::new("/etc/hosts"), &hosts, 0o644)
}

/// Applies the configuration to the running system; tells what is odd and goes on, since a node
/// that cannot set its clock shall still register.
pub fn apply(fetched: &Fetched, params: &KernelParams, hostname: &str, step: &Step) {
    let config = &fetched.config;
    let parts: [(&str, anyhow::Result<()>); 6] = [
        ("host name", set_hostname(hostname)),
        ("root's password", apply_shadow(config, params)),
        ("root's keys", fetched.keys.as_deref().map_or(Ok(()), apply_keys)),
        ("name servers", apply_resolvers(config)),
        ("time servers", apply_ntp(config)),
        ("host keys", apply_host_keys()),
    ];
    for (what, result) in parts {
        if let Err(error) = result {
            step.message(format!("{what} not set: {error:#}"));
        }
    }
}

fn apply_shadow(config: &Config, params: &KernelParams) -> anyhow::Result<()> {
    let hash = params.get("root_shadow").or_else(|| config.get("root_shadow"));
    let Some(hash) = hash.filter(|hash| !hash.is_empty()) else { return Ok(()) };
    let path = Path::new("/etc/shadow");
    let text = fs::read_to_string(path).context("reading /etc/shadow")?;
    let text = with_root_hash(&text, hash)?;
    write_new(path, &text, 0o600)
}

/// `/etc/shadow` with another password hash for root.
///
/// # Errors
/// When the hash would break the file's form.
pub fn with_root_hash(shadow: &str, hash: &str) -> anyhow::Result<String> {
    if hash.contains([':', '\n', '\r']) {
        bail!("root_shadow is not a password hash");
    }
    let mut out = String::with_capacity(shadow.len() + hash.len());
    let mut found = false;
    for line in shadow.lines() {
        match line.strip_prefix("root:").and_then(|rest| rest.split_once(':')) {
            Some((_, rest)) => {
                found = true;
                out.push_str(&format!("root:{hash}:{rest}\n"));
            }
            None => {
                out.push_str(line);
                out.push('\n');
            }
        }
    }
    if !found {
        out.push_str(&format!("root:{hash}:19000:0:99999:7:::\n"));
    }
    Ok(out)
}

fn apply_keys(keys: &str) -> anyhow::Result<()> {
    let folder = Path::new("/root/.ssh");
    fs::create_dir_all(folder).context("making /root/.ssh")?;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).context("closing /root/.ssh")?;
    write_new(&folder.join("authorized_keys"), keys, 0o600)
}

fn apply_resolvers(config: &Config) -> anyhow::Result<()> {
    let servers = config.addresses("dns_resolvers")?;
    let mut text = String::new();
    if let Some(domain) = config.get("dns_domain").filter(|domain| is_hostname(domain)) {
        text.push_str(&format!("search {domain}\n"));
    }
    servers.iter().for_each(|server: &Ipv4Addr| text.push_str(&format!("nameserver {server}\n")));
    if text.is_empty() {
        return Ok(());
    }
    write_new(Path::new("/etc/resolv.conf"), &text, 0o644)
}

fn apply_ntp(config: &Config) -> anyhow::Result<()> {
    let hosts = config.get("ntp_hosts").unwrap_or_default();
    let hosts = hosts.split([',', ' ']).filter(|host| is_hostname(host));
    let text: String = hosts.map(|host| format!("server {host} iburst\n")).collect();
    let path = Path::new("/etc/chrony/sources.d/headnode.sources");
    if text.is_empty() || fs::read_to_string(path).is_ok_and(|there| there == text) {
        return Ok(());
    }
    write_new(path, &text, 0o644)?;
    // A daemon that has not started yet reads the file when it does.
    if Path::new("/run/chrony/chronyd.sock").exists() {
        Command::new("chronyc")
            .args(["reload", "sources"])
            .timeout(Duration::from_secs(10))
            .run()?;
    }
    Ok(())
}

/// Where the platform keeps ssh's host keys, and where we keep them over reboots.
const SSH: &str = "/etc/ssh";

fn kept_keys() -> PathBuf {
    Path::new(STATE).join("ssh")
}

fn host_key_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let name = |path: &Path| path.file_name().map(|n| n.to_string_lossy().into_owned());
    let mut files: Vec<_> = entries
        .map(|entry| entry.path())
        .filter(|path| name(path).is_some_and(|n| n.starts_with("ssh_host_")))
        .collect();
    files.sort();
    files
}

/// Keeps the host keys on the pool, so that the machine is known again after a reboot.
///
/// # Errors
/// When the file system refuses.
pub fn keep_host_keys() -> anyhow::Result<()> {
    copy_keys(Path::new(SSH), &kept_keys()).map(drop)
}

/// Puts the kept host keys in the place of those that this boot has made, and makes ssh use them.
fn apply_host_keys() -> anyhow::Result<()> {
    if host_key_files(&kept_keys()).is_empty() || !copy_keys(&kept_keys(), Path::new(SSH))? {
        return Ok(());
    }
    // Not restarted: sessions go on, and one that has not started is left alone.
    Command::new("systemctl")
        .args(["--no-block", "try-reload-or-restart", "ssh.service"])
        .timeout(Duration::from_secs(20))
        .run()?;
    Ok(())
}

/// Copies host keys; tells whether anything changed.
fn copy_keys(from: &Path, to: &Path) -> anyhow::Result<bool> {
    let mut changed = false;
    for file in host_key_files(from) {
        let Some(name) = file.file_name() else { continue };
        let target = to.join(name);
        let bytes = fs::read(&file).with_context(|| format!("reading {}", file.display()))?;
        let same = |there: io::Result<Vec<u8>>| there.is_ok_and(|there| there == bytes);
        if bytes.is_empty() || same(fs::read(&target)) {
            continue;
        }
        let mode = if file.extension().is_some_and(|e| e == "pub") { 0o644 } else { 0o600 };
        write_atomic(&target, &bytes, mode)
            .with_context(|| format!("writing {}", target.display()))?;
        changed = true;
    }
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn roots_hash_is_replaced_and_nobody_elses() {
        let shadow = "root:*:19000:0:99999:7:::\ndaemon:*:19000:0:99999:7:::\n";
        let text = with_root_hash(shadow, "$6$salt$hash").unwrap();
        assert_eq!(text, "root:$6$salt$hash:19000:0:99999:7:::\ndaemon:*:19000:0:99999:7:::\n");
        assert!(with_root_hash("", "$6$x").unwrap().starts_with("root:$6$x:"));
        assert!(with_root_hash(shadow, "a\nb").is_err());
    }

    #[test]
    fn the_host_names_order_is_kept() {
        let mac = "52:54:00:00:00:01".parse().ok();
        let by_mac = "52-54-00-00-00-01";
        assert_eq!(choose_hostname(Some("a"), Some("b"), "c", mac), "a");
        assert_eq!(choose_hostname(None, Some("b"), "c", mac), "b");
        assert_eq!(choose_hostname(None, Some(by_mac), "c", mac), "c");
        assert_eq!(choose_hostname(None, Some("bad name"), "", mac), by_mac);
    }

    #[test]
    fn host_keys_are_copied_once() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(from.path().join("ssh_host_ed25519_key"), "secret").unwrap();
        fs::write(from.path().join("ssh_host_ed25519_key.pub"), "public").unwrap();
        fs::write(from.path().join("sshd_config"), "no key").unwrap();
        assert!(copy_keys(from.path(), to.path()).unwrap());
        assert!(!copy_keys(from.path(), to.path()).unwrap());
        assert_eq!(host_key_files(to.path()).len(), 2);
        let key = fs::metadata(to.path().join("ssh_host_ed25519_key")).unwrap();
        assert_eq!(key.permissions().mode() & 0o777, 0o600);
    }

    proptest! {
        #[test]
        fn a_host_name_is_always_one(a: String, b: String, c: String) {
            let mac = "52:54:00:00:00:01".parse().ok();
            prop_assert!(is_hostname(&choose_hostname(Some(&a), Some(&b), &c, mac)));
        }

        #[test]
        fn shadow_keeps_its_other_lines(lines in proptest::collection::vec("[a-z]{1,8}:[^\n:]*:1:2:3", 0..6), hash in "[$./a-z0-9]{0,30}") {
            let shadow = lines.iter().map(|l| format!("{l}\n")).collect::<String>();
            let text = with_root_hash(&shadow, &hash).unwrap();
            for line in lines.iter().filter(|l| !l.starts_with("root:")) {
                prop_assert!(text.contains(line.as_str()));
            }
        }
    }
}
