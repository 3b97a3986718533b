use super::*;
use crate::leases::Claim;
use crate::networks::Network;
use crate::settings::Settings;
use headnode_model::net::MacAddr;
use proptest::prelude::*;
use std::net::Ipv4Addr;
use uuid::Uuid;

fn empty() -> Leases {
    let settings = Settings::for_tests();
    Leases::new(vec![Network::own(&settings)], settings.admin_ip)
}

fn lease(n: u8, seen: i64) -> Lease {
    Lease {
        mac: MacAddr([2, 0, 0, 0, 0, n]),
        ip: Ipv4Addr::new(10, 99, 99, 50 + n),
        uuid: n.is_multiple_of(2).then(|| Uuid::from_u128(n.into())),
        seen,
        until: seen + 2_592_000,
        tag: n.is_multiple_of(3).then(|| "admin_rack_r1".into()),
    }
}

fn filled() -> Leases {
    let mut leases = empty();
    for n in 0..5 {
        leases.commit(0, lease(n, 1_800_000_000), Claim::Offered).unwrap();
    }
    leases
}

fn loaded(state: &Path) -> Vec<Lease> {
    let mut leases = empty();
    LeaseFile::new(state).load(&mut leases).unwrap();
    leases.iter().cloned().collect()
}

#[test]
fn what_is_written_is_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut leases = filled();
    let mut file = LeaseFile::new(dir.path());
    file.append(&leases.take_journal()).unwrap();
    let all: Vec<Lease> = leases.iter().cloned().collect();
    assert_eq!(loaded(dir.path()), all, "from the log");
    assert!(!dir.path().join("leases.log").exists());
    assert_eq!(loaded(dir.path()), all, "from the table");
}

#[test]
fn the_file_of_an_older_version_is_read() {
    let old = "# x\n02:00:00:00:00:01 10.99.99.51     2027-01-15T08:00:00Z 2027-02-14T08:00:00Z -\n# end 1\n";
    let (found, problems) = lines::parse_snapshot(old);
    assert_eq!(problems, Vec::<String>::new());
    assert_eq!(found, [Lease { tag: None, uuid: None, ..lease(1, 1_800_000_000) }]);
}

#[test]
fn a_damaged_file_keeps_its_good_lines_and_a_copy() {
    let dir = tempfile::tempdir().unwrap();
    let file = LeaseFile::new(dir.path());
    let text = lines::snapshot(filled().iter());
    let cut = text.rfind("10.99.99.54").unwrap() + 5;
    let mut damaged = text.as_bytes()[..cut].to_vec();
    damaged[lines::HEAD.len()] = 0xff;
    std::fs::write(file.path(), &damaged).unwrap();
    assert_eq!(loaded(dir.path()).len(), 3);
    assert_eq!(std::fs::read(dir.path().join("leases.damaged")).unwrap(), damaged);
}

#[test]
fn a_log_that_is_cut_at_any_byte_costs_the_cut_line_only() {
    let mut leases = filled();
    let log = leases.take_journal();
    for cut in 0..log.len() {
        let (entries, problems) = lines::parse_log(&log[..cut]);
        let whole = log[..cut].matches('\n').count();
        assert_eq!(entries.len(), whole);
        assert_eq!(problems.is_empty(), cut == 0 || log[..cut].ends_with('\n'));
    }
}

#[test]
fn a_crash_between_any_two_steps_of_a_compaction_costs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut leases = filled();
    let mut file = LeaseFile::new(dir.path());
    file.append(&leases.take_journal()).unwrap();
    let compaction = file.rotate().unwrap();
    let copy: Vec<Lease> = leases.iter().cloned().collect();
    // The machine's address goes to another one while the table is being written.
    let (old, new) =
        (lease(1, 0), Lease { mac: MacAddr([2, 0, 0, 0, 0, 99]), ..lease(1, 1_900_000_000) });
    leases.conflict(old.mac, old.ip, 0);
    leases.reconfigure(vec![Network::own(&Settings::for_tests())]);
    leases.commit(0, new, Claim::Offered).unwrap();
    file.append(&leases.take_journal()).unwrap();
    let now: Vec<Lease> = leases.iter().cloned().collect();
    let crashed = |skip: &str| {
        let other = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(dir.path()).unwrap() {
            let entry = entry.unwrap();
            if entry.file_name() != skip {
                fs::copy(entry.path(), other.path().join(entry.file_name())).unwrap();
            }
        }
        loaded(other.path())
    };
    assert_eq!(crashed(""), now, "before the table is written");
    durable::replace(&dir.path().join("leases"), lines::snapshot(copy.iter()).as_bytes()).unwrap();
    assert_eq!(crashed(""), now, "before the old log is deleted");
    compaction.write(&copy).unwrap();
    assert_eq!(crashed(""), now, "after the compaction");
    file.save(leases.iter()).unwrap();
    assert_eq!(crashed("leases.log"), now);
}

#[test]
fn what_fails_while_a_table_is_written_calls_for_another_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut leases = filled();
    let mut file = LeaseFile::new(dir.path());
    file.append(&leases.take_journal()).unwrap();
    assert!(!file.is_full());
    let copy: Vec<Lease> = leases.iter().cloned().collect();
    let compaction = file.rotate().unwrap();
    // The log cannot be begun: a full disk.
    let log = dir.path().join("leases.log");
    fs::create_dir(&log).unwrap();
    file.append("x").unwrap_err();
    let size = compaction.write(&copy).unwrap();
    file.compacted(Some(size));
    assert!(file.is_full(), "the table was copied before");
    fs::remove_dir(&log).unwrap();
    let compaction = file.rotate().unwrap();
    assert!(!file.is_full());
    // The table cannot be written.
    fs::create_dir(dir.path().join(".leases.new")).unwrap();
    compaction.write(&copy).unwrap_err();
    file.compacted(None);
    assert!(file.is_full());
}

#[test]
fn a_table_that_cannot_be_written_keeps_nobody_from_starting() {
    let dir = tempfile::tempdir().unwrap();
    let mut leases = filled();
    LeaseFile::new(dir.path()).append(&leases.take_journal()).unwrap();
    let log = dir.path().join("leases.log");
    let text = fs::read_to_string(&log).unwrap();
    // And its last line is torn.
    fs::write(&log, format!("{text}02:00:00")).unwrap();
    for name in [".leases.new", ".leases.log.damaged.new"] {
        fs::create_dir(dir.path().join(name)).unwrap();
    }
    let mut again = empty();
    let mut file = LeaseFile::new(dir.path());
    file.load(&mut again).unwrap();
    assert_eq!(again.iter().count(), 5);
    assert!(file.is_full());
    let more = lease(9, 1_800_000_001);
    again.commit(0, more.clone(), Claim::Offered).unwrap();
    file.append(&again.take_journal()).unwrap();
    fs::remove_dir(dir.path().join(".leases.new")).unwrap();
    assert!(loaded(dir.path()).contains(&more), "what comes after the torn line is read");
}

#[test]
fn a_torn_line_is_never_read_as_a_whole_one_and_tears_no_other() {
    let mut leases = empty();
    // With a tag at its end, which could be cut off.
    leases.commit(0, lease(3, 1_800_000_000), Claim::Offered).unwrap();
    let line = leases.take_journal();
    let more = lease(9, 1_800_000_001);
    let mut other = empty();
    other.commit(0, more.clone(), Claim::Offered).unwrap();
    let next = other.take_journal();
    for cut in 1..line.len() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("leases.log"), &line[..cut]).unwrap();
        LeaseFile::new(dir.path()).append(&next).unwrap();
        assert_eq!(loaded(dir.path()), std::slice::from_ref(&more), "{:?}", &line[..cut]);
    }
}

#[test]
fn no_file_is_an_empty_table() {
    assert_eq!(loaded(tempfile::tempdir().unwrap().path()), []);
}

proptest! {
    #[test]
    fn a_cut_table_is_always_noticed(share in 0.0..1.0f64) {
        let text = lines::snapshot(filled().iter());
        let cut = (text.len() as f64 * share) as usize;
        // Without the last line break the last line is still whole.
        prop_assume!(cut + 1 < text.len());
        let (found, problems) = lines::parse_snapshot(&text[..cut]);
        prop_assert!(!problems.is_empty());
        prop_assert!(found.len() <= 5);
    }

    #[test]
    fn no_text_panics(text: String) {
        drop(lines::parse_snapshot(&text));
        drop(lines::parse_log(&text));
    }
}
