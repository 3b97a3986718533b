//! Addresses that NAPI has given to machines, and what becomes of them while NAPI is down.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use common::{LIMIT, Source, folder, start_with};
use headnode_model::net::MacAddr;
use sdc_booter::settings::File;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

#[tokio::test]
async fn a_machine_gets_the_address_that_napi_has_for_it_also_while_napi_is_down() {
    // Not of the ranges; another one of them is a zone's.
    let (own, zone) = (Ipv4Addr::new(127, 9, 1, 5), Ipv4Addr::new(127, 9, 0, 20));
    let zones = MacAddr([2, 0, 0, 0, 0, 9]);
    let told = [(MacAddr(MAC), own), (zones, zone)].into();
    let source = Arc::new(Source { addresses: Some(told), ..Source::default() });
    let mut more = File::default();
    more.params.napi = Some("http://127.0.0.1:1".to_owned());

    let dir = folder();
    let file = dir.path().join("state/napi-addresses.json");
    let world = start_with(dir, Arc::clone(&source) as _, more.clone()).await;
    let until = Instant::now() + LIMIT;
    while !file.exists() {
        assert!(Instant::now() < until, "NAPI was not asked");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(world.lease(MAC, None).await, own);
    world.booter.stop().await;

    source.down.store(true, Ordering::SeqCst);
    let world = start_with(world.dir, source, more).await;
    assert_eq!(world.lease(MAC, None).await, own);
    assert_eq!(world.get_from(own, "/bootfs/020000000001/networking.json").await.0, 200);
    for n in 0..190 {
        let (got, _) = (world.lease([2, 0, 0, 0, 1, n], None).await, n);
        assert!(got != own && got != zone, "{got}");
    }
}
