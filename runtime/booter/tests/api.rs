//! The operator's interface as its client sees it, over a real Unix socket.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use headnode_client::{Booter, Timeouts, Verb};
use headnode_model::booter::{Boot, BooterStatus, Decide, Stage};
use headnode_model::net::MacAddr;
use sdc_booter::admission::{self, Admission, Gate, Machine, Verdict};
use sdc_booter::api::{Api, Operator, Socket};
use sdc_booter::live::Live;
use sdc_booter::metrics::Metrics;
use sdc_booter::observe::{Event, Observer};
use sdc_booter::progress::{self, Tracker};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

const MAC: MacAddr = MacAddr([0x90, 0xb8, 0xd0, 1, 2, 3]);

struct Rest;

#[async_trait::async_trait]
impl Operator for Rest {
    async fn params(&self, mac: MacAddr, boot: Option<&Boot>) -> Result<Value, String> {
        let boot = boot.ok_or("it was never seen")?;
        Ok(json!({"mac": mac, "stage": boot.stage}))
    }

    async fn reload(&self) -> Result<Vec<String>, String> {
        Err("[tftp] blksize: 7 is too small".to_owned())
    }

    fn status(&self) -> BooterStatus {
        BooterStatus { version: "1".to_owned(), ..BooterStatus::default() }
    }
}

fn api(state: &Path) -> Api {
    let metrics = Metrics::new();
    let settings = admission::Settings { policy: Verdict::Hold, rules: vec![] };
    let admission = Admission::open(Live::new(settings), state, false, metrics.clone()).unwrap();
    let tracker = Tracker::new(Live::new(progress::Settings::default()), metrics);
    Api { tracker: Arc::new(tracker), admission: Arc::new(admission), operator: Arc::new(Rest) }
}

fn offer(tracker: &Tracker) {
    tracker.event(&Event::Dhcp {
        mac: MAC,
        uuid: None,
        asked: "discover",
        answer: Some("offer"),
        ip: Some([10, 99, 99, 40].into()),
        client: "pxe",
        arch: "BIOS",
        file: Some("undionly.kpxe"),
        rack: None,
        problem: None,
    });
}

fn held(tracker: &Tracker) {
    let (kind, origin, platform, problem) = ("hold", "builtin", "", None);
    tracker.event(&Event::Script { mac: MAC, uuid: None, kind, origin, platform, problem });
}

#[tokio::test]
async fn an_operator_sees_a_held_machine_and_lets_it_in() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run/booter.sock");
    let api = api(dir.path());
    let stop = CancellationToken::new();
    let server = tokio::spawn(Socket::open(&path).unwrap().serve(api.clone(), stop.clone()));
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(Socket::open(&path).unwrap_err().to_string().contains("booter.sock"));

    let booter = Booter::new(&path, Timeouts::default()).unwrap();
    assert_eq!(booter.boots().await.unwrap(), vec![]);
    assert_eq!(booter.boot(MAC).await.unwrap(), None);
    let waiting = booter.events(0, Some(MAC), Duration::from_secs(30));
    let (events, ()) = tokio::join!(waiting, async { offer(&api.tracker) });
    assert!(events.unwrap().events[0].what.contains("10.99.99.40"));
    held(&api.tracker);
    let boots = booter.boots().await.unwrap();
    assert_eq!((boots[0].stage, boots[0].held), (Stage::Script, true));
    let status = booter.status().await.unwrap();
    assert_eq!((status.policy.as_str(), status.machines, status.held), ("hold", 1, 1));

    let machine = Machine { mac: MAC, uuid: None, serial: None, vendor: None, rack: None };
    assert_eq!(api.admission.at_dhcp(&machine), Verdict::Hold);
    let decide = Decide { who: "root".to_owned(), note: "new".to_owned() };
    booter.decide(MAC, Verb::Approve, &decide).await.unwrap();
    assert_eq!(api.admission.at_dhcp(&machine), Verdict::Admit);
    let detail = booter.boot(MAC).await.unwrap().unwrap();
    assert_eq!(detail.boot.decision.as_deref(), Some("approved"));
    assert_eq!(detail.events.len(), 2);
    booter.decide(MAC, Verb::Deny, &decide).await.unwrap();
    assert_eq!(api.admission.at_dhcp(&machine), Verdict::Ignore);

    assert_eq!(booter.params(MAC).await.unwrap()["stage"], "script");
    booter.decide(MAC, Verb::Forget, &decide).await.unwrap();
    assert!(booter.decide(MAC, Verb::Forget, &decide).await.unwrap_err().is_not_found());
    assert!(booter.params(MAC).await.unwrap_err().to_string().contains("it was never seen"));
    let error = booter.reload().await.unwrap_err();
    assert_eq!(error.code(), Some("InvalidConfiguration"));
    assert!(error.to_string().contains("blksize"), "{error}");

    stop.cancel();
    server.await.unwrap();
    assert!(!path.exists());
    assert!(booter.status().await.unwrap_err().is_unreachable());
}

#[tokio::test]
async fn the_socket_of_a_killed_booter_is_replaced_and_a_file_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("booter.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    drop(Socket::open(&path).unwrap());
    std::fs::write(&path, "precious").unwrap();
    assert!(Socket::open(&path).is_err());
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
}
