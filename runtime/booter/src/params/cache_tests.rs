//! What is kept, what is dropped, and what a crash leaves.

use super::*;
use serde_json::json;

fn mac(n: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, n])
}

fn cached(platform: &str, known: bool) -> Cached {
    let params = BootParams { platform: platform.to_owned(), ..BootParams::default() };
    let server = known.then(|| Uuid::from_u128(7));
    Cached { params, known_server: known, server, nics: None }
}

#[tokio::test]
async fn unknown_machines_make_room_and_servers_stay() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(dir.path(), 4).unwrap();
    for n in 0..3 {
        cache.put(mac(n), cached("a", true)).await;
    }
    for n in 10..20 {
        cache.put(mac(n), cached("b", false)).await;
    }
    assert_eq!(cache.machines(), [mac(0), mac(1), mac(2), mac(19)]);
    // One more server takes the place of the unknown one, and another is kept all the same.
    cache.put(mac(3), cached("a", true)).await;
    cache.put(mac(4), cached("a", true)).await;
    cache.put(mac(20), cached("b", false)).await;
    assert_eq!(cache.machines(), [0, 1, 2, 3, 4].map(mac));
    assert_eq!(cache.get(mac(19)).await, None);
    assert_eq!(fs::read_dir(dir.path().join("cache")).unwrap().count(), 5);
    let again = Cache::open(dir.path(), 4).unwrap();
    assert_eq!(again.machines(), cache.machines());
    assert_eq!(again.get(mac(4)).await, Some(cached("a", true)));
}

#[tokio::test]
async fn a_server_has_so_many_nics_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(dir.path(), 1000).unwrap();
    for n in 0..40 {
        cache.put(mac(n), cached("a", true)).await;
    }
    assert_eq!(cache.machines().len(), NICS);
    assert!(cache.get(mac(39)).await.is_some() && cache.get(mac(0)).await.is_none());
    // One that is there already takes nobody's place.
    cache.put(mac(39), cached("b", true)).await;
    assert_eq!(cache.machines().len(), NICS);
}

#[tokio::test]
async fn what_a_crash_leaves_is_cleaned_up_and_old_strangers_are_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(dir.path(), 100).unwrap();
    cache.put(mac(1), cached("a", true)).await;
    cache.put(mac(2), cached("b", false)).await;
    let folder = dir.path().join("cache");
    // Killed while it wrote the new file beside the old one.
    let half = folder.join(".02-00-00-00-00-01.json.new");
    fs::write(&half, "{\"platf").unwrap();
    fs::write(folder.join("02-00-00-00-00-05.json"), "{\"platf").unwrap();
    fs::write(folder.join("readme"), "").unwrap();
    let long_ago = SystemTime::now() - AGE_LIMIT - Duration::from_secs(9);
    for n in 1..=2 {
        let file = folder.join(format!("02-00-00-00-00-0{n}.json"));
        File::options().append(true).open(file).unwrap().set_modified(long_ago).unwrap();
    }
    let again = Cache::open(dir.path(), 100).unwrap();
    assert!(!half.exists());
    assert_eq!(again.get(mac(1)).await, Some(cached("a", true)));
    assert_eq!(again.get(mac(2)).await, None);
    assert_eq!(again.get(mac(5)).await, None);
}

#[tokio::test]
async fn a_stranger_is_as_old_as_its_last_boot_whatever_is_refreshed() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(dir.path(), 100).unwrap();
    let almost = SystemTime::now() - AGE_LIMIT + Duration::from_secs(600);
    for n in 1..=3 {
        cache.put(mac(n), cached("a", n == 3)).await;
        cache.0.date(mac(n), almost);
    }
    let server = Some(Uuid::from_u128(7));
    for platform in ["a", "b"] {
        let params = BootParams { platform: platform.to_owned(), ..BootParams::default() };
        for n in 1..=3 {
            let server = server.filter(|_| n == 3);
            let answer = Answer { params: params.clone(), server, ..Answer::default() };
            cache.refresh(mac(n), answer).await;
        }
    }
    // One boots, with what is kept; one does not.
    cache.used(mac(2)).await;
    cache.used(mac(9)).await;
    let later = SystemTime::now() + Duration::from_secs(700);
    cache.0.forget_old(later);
    assert_eq!(cache.machines(), [mac(3), mac(2)]);
    assert_eq!(cache.get(mac(2)).await, Some(cached("b", false)));
    // Also after a restart.
    let again = Cache::open(dir.path(), 100).unwrap();
    again.0.forget_old(later);
    assert_eq!(again.machines(), [mac(3), mac(2)]);
}

#[tokio::test]
async fn only_machines_that_are_kept_are_refreshed_and_a_silent_napi_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(dir.path(), 100).unwrap();
    let nics: Nics =
        serde_json::from_value(json!({"nics": [{"mac": "02:00:00:00:00:01"}]})).unwrap();
    cache.put(mac(1), Cached { nics: Some(nics.clone()), ..cached("a", true) }).await;
    let answer =
        Answer { nics_unknown: true, server: Some(Uuid::from_u128(7)), ..Answer::default() };
    let newer = BootParams { platform: "b".to_owned(), ..BootParams::default() };
    for n in 1..=2 {
        cache.refresh(mac(n), Answer { params: newer.clone(), ..answer.clone() }).await;
    }
    assert_eq!(cache.get(mac(1)).await, Some(Cached { nics: Some(nics), ..cached("b", true) }));
    assert_eq!(cache.get(mac(2)).await, None);
    cache.refresh(mac(1), Answer { params: newer, nics_unknown: false, ..answer }).await;
    assert_eq!(cache.get(mac(1)).await, Some(cached("b", true)));
}

#[tokio::test]
async fn files_of_older_versions_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("cache");
    fs::create_dir_all(&folder).unwrap();
    let text =
        "{\"platform\": \"a\", \"kernel_args\": {}, \"default_console\": \"\", \"serial\": \"\"}";
    fs::write(folder.join("02-00-00-00-00-01.json"), text).unwrap();
    let cache = Cache::open(dir.path(), 100).unwrap();
    assert_eq!(cache.get(mac(1)).await, Some(cached("a", false)));
}
