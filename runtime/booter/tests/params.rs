//! Boot parameters from a CNAPI and a NAPI that answer well, late, never, or nonsense.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use headnode_client::{Cnapi, Napi};
use headnode_model::net::MacAddr;
use sdc_booter::params::{Cache, Cached, Directory, Lookup, Origin, ParamSource, Patience};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const MAC: MacAddr = MacAddr([0x90, 0xb8, 0xd0, 1, 2, 3]);
const SERVER: Uuid = Uuid::from_u128(0x77);
const LIMIT: Duration = Duration::from_secs(20);

/// What a path is answered with.
#[derive(Clone)]
enum Say {
    Json(Value),
    Text(&'static str),
    /// So many bytes of JSON that never ends.
    Huge,
    /// After the notice.
    Later(Arc<Notify>, Value),
    Never,
}

/// CNAPI and NAPI in one: their paths differ. Built to C§6.2 and C§6.3.
#[derive(Default)]
struct Fake {
    says: Mutex<HashMap<String, Say>>,
    asked: Mutex<Vec<String>>,
    running: AtomicUsize,
    most: AtomicUsize,
}

impl Fake {
    fn say(&self, path: &str, say: Say) {
        self.says.lock().unwrap().insert(path.to_owned(), say);
    }

    fn asked(&self, path: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|asked| *asked == path).count()
    }

    async fn answer(&self, path: String) -> Response {
        self.asked.lock().unwrap().push(path.clone());
        let say = self.says.lock().unwrap().get(&path).cloned();
        match say {
            None => {
                let body = json!({"code": "ResourceNotFound", "message": "no such thing"});
                (axum::http::StatusCode::NOT_FOUND, axum::Json(body)).into_response()
            }
            Some(Say::Json(value)) => axum::Json(value).into_response(),
            Some(Say::Text(text)) => text.into_response(),
            Some(Say::Huge) => {
                let piece = "\"x\": \"".to_owned() + &"y".repeat(1 << 16) + "\",";
                Body::from(format!("{{{}", piece.repeat(200))).into_response()
            }
            Some(Say::Later(notice, value)) => {
                let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
                self.most.fetch_max(running, Ordering::SeqCst);
                notice.notified().await;
                self.running.fetch_sub(1, Ordering::SeqCst);
                axum::Json(value).into_response()
            }
            Some(Say::Never) => std::future::pending().await,
        }
    }

    async fn serve(self: &Arc<Self>) -> String {
        let this = Arc::clone(self);
        let router = Router::new().fallback(move |request: Request| {
            let this = Arc::clone(&this);
            async move { this.answer(request.uri().to_string()).await }
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        url
    }
}

fn patience() -> Patience {
    Patience { budget: Duration::from_secs(10), cached: Duration::from_millis(300), lookups: 4 }
}

fn boot(platform: &str) -> Value {
    json!({"platform": platform, "kernel_args": {"hostname": "cn1"}, "kernel_flags": {},
        "boot_modules": [], "default_console": "serial", "serial": "ttyb"})
}

struct World {
    fake: Arc<Fake>,
    lookup: Lookup,
    dir: tempfile::TempDir,
    source: Arc<Directory>,
}

impl World {
    async fn new(napi: bool) -> Self {
        let fake = Arc::<Fake>::default();
        let url = fake.serve().await;
        let napi = napi.then(|| Napi::new(&url).unwrap());
        let source = Arc::new(Directory::new(Cnapi::new(&url).unwrap(), napi));
        let dir = tempfile::tempdir().unwrap();
        let lookup = lookup(&source, dir.path());
        fake.say(&format!("/boot/{SERVER}"), Say::Json(boot("own")));
        fake.say("/boot/default", Say::Json(boot("default")));
        fake.say("/servers?hostname=90-b8-d0-01-02-03&limit=1", Say::Json(json!([])));
        Self { fake, lookup, dir, source }
    }

    async fn known(&self) {
        let found = self.lookup.find(MAC, Some(SERVER)).await;
        assert_eq!((found.origin, found.known), (Origin::Server, true));
        self.lookup.keep(MAC, &found).await;
    }

    /// Waits until the platform is what is kept on disk.
    async fn kept(&self, platform: &str) {
        let file = self.dir.path().join("cache/90-b8-d0-01-02-03.json");
        let until = Instant::now() + LIMIT;
        loop {
            let text = std::fs::read_to_string(&file).unwrap();
            if text.contains(&format!("\"platform\": \"{platform}\"")) {
                return;
            }
            assert!(Instant::now() < until, "{text}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn lookup(source: &Arc<Directory>, dir: &Path) -> Lookup {
    let source = Arc::clone(source);
    Lookup::new(source, Cache::open(dir, 1000).unwrap(), patience())
}

#[tokio::test]
async fn a_known_machine_boots_while_cnapi_hangs_and_its_answer_still_counts() {
    let world = World::new(false).await;
    world.known().await;
    let notice = Arc::new(Notify::new());
    world.fake.say(&format!("/boot/{SERVER}"), Say::Later(Arc::clone(&notice), boot("newer")));
    let begun = Instant::now();
    let found = world.lookup.find(MAC, Some(SERVER)).await;
    assert_eq!((&*found.params.platform, found.origin, found.known), ("own", Origin::Cache, true));
    assert!(begun.elapsed() < patience().budget, "{:?}", begun.elapsed());
    notice.notify_one();
    world.kept("newer").await;
    // It never answers: the second machine that asks does not wait as long any more.
    world.fake.say(&format!("/boot/{SERVER}"), Say::Never);
    let until = Instant::now() + LIMIT;
    loop {
        let begun = Instant::now();
        assert_eq!(world.lookup.find(MAC, Some(SERVER)).await.params.platform, "newer");
        if begun.elapsed() < patience().cached / 2 {
            break;
        }
        assert!(Instant::now() < until);
    }
}

#[tokio::test]
async fn nonsense_and_floods_from_cnapi_are_as_good_as_no_answer() {
    let mut world = World::new(false).await;
    // Nothing hangs here, but a disk may be slow.
    let patience = Patience { cached: Duration::from_secs(5), ..patience() };
    let cache = Cache::open(world.dir.path(), 1000).unwrap();
    world.lookup = Lookup::new(Arc::clone(&world.source) as _, cache, patience);
    world.known().await;
    for say in [
        Say::Text("<html>"),
        Say::Text(""),
        Say::Json(json!("x")),
        Say::Json(json!({"platform": 7})),
        Say::Json(json!({"platform": "x", "boot_modules": [{"path": 1}]})),
        Say::Huge,
    ] {
        world.fake.say(&format!("/boot/{SERVER}"), say);
        let found = world.lookup.find(MAC, Some(SERVER)).await;
        assert_eq!((&*found.params.platform, found.origin), ("own", Origin::Cache));
    }
    // An empty object is none (C§4.2): the default's count, and the server is known all the same.
    world.fake.say(&format!("/boot/{SERVER}"), Say::Json(json!({})));
    let found = world.lookup.find(MAC, Some(SERVER)).await;
    assert_eq!((&*found.params.platform, found.known), ("default", true));
    // Without anything, the newest platform.
    world.fake.say("/boot/default", Say::Huge);
    let found = world.lookup.find(MacAddr([2, 0, 0, 0, 0, 9]), Some(Uuid::max())).await;
    assert_eq!((found.origin, found.known), (Origin::Builtin, false));
}

#[tokio::test]
async fn a_machine_is_asked_for_once_and_few_machines_together() {
    let world = World::new(false).await;
    let notice = Arc::new(Notify::new());
    world.fake.say("/boot/default", Say::Later(Arc::clone(&notice), boot("default")));
    let all: Vec<_> = (0..12u8)
        .flat_map(|n| [n, n, n])
        .map(|n| {
            let lookup = world.lookup.clone();
            // 404 for its own parameters, then the default's.
            let find = async move {
                lookup.find(MacAddr([2, 0, 0, 0, 0, n]), Some(Uuid::from_u128(n.into()))).await
            };
            tokio::spawn(find)
        })
        .collect();
    let until = Instant::now() + LIMIT;
    while world.fake.running.load(Ordering::SeqCst) < patience().lookups {
        assert!(Instant::now() < until);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let answering = tokio::spawn(async move {
        loop {
            notice.notify_one();
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    for find in all {
        assert_eq!(find.await.unwrap().params.platform, "default");
    }
    answering.abort();
    assert_eq!(world.fake.asked("/boot/default"), 12);
    assert_eq!(world.fake.most.load(Ordering::SeqCst), patience().lookups);
}

#[tokio::test]
async fn napi_tells_the_server_and_its_nics_also_after_it_has_gone() {
    let world = World::new(true).await;
    let nic = json!({"mac": "90:b8:d0:01:02:03", "belongs_to_type": "server",
        "belongs_to_uuid": SERVER, "ip": "10.99.99.40", "nic_tags_provided": ["admin"], "vlan_id": 0});
    let other = json!({"mac": "90:b8:d0:01:02:09", "belongs_to_uuid": Uuid::max()});
    let of = |what: &str| format!("/{what}?belongs_to_uuid={SERVER}");
    world.fake.say("/nics/90b8d0010203", Say::Json(nic.clone()));
    world.fake.say(&of("nics"), Say::Json(json!([nic, other])));
    // A NAPI that does not know the filter tells everybody's.
    let together = |name: &str, mac: &str| json!({"name": name, "macs": [mac], "lacp_mode": "off"});
    let (ours, others) =
        (together("aggr0", "90:b8:d0:01:02:03"), together("aggr1", "90:b8:d0:01:02:09"));
    world.fake.say(&of("aggregations"), Say::Json(json!([ours, others])));
    world.fake.say("/nic_tags", Say::Json(json!([{"name": "admin", "mtu": 1500}])));
    // It told no UUID by DHCP.
    let found = world.lookup.find(MAC, None).await;
    assert_eq!((found.server, found.known), (Some(SERVER), true));
    let nics = found.nics.clone().unwrap();
    assert_eq!((nics.nics.len(), nics.nic_tags.len()), (1, 1));
    assert_eq!(nics.nics[0].other["vlan_id"], 0);
    assert_eq!(nics.aggregations.iter().map(|all| &*all.name).collect::<Vec<_>>(), ["aggr0"]);
    world.lookup.keep(MAC, &found).await;
    // Broken, and later all is down: what it told is still known, also after a restart.
    world.fake.say(&of("nics"), Say::Text("<html>"));
    let found = world.lookup.find(MAC, None).await;
    assert_eq!((found.origin, found.nics.as_ref()), (Origin::Server, Some(&nics)));
    world.fake.say(&format!("/boot/{SERVER}"), Say::Never);
    let again = lookup(&world.source, world.dir.path());
    let found = again.find(MAC, None).await;
    assert_eq!((found.origin, found.nics), (Origin::Cache, Some(nics)));
}

#[tokio::test]
async fn without_napi_cnapi_may_know_a_machine_by_its_name() {
    let world = World::new(false).await;
    let found = world.lookup.find(MAC, None).await;
    assert_eq!((found.origin, found.server), (Origin::Default, None));
    let servers = |hostname: &str| Say::Json(json!([{"uuid": SERVER, "hostname": hostname}]));
    let path = "/servers?hostname=90-b8-d0-01-02-03&limit=1";
    // A CNAPI that does not know the filter.
    world.fake.say(path, servers("cn7"));
    assert_eq!(world.lookup.find(MAC, None).await.server, None);
    world.fake.say(path, servers("90-b8-d0-01-02-03"));
    assert_eq!(world.lookup.find(MAC, None).await.server, Some(SERVER));
}

#[tokio::test]
async fn what_is_kept_is_brought_up_to_date_while_nobody_boots() {
    let world = World::new(false).await;
    world.known().await;
    world.fake.say(&format!("/boot/{SERVER}"), Say::Json(boot("newer")));
    let stop = CancellationToken::new();
    let pause = Duration::from_millis(20);
    let refreshing = tokio::spawn(world.lookup.clone().refresh(pause, stop.clone()));
    world.kept("newer").await;
    stop.cancel();
    refreshing.await.unwrap();
}

/// Set in the process that writes until it is killed; the state folder.
const WRITER: &str = "TEST_CACHE_WRITER";

#[tokio::test]
async fn a_cache_whose_writer_was_killed_has_whole_files_only() {
    let params = |n: usize| {
        let args = (0..200).map(|at| (format!("a{at}"), json!(n))).collect();
        headnode_model::boot::BootParams {
            platform: n.to_string(),
            kernel_args: args,
            ..headnode_model::boot::BootParams::default()
        }
    };
    let cached = |n| Cached { params: params(n), known_server: true, server: None, nics: None };
    if let Some(state) = std::env::var_os(WRITER) {
        let cache = Cache::open(Path::new(&state), 1000).unwrap();
        for n in 0.. {
            cache.put(MAC, cached(n)).await;
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("cache/90-b8-d0-01-02-03.json");
    for round in 0..8 {
        let name = "a_cache_whose_writer_was_killed_has_whole_files_only";
        let mut writer = std::process::Command::new(std::env::current_exe().unwrap())
            .args([name, "--exact"])
            .env(WRITER, dir.path())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        // It has written something since it began, and is killed while it goes on.
        let before = std::fs::metadata(&file).and_then(|about| about.modified()).ok();
        let until = Instant::now() + LIMIT;
        while std::fs::metadata(&file).and_then(|about| about.modified()).ok() == before {
            assert!(Instant::now() < until);
            std::thread::sleep(Duration::from_micros(300 * round));
        }
        writer.kill().unwrap();
        writer.wait().unwrap();
        let cache = Cache::open(dir.path(), 1000).unwrap();
        let kept = cache.get(MAC).await.expect("half a file");
        let n = kept.params.platform.parse().unwrap();
        assert_eq!(kept, cached(n));
        assert_eq!(std::fs::read_dir(dir.path().join("cache")).unwrap().count(), 1);
    }
}

#[tokio::test]
async fn the_addresses_of_all_nics_on_the_booters_networks_are_told_page_by_page() {
    let world = World::new(true).await;
    let nic = |n: u32, tag: &str, ip: Value| {
        let [a, b, c, d] = n.to_be_bytes();
        json!({"mac": format!("02:00:{a:02x}:{b:02x}:{c:02x}:{d:02x}"), "nic_tag": tag, "ip": ip})
    };
    let address = |n: u32| json!(Ipv4Addr::from(0x0a63_0000 + n));
    let nics = |range: std::ops::Range<u32>, tag| -> Vec<Value> {
        range.map(|n| nic(n, tag, address(n))).collect()
    };
    let path = |tag: &str, offset: u32| format!("/nics?nic_tag={tag}&limit=1000&offset={offset}");
    world.fake.say(&path("admin", 0), Say::Json(json!(nics(0..1000, "admin"))));
    let mut more = nics(1000..1002, "admin");
    more.extend([
        nic(2000, "external", address(2000)),
        nic(2001, "admin", Value::Null),
        nic(2002, "admin", json!("fd00::1")),
    ]);
    world.fake.say(&path("admin", 1000), Say::Json(json!(more)));
    world.fake.say(&path("admin_rack_1", 0), Say::Json(json!(nics(3000..3001, "admin_rack_1"))));
    let tags = ["admin".into(), "admin_rack_1".into()];
    let found = world.source.addresses(&tags).await.unwrap().unwrap();
    assert_eq!(found.len(), 1003);
    assert_eq!(found[&MacAddr([2, 0, 0, 0, 3, 0xe9])], Ipv4Addr::new(10, 99, 3, 0xe9));
    assert_eq!(found[&MacAddr([2, 0, 0, 0, 0xb, 0xb8])], Ipv4Addr::new(10, 99, 0xb, 0xb8));
    // Half of an answer is none.
    world.fake.say(&path("admin", 1000), Say::Text("["));
    assert!(world.source.addresses(&tags).await.is_err());
    assert_eq!(World::new(false).await.source.addresses(&tags).await.unwrap(), None);
}
