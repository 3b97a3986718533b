use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

use serde_json::json;

use super::server::Fault;
use super::{A, World, manifest, noise, said, sha256};

const FILE: &str = "/x/thing.bin";

/// A file of Manta.
fn manta_file(world: &World, body: &[u8]) -> String {
    world.manta("thing", "20260101T000000Z", &[("thing-master-1.tgz", body)]);
    world.spec(json!({"manta-base-path": "/builds",
                      "files": {"thing": {"file": {"base": "thing", "ext": "tgz"}}}}));
    "/builds/thing/master-20260101T000000Z/thing/thing-master-1.tgz".to_owned()
}

#[test]
fn a_dropped_transfer_goes_on_where_it_broke_off() {
    let world = World::new();
    let body = noise(700_000);
    world.one_http_file(&body);
    world.server.fail(FILE, [Fault::Drop(300_000), Fault::Drop(200_000)]);
    let said = world.fetch().unwrap();
    assert!(said.contains("again in"), "{said}");
    assert_eq!(world.cached("file.thing"), body);
    let gets = world.server.gets(FILE);
    let ranges: Vec<_> = gets.iter().map(|get| get.range.as_deref()).collect();
    assert_eq!(ranges, [None, Some("bytes=300000-"), Some("bytes=500000-")]);
    assert_eq!(gets.iter().map(|get| get.sent).sum::<usize>(), body.len());
}

#[test]
fn a_silent_server_is_left_and_asked_again() {
    let world = World::new();
    let body = noise(300_000);
    world.one_http_file(&body);
    world.server.fail(FILE, [Fault::Stall(100_000)]);
    let said = world.fetch().unwrap();
    assert!(said.contains("the server was silent for 0.5 s"), "{said}");
    assert_eq!(world.cached("file.thing"), body);
    assert_eq!(world.server.gets(FILE).iter().map(|get| get.sent).sum::<usize>(), body.len());
}

#[test]
fn a_server_that_stays_silent_is_given_up() {
    let world = World::new();
    world.one_http_file(&noise(1000));
    world.server.fail(FILE, vec![Fault::Stall(0); 9]);
    let error = world.fetch().unwrap_err();
    assert!(error.contains("given up after 2 attempts: the server was silent"), "{error}");
    assert!(!world.path("build.lock").exists());
}

#[test]
fn a_file_that_changes_between_attempts_is_never_glued() {
    let world = World::new();
    let (old, new) = (vec![b'o'; 400_000], vec![b'n'; 300_000]);
    world.one_http_file(&old);
    world.server.fail(FILE, [Fault::Stall(200_000)]);
    let mut child = world
        .command(&["fetch", "--attempts", "3", "--stall", "3"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    world.server.wait_stalled(1);
    world.server.put(FILE, new.clone());
    assert!(child.wait().unwrap().success());
    // The cache knows it by the new ETag: nothing is transferred once more.
    let gets = world.server.gets(FILE).len();
    std::fs::remove_file(world.path("build.lock")).unwrap();
    world.fetch().unwrap();
    assert_eq!(world.server.gets(FILE).len(), gets);
    assert_eq!(world.cached("file.thing"), new);
    // And when the server cannot tell whether it changed, it begins anew.
    let world = World::new();
    world.one_http_file(&old);
    world.server.without_etag(FILE);
    world.server.fail(FILE, [Fault::Drop(200_000)]);
    world.fetch().unwrap();
    assert_eq!(world.cached("file.thing"), old);
    assert!(world.server.gets(FILE).iter().all(|get| get.range.is_none()));
}

#[test]
fn a_manta_file_that_changes_under_its_list_is_an_error() {
    let world = World::new();
    let path = manta_file(&world, &noise(1000));
    world.server.put(&path, vec![7; 1000]);
    let error = world.fetch().unwrap_err();
    assert!(error.contains("its source says md5:") && error.contains("file.thing"), "{error}");
    world.server.put(&path, vec![7; 999]);
    let error = world.fetch().unwrap_err();
    assert!(error.contains("sends 999 bytes, but its list says 1000"), "{error}");
    // Nothing of it is in the cache.
    let listed = world.run(&["cache", "ls"]);
    assert!(String::from_utf8(listed.stdout).unwrap().starts_with("0 files"));
    world.server.put(&path, noise(1000));
    world.fetch().unwrap();
}

#[test]
fn a_wrong_sha1_of_imgapi_is_an_error() {
    let world = World::new();
    world.image("cnapi", A, None);
    let mut wrong = manifest("cnapi", A, None, b"");
    let size = world_file_size(&world);
    wrong["files"][0]["size"] = json!(size);
    world.server.put(&format!("/images/{A}"), wrong.to_string());
    world.spec(json!({"zones": {"cnapi": {"source": "imgapi", "uuid": A}}}));
    let error = world.fetch().unwrap_err();
    assert!(error.contains("its source says sha1:da39a3ee"), "{error}");
}

fn world_file_size(_: &World) -> usize {
    super::gzip(format!("file of {A}").as_bytes()).len()
}

#[test]
fn an_image_that_does_not_unpack_is_an_error() {
    let world = World::new();
    let file = b"\x1f\x8bno gzip at all";
    world.server.put(&format!("/images/{A}"), manifest("cnapi", A, None, file).to_string());
    world.server.put(&format!("/images/{A}/file"), *file);
    world.spec(json!({"zones": {"cnapi": {"source": "imgapi", "uuid": A}}}));
    let error = world.fetch().unwrap_err();
    assert!(error.contains("damaged") && error.contains("does not unpack"), "{error}");
}

#[test]
fn images_of_every_packing_are_read_to_their_end() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("image"), noise(200_000)).unwrap();
    for (program, ending) in [("gzip", "gz"), ("bzip2", "bz2"), ("xz", "xz")] {
        let pack = Command::new(program).args(["-k", "image"]).current_dir(dir.path()).status();
        assert!(pack.unwrap().success(), "{program}; ci/setup installs it");
        let whole = fs::read(dir.path().join(format!("image.{ending}"))).unwrap();
        let cut = whole[..whole.len() - 1].to_vec();
        for (file, good) in [(whole, true), (cut, false)] {
            let world = World::new();
            let mut manifest = manifest("cnapi", A, None, &file);
            manifest["files"][0]["compression"] = json!(program);
            world.server.put(&format!("/images/{A}"), manifest.to_string());
            world.server.put(&format!("/images/{A}/file"), file);
            world.spec(json!({"zones": {"cnapi": {"source": "imgapi", "uuid": A}}}));
            match world.fetch() {
                Ok(_) => assert!(good, "{program}"),
                Err(error) => assert!(!good && error.contains("ends too early"), "{error}"),
            }
        }
    }
}

#[test]
fn lies_about_the_length_are_found() {
    // Longer than what comes.
    let world = World::new();
    world.one_http_file(&noise(1000));
    world.server.fail(FILE, vec![Fault::Length(2000); 9]);
    let error = world.fetch().unwrap_err();
    assert!(error.contains("given up") && error.contains("thing.bin"), "{error}");
    // Shorter than the file: only a list can tell.
    let world = World::new();
    let path = manta_file(&world, &noise(1000));
    world.server.fail(&path, [Fault::Length(500)]);
    let error = world.fetch().unwrap_err();
    assert!(error.contains("sends 500 bytes, but its list says 1000"), "{error}");
    // None told, and more comes than the list says.
    let world = World::new();
    let path = manta_file(&world, &noise(1000));
    world.server.put(&path, noise(5000));
    world.server.fail(&path, [Fault::NoLength]);
    let error = world.fetch().unwrap_err();
    assert!(error.contains("more than the 1000 bytes"), "{error}");
    // And with a digest in the spec.
    let world = World::new();
    world.one_http_file(&noise(1000));
    let url = format!("{}{FILE}", world.server.url);
    let sha256 = sha256(&noise(1001));
    world.spec(json!({"files": {"thing": {"source": "http", "url": url, "sha256": sha256}}}));
    let error = world.fetch().unwrap_err();
    assert!(error.contains(&format!("{sha256} is pinned")), "{error}");
}

#[test]
fn garbage_is_told_as_that() {
    let world = World::new();
    manta_file(&world, b"x");
    let build = "/builds/thing/master-20260101T000000Z";
    world.server.put(build, "<html>Welcome</html>");
    let error = world.fetch().unwrap_err();
    assert!(
        error.contains("file thing: ")
            && error.contains("line 1 of the listing is none of Manta's"),
        "{error}"
    );
    world.server.put("/builds/thing/master-latest", "<html>Welcome</html>");
    let error = world.fetch().unwrap_err();
    assert!(error.contains("should hold the path of a folder"), "{error}");
    world.server.put("/builds/thing/master-latest", vec![0xff, 0xfe]);
    let error = world.fetch().unwrap_err();
    assert!(error.contains("no text (UTF-8)"), "{error}");
    world.server.fail("/builds/thing/master-latest", vec![Fault::Garbage; 9]);
    let error = world.fetch().unwrap_err();
    assert!(error.contains("master-latest") && !error.contains("panicked"), "{error}");
}

#[test]
fn what_is_not_there_is_told_for_all_parts() {
    let world = World::new();
    world.spec(json!({"manta-base-path": "/builds", "zones": {"cnapi": {}, "napi": {}}}));
    let error = world.fetch().unwrap_err();
    for zone in ["cnapi", "napi"] {
        let wanted = format!(
            "zone {zone}: {}/builds/{zone}/master-latest: there is no such file",
            world.server.url
        );
        assert!(error.contains(&wanted), "{error}");
    }
    world.server.fail("/builds/cnapi/master-latest", [Fault::Status(403)]);
    let error = world.fetch().unwrap_err();
    assert!(error.contains("403") && error.contains("only public files"), "{error}");
}

#[test]
fn a_server_in_trouble_is_asked_again() {
    let world = World::new();
    world.one_http_file(b"thing");
    world.server.fail(FILE, [Fault::Status(503)]);
    let said = world.fetch().unwrap();
    assert!(said.contains("503"), "{said}");
    assert_eq!(world.cached("file.thing"), b"thing");
}

#[test]
fn redirects_are_followed_but_not_in_a_circle() {
    let world = World::new();
    world.one_http_file(b"thing");
    world.server.redirect(FILE, "/elsewhere");
    world.server.put("/elsewhere", "thing");
    world.fetch().unwrap();
    let world = World::new();
    world.one_http_file(b"thing");
    world.server.redirect(FILE, "/back");
    world.server.redirect("/back", FILE);
    let error = world.fetch().unwrap_err();
    assert!(error.contains("sends us in a circle"), "{error}");
    world.server.remove("/back");
}

#[test]
fn a_full_disk_is_told_and_the_transfer_kept() {
    let world = World::new();
    let body = noise(3 << 20);
    world.one_http_file(&body);
    let cache = world.path("cache");
    std::fs::create_dir(&cache).unwrap();
    // A small file system of our own, in name spaces of our own.
    let script = "mount -t tmpfs -o size=1m none \"$1\" && shift && \"$@\"; code=$?; \
                  du -sk \"$HEADNODE_CACHE/artefacts/partial\"; exit $code";
    let output = Command::new("unshare")
        .args(["-rm", "sh", "-c", script, "sh"])
        .arg(&cache)
        .arg(env!("CARGO_BIN_EXE_headnode"))
        .args(["fetch", "--attempts", "2"])
        .current_dir(world.dir.path())
        .env("HEADNODE_CACHE", &cache)
        .output()
        .expect("unshare of util-linux");
    let kept: usize =
        String::from_utf8_lossy(&output.stdout).split_whitespace().next().unwrap().parse().unwrap();
    let error = said(output).unwrap_err();
    assert!(error.contains("is full; what was transferred is kept"), "{error}");
    assert!(kept > 500, "{kept} KiB are kept");
    assert!(!world.path("build.lock").exists());
}

/// Interrupts a transfer in its middle by a signal; what it said.
fn interrupt(world: &World, signal: &str) -> (std::process::ExitStatus, String) {
    world.server.fail(FILE, [Fault::Stall(500_000)]);
    let stalled = world.server.gets(FILE).len();
    assert_eq!(stalled, 0);
    let child = world.command(&["fetch"]).stderr(Stdio::piped()).spawn().unwrap();
    world.server.wait_stalled(1);
    // The bytes are on their way: wait until they are in the file.
    let partial = world.path("cache/artefacts/partial");
    let arrived = || {
        let files = std::fs::read_dir(&partial).unwrap().flatten();
        files.filter(|file| file.metadata().is_ok_and(|meta| meta.len() == 500_000)).count() == 1
    };
    let begun = std::time::Instant::now();
    while !arrived() {
        assert!(begun.elapsed().as_secs() < 60, "nothing arrived");
        std::thread::yield_now();
    }
    let sent = Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    let output = child.wait_with_output().unwrap();
    (output.status, String::from_utf8(output.stderr).unwrap())
}

#[test]
fn what_was_interrupted_is_resumed_by_the_next_run() {
    for signal in ["-INT", "-KILL"] {
        let world = World::new();
        let body = noise(900_000);
        world.one_http_file(&body);
        let (status, said) = interrupt(&world, signal);
        if signal == "-INT" {
            assert_eq!(status.code(), Some(130));
            assert!(said.contains("the next run resumes"), "{said}");
        } else {
            assert_eq!(status.signal(), Some(9));
        }
        assert!(!world.path("build.lock").exists());
        world.fetch().unwrap();
        assert_eq!(world.cached("file.thing"), body);
        let gets = world.server.gets(FILE);
        assert_eq!(gets.iter().map(|get| get.sent).sum::<usize>(), body.len());
        let left = std::fs::read_dir(world.path("cache/artefacts/partial")).unwrap();
        let left = left.flatten().filter(|file| file.path().extension().is_none()).count();
        assert_eq!(left, 0);
    }
}

#[test]
fn two_processes_share_a_transfer() {
    let world = World::new();
    let body = noise(900_000);
    world.one_http_file(&body);
    world.server.fail(FILE, [Fault::Stall(500_000)]);
    let begin = |lock: &str| {
        let args = ["fetch", "--stall", "3", "--lock", lock];
        world.command(&args).stderr(Stdio::piped()).spawn().unwrap()
    };
    let first = begin("one.lock");
    world.server.wait_stalled(1);
    let second = begin("two.lock");
    let (first, second) = (first.wait_with_output().unwrap(), second.wait_with_output().unwrap());
    assert!(first.status.success() && second.status.success(), "{first:?} {second:?}");
    let said = String::from_utf8(second.stderr).unwrap();
    assert!(said.contains("another process fetches it"), "{said}");
    let sent: usize = world.server.gets(FILE).iter().map(|get| get.sent).sum();
    assert_eq!(sent, body.len());
    let lock = |name: &str| std::fs::read(world.path(name)).unwrap();
    assert_eq!(lock("one.lock"), lock("two.lock"));
}
