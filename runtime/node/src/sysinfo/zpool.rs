//! What sysinfo tells of the system pool.

use std::time::Duration;

use headnode_command::{Command, Error};

/// Time limit of one look at the pool: a pool whose disks hang must not hang its reporter.
const LIMIT: Duration = Duration::from_secs(20);

/// Facts of an imported pool.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PoolFacts {
    /// Its name.
    pub name: String,
    /// Whole disks that it lives on, names without `/dev/`.
    pub disks: Vec<String>,
    /// Layout of its data disks: `single`, `stripe`, `mirror`, `raidz1`, …; `mixed` otherwise.
    pub profile: String,
    /// Health in ZFS' words: `ONLINE`, `DEGRADED`, …
    pub health: String,
    /// Seconds since 1970 when it was made.
    pub creation: u64,
    /// Bytes in use.
    pub used: u64,
    /// Bytes free.
    pub available: u64,
    /// Whether it is encrypted.
    pub encrypted: bool,
}

impl PoolFacts {
    /// Asks ZFS about a pool; `None` when no such pool is imported.
    ///
    /// # Errors
    /// When the ZFS commands cannot be run or hang.
    pub fn read(pool: &str) -> Result<Option<Self>, Error> {
        let list = Command::new("zpool").args(["list", "-vHPLp", pool]).timeout(LIMIT).run();
        let list = match list {
            Ok(output) => output.stdout,
            Err(Error::Failed { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut facts = Self::parse_list(pool, &list);
        let properties = "creation,used,available,encryption";
        let get = Command::new("zfs")
            .args(["get", "-Hp", "-o", "property,value", properties, pool])
            .timeout(LIMIT)
            .run()?;
        facts.parse_properties(&get.stdout);
        Ok(Some(facts))
    }

    /// Reads `zpool list -vHPLp`: the pool's line, then one per vdev and disk, indented by a tab.
    fn parse_list(pool: &str, text: &str) -> Self {
        let mut facts = Self { name: pool.to_owned(), ..Self::default() };
        let mut profiles = Vec::new();
        let mut data = true;
        for line in text.lines() {
            let fields: Vec<_> = line.split_whitespace().collect();
            let Some(first) = fields.first() else { continue };
            if *first == pool {
                // HEALTH is the column before the last one, ALTROOT.
                if let Some(health) = fields.iter().rev().nth(1) {
                    (*health).clone_into(&mut facts.health);
                }
                continue;
            }
            if let Some(path) = first.strip_prefix("/dev/") {
                facts.disks.push(whole_disk(path));
                continue;
            }
            let kind = first.split_once('-').map_or(*first, |(kind, _)| kind);
            match kind {
                "logs" | "cache" | "special" | "dedup" | "spare" => data = false,
                "mirror" if data => profiles.push("mirror".to_owned()),
                kind if data && (kind.starts_with("raidz") || kind.starts_with("draid")) => {
                    // Both of them write `raidz1-0`; the number is the parity.
                    profiles.push(kind.to_owned());
                }
                _ => {}
            }
        }
        profiles.sort();
        profiles.dedup();
        facts.profile = match (profiles.as_slice(), facts.disks.len()) {
            ([], 0 | 1) => "single".to_owned(),
            ([], _) => "stripe".to_owned(),
            ([one], _) => one.clone(),
            _ => "mixed".to_owned(),
        };
        facts
    }

    fn parse_properties(&mut self, text: &str) {
        for line in text.lines() {
            let Some((property, value)) = line.split_once('\t') else { continue };
            match property {
                "creation" => self.creation = value.parse().unwrap_or(0),
                "used" => self.used = value.parse().unwrap_or(0),
                "available" => self.available = value.parse().unwrap_or(0),
                "encryption" => self.encrypted = !matches!(value, "off" | "-" | ""),
                _ => {}
            }
        }
    }

    /// Usable size in GiB.
    pub fn size_gib(&self) -> u64 {
        self.used.saturating_add(self.available) >> 30
    }
}

/// The disk that a partition's name belongs to; ZFS uses partition 1 of disks that it was given
/// whole.
fn whole_disk(partition: &str) -> String {
    let digits = partition.trim_end_matches(|c: char| c.is_ascii_digit());
    let name = match digits.strip_suffix('p') {
        // nvme0n1p1 → nvme0n1
        Some(disk) if disk.ends_with(|c: char| c.is_ascii_digit()) => disk,
        // sda1, vda1 → sda, vda; but nvme0n1 has no partition.
        _ if ["sd", "vd", "hd", "xvd"].iter().any(|kind| digits.starts_with(kind)) => digits,
        _ => partition,
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIRROR: &str = "zones\t8053063680\t151552\t8052912128\t-\t-\t0\t0\t1.00\tONLINE\t-\n\
        \tmirror-0\t8053063680\t151552\t8052912128\t-\t-\t0\t0\t-\tONLINE\n\
        \t/dev/vda1\t8587837440\t-\t-\t-\t-\t-\t-\t-\tONLINE\n\
        \t/dev/vdb1\t-\t-\t-\t-\t-\t-\t-\t-\tONLINE\n";

    #[test]
    fn a_mirror_is_recognised() {
        let mut facts = PoolFacts::parse_list("zones", MIRROR);
        facts.parse_properties(
            "creation\t1761000000\nused\t1073741824\navailable\t6442450944\nencryption\toff\n",
        );
        assert_eq!(facts.disks, ["vda", "vdb"]);
        assert_eq!((facts.profile.as_str(), facts.health.as_str()), ("mirror", "ONLINE"));
        assert_eq!((facts.creation, facts.size_gib(), facts.encrypted), (1_761_000_000, 7, false));
    }

    #[test]
    fn other_layouts_and_disk_names() {
        let single = "zones\t1\t1\t1\t-\t-\t0\t0\t1.00\tDEGRADED\t-\n\t/dev/nvme0n1p1\t1\n";
        let facts = PoolFacts::parse_list("zones", single);
        assert_eq!((facts.profile.as_str(), facts.health.as_str()), ("single", "DEGRADED"));
        assert_eq!(facts.disks, ["nvme0n1"]);
        let raidz =
            "zones\t1\n\traidz2-0\n\t/dev/sda\n\t/dev/sdb1\nlogs\t-\n\tmirror-1\n\t/dev/sdc1\n";
        let facts = PoolFacts::parse_list("zones", raidz);
        assert_eq!((facts.profile.as_str(), facts.disks.len()), ("raidz2", 3));
        assert_eq!(whole_disk("nvme0n1"), "nvme0n1");
        assert_eq!(whole_disk("mapper/x1"), "mapper/x1");
    }

    proptest! {
        #[test]
        fn no_output_panics(text: String) {
            PoolFacts::parse_list("zones", &text).parse_properties(&text);
            drop(whole_disk(&text));
        }
    }
}
