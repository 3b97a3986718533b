//! Which disks a pool is made of.

use crate::disk::{Disk, gigabytes};
use crate::pool::Layout;

/// The smallest disk that is taken without being named, in bytes: below it, it is a forgotten
/// stick or a boot module.
pub const SMALLEST: u64 = 1_000_000_000;

/// Disks of one size class differ by at most this many percent (C§3.4).
const SAME_SIZE_PERCENT: u64 = 5;

/// What the operator says about disks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wishes {
    /// Use exactly these disks; empty: choose. Words as in [`Disk::is_meant_by`].
    pub pool_disks: Vec<String>,
    /// These may be used although something is on them: it will be destroyed.
    pub wipe_disks: Vec<String>,
}

/// The disks chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// How they are arranged.
    pub layout: Layout,
    /// The disks.
    pub disks: Vec<Disk>,
    /// One sentence about the choice, for people.
    pub reason: String,
}

/// Why no pool can be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoPlan {
    /// There is no disk at all that could be used, used or not.
    #[error(
        "there is no disk for the pool: attach one of at least {}, or load the driver of its \
         controller{}", gigabytes(SMALLEST), seen(.0)
    )]
    NoDisk(Vec<String>),
    /// Something is on every disk.
    #[error(
        "no blank disk for the pool. These hold something and are left alone:{}\n  To destroy what is on a disk and use it, \
         name its serial number in `wipe_disks` of the answers file, or attach a blank disk", seen(.0)
    )]
    AllUsed(Vec<String>),
    /// A disk that was named cannot be used.
    #[error("{key} names {word:?}: {reason}{}", seen(.disks))]
    Named {
        /// The key of the answers file.
        key: &'static str,
        /// The disk named.
        word: String,
        /// Why not.
        reason: String,
        /// The disks that are there.
        disks: Vec<String>,
    },
}

fn seen(disks: &[String]) -> String {
    disks.iter().map(|disk| format!("\n    {disk}")).collect()
}

/// Chooses the disks of a pool. `key` is the disk that the machine booted from; it is never taken.
///
/// Without wishes: all blank, fixed disks of at least [`SMALLEST`]; of these one makes a single
/// pool, and the largest two of equal size (within 5 %) a mirror.
///
/// # Errors
/// Tells all disks and what is on them.
pub fn choose(disks: &[Disk], key: Option<&str>, wishes: &Wishes) -> Result<Plan, NoPlan> {
    let usable = |d: &&Disk| key != Some(d.name.as_str()) && !d.read_only;
    let all: Vec<&Disk> = disks.iter().filter(usable).collect();
    let tell = |d: &Disk| {
        let content = d.content().unwrap_or_else(|| "blank".to_owned());
        format!("{}: {content}", d.describe())
    };
    let listed = || all.iter().map(|d| tell(d)).collect::<Vec<_>>();
    let find = |what: &'static str, word: &str| {
        let named = |reason: String| NoPlan::Named {
            key: what,
            word: word.to_owned(),
            reason,
            disks: listed(),
        };
        if disks.iter().any(|d| d.is_meant_by(word) && key == Some(d.name.as_str())) {
            return Err(named("that is the disk that this machine booted from".to_owned()));
        }
        let found = all.iter().find(|d| d.is_meant_by(word));
        found.copied().ok_or_else(|| named("there is no such disk. The machine has:".to_owned()))
    };
    let wiped =
        wishes.wipe_disks.iter().map(|w| find("wipe_disks", w)).collect::<Result<Vec<_>, _>>()?;
    let may_wipe = |d: &Disk| wiped.iter().any(|w| w.name == d.name);
    if !wishes.pool_disks.is_empty() {
        let mut picked: Vec<Disk> = Vec::new();
        for word in &wishes.pool_disks {
            let disk = find("pool_disks", word)?;
            if let Some(content) = disk.content().filter(|_| !may_wipe(disk)) {
                return Err(NoPlan::Named {
                    key: "pool_disks",
                    word: word.clone(),
                    reason: format!(
                        "it holds something ({content}); to destroy that, name it in `wipe_disks` too"
                    ),
                    disks: Vec::new(),
                });
            }
            if !picked.iter().any(|p| p.name == disk.name) {
                picked.push(disk.clone());
            }
        }
        let layout = if picked.len() == 1 { Layout::Single } else { Layout::Mirror };
        let reason = format!("{layout} of the disks named in pool_disks");
        return Ok(Plan { layout, disks: picked, reason });
    }
    let candidate = |d: &&&Disk| may_wipe(d) || (d.blank() && !d.removable && d.size >= SMALLEST);
    let mut free: Vec<&Disk> = all.iter().filter(candidate).copied().collect();
    if free.is_empty() {
        let fixed = all.iter().any(|d| d.size >= SMALLEST);
        return Err(if fixed { NoPlan::AllUsed(listed()) } else { NoPlan::NoDisk(listed()) });
    }
    // Largest first; equal sizes keep the order of their names.
    free.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.name.cmp(&b.name)));
    let alike = |a: &Disk, b: &Disk| a.size.abs_diff(b.size) <= a.size / 100 * SAME_SIZE_PERCENT;
    let pair = free.windows(2).find(|w| alike(w[0], w[1]));
    let count = free.len();
    let (layout, picked, reason) = match pair {
        Some(pair) if count == 2 => {
            (Layout::Mirror, pair.to_vec(), "mirror of the two free disks".to_owned())
        }
        Some(pair) => (
            Layout::Mirror,
            pair.to_vec(),
            format!(
                "mirror of the two largest of equal size, {} of {count} free disks stay unused",
                count - 2
            ),
        ),
        None if count == 1 => {
            (Layout::Single, vec![free[0]], "the only free disk, no redundancy".to_owned())
        }
        None => (
            Layout::Single,
            vec![free[0]],
            format!("the largest of {count} free disks of different sizes, no redundancy"),
        ),
    };
    Ok(Plan { layout, disks: picked.into_iter().cloned().collect(), reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GB: u64 = 1_000_000_000;

    fn disk(name: &str, gb: u64) -> Disk {
        let serial = Some(name.to_uppercase());
        Disk { name: name.into(), size: gb * GB, serial, zeroed: true, ..Disk::default() }
    }

    fn used(name: &str, gb: u64) -> Disk {
        Disk { fs: Some("zfs_member".into()), label: Some("tank".into()), ..disk(name, gb) }
    }

    fn names(plan: &Plan) -> Vec<&str> {
        plan.disks.iter().map(|d| d.name.as_str()).collect()
    }

    #[test]
    fn one_is_single_two_equal_are_a_mirror_and_the_rest_stays() {
        let none = Wishes::default();
        let plan = choose(&[disk("sda", 8)], None, &none).unwrap();
        assert_eq!((plan.layout, names(&plan)), (Layout::Single, vec!["sda"]));
        let plan = choose(&[disk("sda", 8), disk("sdb", 8)], None, &none).unwrap();
        assert_eq!((plan.layout, names(&plan)), (Layout::Mirror, vec!["sda", "sdb"]));
        let plan = choose(&[disk("sda", 8), disk("sdb", 20), disk("sdc", 8)], None, &none).unwrap();
        assert_eq!((plan.layout, names(&plan)), (Layout::Mirror, vec!["sda", "sdc"]));
        let plan = choose(&[disk("sda", 8), disk("sdb", 20)], None, &none).unwrap();
        assert_eq!((plan.layout, names(&plan)), (Layout::Single, vec!["sdb"]));
    }

    #[test]
    fn used_removable_small_and_key_disks_are_left_alone() {
        let stick = Disk { removable: true, ..disk("sdb", 8) };
        let disks = [used("sda", 8), stick, disk("sdc", 0), disk("sdd", 8)];
        let error = choose(&disks, Some("sdd"), &Wishes::default()).unwrap_err();
        assert!(matches!(&error, NoPlan::AllUsed(list) if list.len() == 3), "{error}");
        let text = error.to_string();
        assert!(text.contains("sda (SDA, 8.0 GB): member of the ZFS pool \"tank\""), "{text}");
        assert!(text.contains("wipe_disks"), "{text}");
        assert!(matches!(choose(&[], None, &Wishes::default()), Err(NoPlan::NoDisk(_))));
    }

    #[test]
    fn wishes_are_kept_or_refused_by_name() {
        let disks = [used("sda", 8), disk("sdb", 8), disk("sdk", 8)];
        let wipe = Wishes { wipe_disks: vec!["SDA".into()], ..Wishes::default() };
        assert_eq!(names(&choose(&disks, Some("sdk"), &wipe).unwrap()), ["sda", "sdb"]);
        let pool = |words: &[&str]| Wishes {
            pool_disks: words.iter().map(|&w| w.into()).collect(),
            ..Wishes::default()
        };
        assert_eq!(names(&choose(&disks, Some("sdk"), &pool(&["/dev/sdb"])).unwrap()), ["sdb"]);
        for (word, says) in
            [("SDA", "it holds something"), ("SDX", "no such disk"), ("SDK", "booted from")]
        {
            let error = choose(&disks, Some("sdk"), &pool(&[word])).unwrap_err().to_string();
            assert!(error.contains(says) && error.contains(word), "{error}");
        }
    }
}
