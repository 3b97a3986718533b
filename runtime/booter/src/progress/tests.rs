use std::sync::atomic::{AtomicI64, Ordering};

use proptest::prelude::*;
use uuid::Uuid;

use super::*;

const MAC: MacAddr = MacAddr([0x90, 0xb8, 0xd0, 1, 2, 3]);

struct Lab {
    tracker: Tracker,
    now: Arc<AtomicI64>,
}

fn lab(settings: Settings) -> Lab {
    let now = Arc::new(AtomicI64::new(1_000_000));
    let clock = Arc::clone(&now);
    let clock = Arc::new(move || clock.load(Ordering::Relaxed));
    Lab { tracker: Tracker::with_clock(Live::new(settings), Metrics::new(), clock), now }
}

fn ip(last: u8) -> IpAddr {
    IpAddr::from([10, 99, 99, last])
}

impl Lab {
    fn later(&self, seconds: i64) {
        self.now.fetch_add(seconds * 1000, Ordering::Relaxed);
    }

    fn dhcp(
        &self,
        mac: MacAddr,
        client: &'static str,
        asked: &'static str,
        answer: Option<&'static str>,
        ip: Option<IpAddr>,
    ) {
        self.tracker.event(&Event::Dhcp {
            mac,
            uuid: Some(Uuid::from_u128(9)),
            asked,
            answer,
            ip,
            client,
            arch: "x86-64 UEFI",
            file: None,
            rack: None,
            problem: None,
        });
    }

    fn dora(&self, client: &'static str) {
        self.dhcp(MAC, client, "discover", Some("offer"), Some(ip(40)));
        self.dhcp(MAC, client, "request", Some("ack"), Some(ip(40)));
    }

    fn tftp(&self, file: &str, outcome: &'static str) {
        let took = Duration::from_secs(1);
        self.tracker.event(&Event::Tftp { client: ip(40), file, outcome, bytes: 100, took });
    }

    fn http(&self, path: &str, status: u16, complete: bool) {
        let took = Duration::from_secs(1);
        self.tracker.event(&Event::Http {
            client: ip(40),
            path,
            status,
            bytes: 1000,
            complete,
            took,
        });
    }

    fn script(&self, kind: &'static str, problem: Option<&str>) {
        let (uuid, origin, platform) = (None, "server", "20260101T000000Z");
        self.tracker.event(&Event::Script { mac: MAC, uuid, kind, origin, platform, problem });
    }

    fn boot(&self) -> Boot {
        self.tracker.boot(MAC).unwrap().boot
    }

    fn stuck(&self) -> String {
        self.boot().stuck.unwrap_or_default()
    }
}

#[test]
fn a_boot_goes_through_its_stages() {
    let lab = lab(Settings::default());
    lab.dora("pxe");
    assert_eq!((lab.boot().stage, lab.boot().ip), (Stage::Ack, Some(ip(40))));
    lab.tftp("snponly.efi", "probe");
    assert_eq!(lab.boot().stage, Stage::Ack);
    lab.tftp("snponly.efi", "complete");
    lab.dora("ipxe");
    assert_eq!((lab.boot().stage, lab.boot().attempts), (Stage::Loader, 1));
    lab.http("/boot.ipxe.0190B8D0010203", 200, true);
    lab.script("boot", None);
    lab.http("/os/20260101T000000Z/platform/x86_64/vmlinuz", 200, true);
    lab.http("/os/20260101T000000Z/platform/x86_64/initrd", 200, false);
    assert_eq!(lab.boot().stage, Stage::Kernel);
    assert!(lab.boot().problem.unwrap().contains("broken off"));
    lab.later(20);
    lab.http("/os/20260101T000000Z/platform/x86_64/initrd", 200, true);
    lab.http("/extra/agents/node.cpio.zst", 200, true);
    lab.dhcp(MAC, "other", "discover", Some("offer"), Some(ip(40)));
    lab.http("/extra/joysetup/node.config", 200, true);
    let boot = lab.boot();
    assert_eq!((boot.stage, boot.client.as_str(), boot.stuck), (Stage::Agent, "ipxe", None));
    assert_eq!(boot.platform.as_deref(), Some("20260101T000000Z"));
    let stages: Vec<Stage> = boot.steps.iter().map(|step| step.stage).collect();
    assert_eq!(stages, Stage::ALL[1..]);
    let archive = boot.steps.iter().find(|step| step.stage == Stage::Archive).unwrap();
    assert_eq!((archive.bytes, archive.count), (1000, 1));
    lab.tracker.measure(&lab.tracker.metrics);
    let text = lab.tracker.metrics.text();
    assert!(text.contains("sdc_booter_boot_seconds_sum 20.0"), "{text}");
    assert!(text.contains("sdc_booter_boots{kind=\"agent\"} 1"), "{text}");
    // The firmware asks again: another boot.
    lab.dora("pxe");
    assert_eq!((lab.boot().stage, lab.boot().attempts), (Stage::Ack, 2));
    let events = lab.tracker.boot(MAC).unwrap().events;
    assert!(events.iter().any(|e| e.what.contains("came to the stage agent")), "{events:?}");
}

#[test]
fn where_it_hangs_is_said_with_what_to_look_at() {
    let lab = lab(Settings { agent_seconds: 300, ..Settings::default() });
    lab.dhcp(MAC, "pxe", "discover", Some("offer"), Some(ip(40)));
    lab.later(29);
    assert_eq!(lab.stuck(), "");
    lab.later(2);
    let text = lab.stuck();
    assert!(text.contains("10.99.99.40") && text.contains("another DHCP server"), "{text}");
    lab.dora("pxe");
    lab.later(61);
    assert!(lab.stuck().contains("TFTP"), "{}", lab.stuck());
    lab.tftp("snponly.efi", "complete");
    lab.later(61);
    assert!(lab.stuck().contains("Secure Boot"), "{}", lab.stuck());
    assert_eq!(lab.tracker.counts().stuck, 1);
    lab.script("boot", None);
    assert_eq!(lab.stuck(), "");
    lab.later(31);
    assert!(lab.stuck().contains("never asked for the kernel"), "{}", lab.stuck());
    lab.http("/x/vmlinuz", 200, true);
    lab.later(590);
    assert_eq!(lab.stuck(), "");
    lab.later(11);
    assert!(lab.stuck().contains("not the archive"), "{}", lab.stuck());
    lab.http("/x/initrd", 200, true);
    lab.later(301);
    assert!(lab.stuck().contains("agent"), "{}", lab.stuck());
    lab.http("/extra/joysetup/node.config", 200, true);
    lab.later(100_000);
    assert_eq!(lab.stuck(), "");
}

#[test]
fn a_machine_is_not_stuck_that_has_all_that_its_script_names() {
    for (kind, loads) in [("other", &[][..]), ("kernel", &["/files/vmlinuz"])] {
        let lab = lab(Settings::default());
        lab.dora("ipxe");
        lab.script(kind, None);
        for path in loads {
            lab.http(path, 200, true);
        }
        lab.later(86_400);
        assert_eq!(lab.stuck(), "", "{kind}");
    }
}

#[test]
fn a_held_machine_is_no_stuck_one_until_it_is_silent() {
    let lab = lab(Settings::default());
    lab.dora("ipxe");
    lab.script("hold", None);
    assert!(lab.boot().held);
    assert_eq!(lab.stuck(), "");
    lab.later(121);
    assert!(lab.stuck().contains("sdc boot approve 90:b8:d0:01:02:03"), "{}", lab.stuck());
    lab.script("message", Some("the platform is missing"));
    assert!(!lab.boot().held);
    assert!(lab.stuck().contains("the platform is missing"), "{}", lab.stuck());
}

#[test]
fn a_flood_of_strangers_pushes_out_no_machine_that_boots() {
    let lab = lab(Settings { machines: 100, ..Settings::default() });
    lab.dora("pxe");
    lab.tftp("snponly.efi", "complete");
    for n in 0..10_000u16 {
        lab.later(1);
        let [a, b] = n.to_be_bytes();
        lab.dhcp(MacAddr([2, 0, 0, 0, a, b]), "pxe", "discover", Some("offer"), Some(ip(b)));
    }
    assert_eq!(lab.tracker.counts().machines, 100);
    assert_eq!(lab.boot().stage, Stage::Loader);
    assert!(lab.tracker.table().is_sound(100));
    // All of them past DHCP: a stranger finds no room, one that comes further does.
    for n in 0..200u8 {
        lab.later(1);
        let mac = MacAddr([4, 0, 0, 0, 0, n]);
        let (uuid, kind, origin, platform) = (None, "boot", "default", "");
        lab.tracker.event(&Event::Script { mac, uuid, kind, origin, platform, problem: None });
    }
    lab.dhcp(MacAddr([6; 6]), "pxe", "discover", None, None);
    assert!(lab.tracker.boot(MacAddr([6; 6])).is_none());
    assert_eq!(lab.tracker.counts().untracked, 1);
    assert!(lab.tracker.boot(MacAddr([4, 0, 0, 0, 0, 199])).is_some());
    assert!(lab.tracker.table().is_sound(100));
}

#[test]
fn events_count_up_and_old_ones_are_forgotten() {
    let lab = lab(Settings::default());
    lab.dora("pxe");
    let first = lab.tracker.events(0, Some(MAC));
    assert_eq!((first.events.len(), first.next, first.missed), (2, 2, 0));
    for _ in 0..5000 {
        lab.tftp("a\x1b[2J", "refused");
    }
    let all = lab.tracker.events(2, None);
    assert_eq!((all.missed, all.events.len(), all.events[0].seq), (904, 1024, 907));
    assert!(all.events[0].problem && all.events[0].what.contains("a?[2J"), "{:?}", all.events[0]);
    let more = lab.tracker.events(all.next, None);
    assert_eq!((more.missed, more.events[0].seq), (0, all.next + 1));
    assert_eq!(lab.tracker.boot(MAC).unwrap().events.len(), 64);
    // From before a restart.
    assert_eq!(lab.tracker.events(1 << 40, None).events[0].seq, 907);
}

#[tokio::test]
async fn who_waits_is_woken_by_the_next_event() {
    let lab = lab(Settings::default());
    let wait = lab.tracker.next_events(0, None, Duration::from_secs(60));
    let (events, ()) = tokio::join!(wait, async { lab.dora("pxe") });
    assert_eq!(events.events[0].seq, 1);
    let none = lab.tracker.next_events(2, None, Duration::from_millis(1)).await;
    assert_eq!((none.events.len(), none.next), (0, 2));
}

proptest! {
    #[test]
    fn nothing_that_is_told_breaks_the_table(
        told in proptest::collection::vec((0u8..6, 0u8..12, 0u8..5, 0i64..4000, ".{0,8}"), 0..200),
    ) {
        let lab = lab(Settings { machines: 5, ..Settings::default() });
        for (what, mac, address, pause, text) in told {
            lab.later(pause);
            let mac = MacAddr([2, 0, 0, 0, 0, mac]);
            let took = Duration::ZERO;
            match what {
                0 => lab.dhcp(mac, "pxe", "discover", Some("offer"), Some(ip(address))),
                1 => lab.dhcp(mac, "ipxe", "request", Some("ack"), Some(ip(address))),
                2 => lab.dhcp(mac, "other", "discover", None, None),
                3 => lab.tracker.event(&Event::Http {
                    client: ip(address), path: &text, status: 200, bytes: 1, complete: true, took,
                }),
                4 => lab.tracker.event(&Event::Script {
                    mac, uuid: None, kind: "boot", origin: "cache", platform: &text, problem: None,
                }),
                _ => { lab.tracker.forget(mac); }
            }
            prop_assert!(lab.tracker.table().is_sound(5));
        }
        for boot in lab.tracker.boots() {
            prop_assert!(boot.steps.is_sorted_by_key(|step| step.stage));
        }
    }
}
