//! The lease file: one readable line per machine, replaced as a whole.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{Lease, Leases};
use crate::durable;

const HEAD: &str = "# Leases of sdc-booter; it rewrites this file. One line per machine:\n\
    # MAC address, IP address, last seen, valid until, UUID of the machine or -\n";
/// Files larger than this are not ours: a full /16 of leases has 7 MB.
const SIZE_LIMIT: u64 = 64 << 20;

/// Where the leases are kept.
#[derive(Debug, Clone)]
pub struct LeaseFile {
    path: PathBuf,
}

impl LeaseFile {
    /// The file `leases` in the folder `state`.
    pub fn new(state: &Path) -> Self {
        Self { path: state.join("leases") }
    }

    /// Fills the table from the file. A damaged file costs its damaged lines only: each is logged,
    /// and the file is kept beside as `leases.damaged`.
    ///
    /// # Errors
    /// When the file is there and cannot be read at all.
    pub fn load(&self, leases: &mut Leases) -> io::Result<()> {
        let file = match std::fs::metadata(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
            Ok(found) => found,
        };
        if file.len() > SIZE_LIMIT {
            return Err(io::Error::other("the file is far too large for a list of leases"));
        }
        let content = std::fs::read(&self.path)?;
        let (found, problems) = parse(&String::from_utf8_lossy(&content));
        let path = self.path.display();
        if !problems.is_empty() {
            let kept = self.path.with_extension("damaged");
            durable::replace(&kept, &content)?;
            for problem in &problems {
                tracing::error!(file = %path, "the lease file is damaged: {problem}");
            }
            tracing::error!(
                file = %path, kept = %kept.display(), leases = found.len(), problems = problems.len(),
                "going on with the leases that could be read; a copy of the damaged file was kept"
            );
        }
        for lease in found {
            let mac = lease.mac;
            if let Err(refusal) = leases.restore(lease) {
                tracing::warn!(file = %path, %mac, "a lease is dropped: {refusal}");
            }
        }
        Ok(())
    }

    /// Writes the table; returns only when it is safely on disk.
    ///
    /// # Errors
    /// What the file system says; the old file is then untouched.
    pub fn save(&self, text: &str) -> io::Result<()> {
        durable::replace(&self.path, text.as_bytes())
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// The file's text for a table.
pub(crate) fn render(leases: &Leases) -> String {
    let mut text = String::from(HEAD);
    for Lease { mac, ip, uuid, seen, until } in leases.iter() {
        let uuid = uuid.map_or_else(|| "-".to_owned(), |uuid| uuid.to_string());
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{mac} {ip:<15} {} {} {uuid}", stamp(*seen), stamp(*until));
    }
    let _ = writeln!(text, "# end {}", leases.len());
    text
}

/// The leases in a file's text, and what is wrong with the text.
pub fn parse(text: &str) -> (Vec<Lease>, Vec<String>) {
    let mut leases = Vec::new();
    let mut problems = Vec::new();
    let mut end = None;
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if let Some(count) = line.strip_prefix("# end ") {
            end = count.parse::<usize>().ok();
        } else if !line.is_empty() && !line.starts_with('#') {
            match parse_line(line) {
                Some(lease) => leases.push(lease),
                None => {
                    let shown: String = line.chars().take(120).collect();
                    problems.push(format!("line {} is no lease: {shown:?}", number + 1));
                }
            }
        }
    }
    match end {
        None => problems.push("its last line (# end …) is missing: it was cut off".to_owned()),
        Some(count) if count != leases.len() + problems.len() => {
            problems.push(format!("it should hold {count} leases but has {}", leases.len()));
        }
        Some(_) => {}
    }
    (leases, problems)
}

fn parse_line(line: &str) -> Option<Lease> {
    let mut words = line.split_whitespace();
    let time = |word: &str| Some(OffsetDateTime::parse(word, &Rfc3339).ok()?.unix_timestamp());
    let lease = Lease {
        mac: words.next()?.parse().ok()?,
        ip: words.next()?.parse().ok()?,
        seen: time(words.next()?)?,
        until: time(words.next()?)?,
        uuid: match words.next()? {
            "-" => None,
            text => Some(text.parse().ok()?),
        },
    };
    words.next().is_none().then_some(lease)
}

fn stamp(unix: i64) -> String {
    OffsetDateTime::from_unix_timestamp(unix)
        .ok()
        .and_then(|at| at.format(&Rfc3339).ok())
        .unwrap_or_else(|| "1970-01-01T00:00:00Z".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use headnode_model::net::MacAddr;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;
    use uuid::Uuid;

    fn empty() -> Leases {
        Leases::new((Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(10, 0, 0, 250)), [])
    }

    fn filled() -> Leases {
        let mut leases = empty();
        for n in 0..5 {
            let lease = Lease {
                mac: MacAddr([2, 0, 0, 0, 0, n]),
                ip: Ipv4Addr::new(10, 0, 0, 10 + n),
                uuid: (n % 2 == 0).then(|| Uuid::from_u128(n.into())),
                seen: 1_800_000_000,
                until: 1_802_592_000,
            };
            leases.restore(lease).unwrap();
        }
        leases
    }

    #[test]
    fn what_is_written_is_read_again() {
        let leases = filled();
        let (found, problems) = parse(&render(&leases));
        assert_eq!(problems, Vec::<String>::new());
        assert!(leases.iter().eq(found.iter()));
    }

    #[test]
    fn a_damaged_file_keeps_its_good_lines_and_a_copy() {
        let dir = tempfile::tempdir().unwrap();
        let file = LeaseFile::new(dir.path());
        let text = render(&filled());
        let cut = text.rfind("10.0.0.14").unwrap() + 5;
        let mut damaged = text.as_bytes()[..cut].to_vec();
        damaged[HEAD.len()] = 0xff;
        std::fs::write(file.path(), &damaged).unwrap();
        let mut leases = empty();
        file.load(&mut leases).unwrap();
        assert_eq!(leases.len(), 3);
        assert_eq!(std::fs::read(dir.path().join("leases.damaged")).unwrap(), damaged);
    }

    #[test]
    fn no_file_is_an_empty_table() {
        let dir = tempfile::tempdir().unwrap();
        let mut leases = empty();
        LeaseFile::new(dir.path()).load(&mut leases).unwrap();
        assert!(leases.is_empty());
    }

    proptest! {
        #[test]
        fn a_cut_is_always_noticed(share in 0.0..1.0f64) {
            let text = render(&filled());
            let cut = (text.len() as f64 * share) as usize;
            // Without the last line break the last line is still whole.
            prop_assume!(cut + 1 < text.len());
            let (found, problems) = parse(&text[..cut]);
            prop_assert!(!problems.is_empty());
            prop_assert!(found.len() <= 5);
        }

        #[test]
        fn no_text_panics(text: String) {
            drop(parse(&text));
        }
    }
}
