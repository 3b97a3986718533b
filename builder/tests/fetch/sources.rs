use std::collections::BTreeMap;

use headnode::image::Content;
use headnode::source::cache::Cache;
use headnode::source::fetch::Artefact;
use headnode::source::key::key_files;
use headnode::source::locked::resolve_locked;
use headnode::spec::Spec;
use headnode::spec::parts::Env;
use serde_json::{Value, json};

use super::{A, B, C, World, gzip, manifest, md5, said, sha256};

fn no_env(_: &str) -> Option<String> {
    None
}

pub fn locked(world: &World) -> Result<Vec<Artefact>, String> {
    locked_in(world, &no_env)
}

fn locked_in(world: &World, env: Env<'_>) -> Result<Vec<Artefact>, String> {
    let spec = Spec::read(&world.path("build.spec")).unwrap();
    let cache = Cache::open(&world.path("cache")).unwrap();
    resolve_locked(&spec, env, &world.lock(), &cache).map_err(|error| error.to_string())
}

fn text(content: &Content) -> String {
    let mut text = String::new();
    std::io::Read::read_to_string(&mut content.open().unwrap(), &mut text).unwrap();
    text
}

#[test]
fn what_was_damaged_in_the_cache_goes_into_no_image() {
    let world = World::new();
    world.one_http_file(b"as it was fetched");
    world.fetch().unwrap();
    let artefacts = locked(&world).unwrap();
    headnode::source::fetch::check_cached(&artefacts).unwrap();
    let path = &artefacts[0].path;
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    std::fs::write(path, b"as it was fetchee").unwrap();
    let error = headnode::source::fetch::check_cached(&artefacts).unwrap_err().to_string();
    assert!(error.contains("file.thing") && error.contains("cache verify --repair"), "{error}");
}

#[test]
fn everything_of_a_headnode_from_manta_and_imgapi() {
    let world = World::new();
    world.zone("cnapi", "20260101T000000Z", A, Some(B));
    world.zone("sdc-manatee", "20260102T000000Z", "aaaaaaaa-0000-4000-8000-000000000009", Some(B));
    world.image("base", B, Some(C));
    world.image("root", C, None);
    world.manta(
        "sdcadm",
        "20260103T000000Z",
        &[("sdcadm-master-20260103T000000Z-g1.sh", b"sdcadm")],
    );
    world.manta(
        "agentsshar",
        "20260104T000000Z",
        &[
            ("agents-master-20260104T000000Z-g1.sh", b"agents"),
            ("agents-master-20260104T000000Z-g1.md5sum", b"sum"),
        ],
    );
    world.manta(
        "platform",
        "20260105T000000Z",
        &[("platform-master-20260105T000000Z.tgz", b"platform"), ("other.txt", b"x")],
    );
    let sapi = world.path("sapi");
    for (path, body) in [
        ("application.json", r#"{"name": "sdc", "metadata": {}}"#),
        ("services/cnapi/service.json", r#"{"params": {"image_uuid": "IMAGE_UUID"}}"#),
        ("services/other/service.json", r#"{"params": {"image_uuid": "IMAGE_UUID"}}"#),
        ("manifests/applications/sdc/registrar/template", "x"),
    ] {
        let path = sapi.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, body).unwrap();
    }
    std::fs::write(world.path("motd"), "hello").unwrap();
    world.spec(json!({
        "manta-base-path": "/builds", "no-rabbit": true, "sapi-config": "sapi",
        "features": {"debug": {"enabled": false}},
        "extra-files": {"etc/motd": "motd"},
        "zones": {"cnapi": {}, "manatee": {"jobname": "sdc-manatee"}},
        "files": {
            "platform": {"if_not_feature": "debug", "file": {"base": "platform", "ext": "tgz"}},
            "platform-debug": {"if_feature": "debug", "file": {"base": "platform-debug", "ext": "tgz"}},
            "sdcadm": {"file": {"base": "sdcadm", "ext": "sh"}},
            "agents": {"jobname": "agentsshar", "file": {"base": "agents", "ext": "sh"}},
            "agents_md5": {"jobname": "agentsshar", "file": {"base": "agents", "ext": "md5sum"}},
        },
    }));
    let output = world.run(&["fetch", "--json"]);
    assert!(output.status.success(), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let steps = ["Looking up the parts", "Fetching and reading the parts"];
    for (step, name) in steps.into_iter().enumerate() {
        assert_eq!(report["seconds"][step]["step"], name);
    }
    let names: Vec<&str> = report["artefacts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["name"].as_str().unwrap())
        .collect();
    assert_eq!(names.len(), 17, "{names:?}");
    let lock = world.lock();
    let entry = lock.get("zone.cnapi.imgfile").unwrap();
    assert_eq!(entry.version, "master-20260101T000000Z-g1");
    let image = gzip(b"image of cnapi 20260101T000000Z");
    assert_eq!(entry.digest, Some(md5(&image)));
    assert_eq!(world.cached("zone.cnapi.imgfile"), image);
    assert_eq!(lock.get("zone.cnapi.imgmanifest").unwrap().origin.as_deref(), Some(B));
    let file = lock.get(&format!("image.{C}.imgfile")).unwrap();
    assert!(
        file.digest.as_ref().unwrap().starts_with("sha1:")
            && file.url.ends_with("?channel=release")
    );

    // A second run asks for nothing, and the lock file stays.
    let before = world.server.requests();
    let written = std::fs::read(world.path("build.lock")).unwrap();
    world.fetch().unwrap();
    assert_eq!(world.server.requests(), before);
    assert_eq!(std::fs::read(world.path("build.lock")).unwrap(), written);

    // What the key gets (C§1.10).
    let spec = Spec::read(&world.path("build.spec")).unwrap();
    let artefacts = locked(&world).unwrap();
    let files: BTreeMap<String, Content> =
        key_files(&artefacts, &spec).unwrap().into_iter().collect();
    for path in files.keys() {
        assert_eq!(*path, path.to_lowercase());
    }
    assert_eq!(text(&files["zones/cnapi/image"]), format!("{A}\n"));
    assert_eq!(
        text(&files["services/cnapi/service.json"]),
        format!(r#"{{"params": {{"image_uuid": "{A}"}}}}"#)
    );
    assert!(text(&files["services/other/service.json"]).contains("IMAGE_UUID"));
    assert!(text(&files["application.json"]).contains("\"no_rabbit\": true"));
    assert_eq!(text(&files["sdcadm-install.sh"]), "sdcadm");
    assert_eq!(text(&files["etc/motd"]), "hello");
    assert_eq!(text(&files["ur-scripts/agents-master-20260104t000000z-g1.md5sum"]), "sum");
    for uuid in [A, B, C] {
        assert!(files.contains_key(&format!("images/{uuid}.imgfile")));
        let manifest = text(&files[&format!("images/{uuid}.imgmanifest")]);
        assert!(manifest.contains(uuid) && !manifest.contains("channels"), "{manifest}");
    }
    // Triton's order: an origin that several zones share is there once.
    assert_eq!(world.server.gets(&format!("/images/{B}/file")).len(), 1);

    // A new machine gets the same from the lock file.
    let other = World { dir: tempfile::tempdir().unwrap(), server: world.server.clone() };
    for name in ["build.spec", "build.lock"] {
        std::fs::copy(world.path(name), other.path(name)).unwrap();
    }
    std::fs::write(other.path("motd"), "hello").unwrap();
    let copied = std::process::Command::new("cp")
        .arg("-r")
        .args([world.path("sapi"), other.path("sapi")])
        .status();
    assert!(copied.unwrap().success());
    other.fetch().unwrap();
    let same = |world: &World| -> Vec<String> {
        world.lock().artefacts.iter().map(|entry| entry.sha256.clone()).collect()
    };
    assert_eq!(same(&other), same(&world));
}

#[test]
fn a_listing_of_several_pages_is_read_to_its_end() {
    let world = World::new();
    world.manta("thing", "20260101T000000Z", &[("thing-master-20260101T000000Z.tgz", b"here")]);
    let folder = "/builds/thing/master-20260101T000000Z/thing";
    let line = |name: &str| format!("{}\n", json!({"name": name, "type": "object", "size": 4}));
    let first: String = (0..1024).map(|number| line(&format!("a{number:05}"))).collect();
    world.server.put(&format!("{folder}?limit=1024"), first);
    let second = line("a01023") + &line("thing-master-20260101T000000Z.tgz");
    world.server.put(&format!("{folder}?limit=1024&marker=a01023"), second);
    world.spec(json!({"manta-base-path": "/builds",
                      "files": {"thing": {"file": {"base": "thing", "ext": "tgz"}}}}));
    world.fetch().unwrap();
    assert_eq!(world.cached("file.thing"), b"here");
}

#[test]
fn a_certain_build_and_another_base_in_manta() {
    let world = World::new();
    world.manta("thing", "20260101T000000Z", &[("thing-master-20260101T000000Z.tgz", b"old")]);
    world.manta("thing", "20260102T000000Z", &[("thing-master-20260102T000000Z.tgz", b"new")]);
    world.spec(json!({
        "my-base": "/builds", "manta-base-path": "/nowhere",
        "files": {"thing": {"alt_manta_base": "my-base", "build_timestamp": "20260101T000000Z",
                            "file": {"base": "thing", "ext": "tgz"}}},
    }));
    world.fetch().unwrap();
    assert_eq!(world.cached("file.thing"), b"old");
}

#[test]
fn a_zone_of_imgapi_by_channel() {
    let world = World::new();
    world.image("cnapi", A, Some(B));
    world.image("base", B, None);
    let spec = |job: &str| json!({"zones": {"cnapi": {"source": "imgapi", "uuid": A, "channel": "dev", "jobname": job}}});
    world.spec(spec("cnapi"));
    world.fetch().unwrap();
    assert_eq!(
        world.server.gets(&format!("/images/{A}/file"))[0].path,
        format!("/images/{A}/file?channel=dev")
    );
    assert_eq!(world.lock().artefacts.len(), 4);
    world.spec(spec("napi"));
    let error = world.fetch().unwrap_err();
    assert!(error.contains("is called \"cnapi\", not \"napi\""), "{error}");
}

#[test]
fn origins_that_are_missing_or_go_round_are_told() {
    let world = World::new();
    world.zone("cnapi", "20260101T000000Z", A, Some(B));
    world.spec(json!({"manta-base-path": "/builds", "zones": {"cnapi": {}}}));
    let error = world.fetch().unwrap_err();
    assert!(
        error.contains(&format!("image {B}, which zone cnapi is made from, is missing")),
        "{error}"
    );
    world.image("b", B, Some(C));
    world.image("c", C, Some(B));
    let error = world.fetch().unwrap_err();
    assert!(error.contains(&format!("in a circle: {B} → {C} → {B}")), "{error}");
    assert!(!world.path("build.lock").exists());
}

#[test]
fn a_bits_dir_and_plain_folders() {
    let world = World::new();
    let image = gzip(b"image");
    let bits = world.path("bits/cnapi/master-latest/cnapi");
    std::fs::create_dir_all(&bits).unwrap();
    for stamp in ["20260101T000000Z", "20260102T000000Z"] {
        let name = format!("cnapi-zfs-master-{stamp}-g1");
        std::fs::write(
            bits.join(format!("{name}.imgmanifest")),
            manifest("cnapi", A, Some(B), &image).to_string(),
        )
        .unwrap();
        std::fs::write(bits.join(format!("{name}.zfs.gz")), &image).unwrap();
    }
    std::fs::write(
        bits.join(format!("{B}.imgmanifest")),
        manifest("b", B, None, &image).to_string(),
    )
    .unwrap();
    std::fs::write(bits.join(format!("{B}.imgfile")), &image).unwrap();
    std::fs::create_dir(world.path("folder")).unwrap();
    std::fs::write(world.path("folder/thing-master-1.tgz"), "1").unwrap();
    std::fs::write(world.path("folder/thing-master-2.tgz"), "2").unwrap();
    world.spec(json!({
        "zones": {"cnapi": {"source": "bits-dir"}},
        "files": {"thing": {"source": "dir", "path": "folder", "file": {"base": "thing", "ext": "tgz"}},
                  "one": {"source": "dir", "path": "folder/thing-master-1.tgz"}},
    }));
    let error = world.fetch().unwrap_err();
    assert!(error.contains("set SOURCE_BITS_DIR"), "{error}");
    let fetch = || {
        said(world.command(&["fetch"]).env("SOURCE_BITS_DIR", world.path("bits")).output().unwrap())
    };
    fetch().unwrap();
    let lock = world.lock();
    assert_eq!(lock.get("zone.cnapi.imgfile").unwrap().version, "master-20260102T000000Z-g1");
    assert_eq!(lock.get("file.thing").unwrap().version, "master-2");
    assert_eq!(lock.artefacts.len(), 6);
    assert_eq!(world.server.requests(), 0);
    let error = locked(&world).unwrap_err();
    assert!(error.contains("cnapi: source bits-dir needs the folder"), "{error}");
    let bits_dir = world.path("bits").to_str().unwrap().to_owned();
    let artefacts = locked_in(&world, &|_| Some(bits_dir.clone())).unwrap();
    assert_eq!(artefacts.len(), 6);
    // No path of this machine is in the lock file.
    assert!(!world.lock().text().contains(world.dir.path().to_str().unwrap()));
    // The sums that a build puts beside its bits are compared.
    let name = "cnapi-zfs-master-20260102T000000Z-g1.zfs.gz";
    std::fs::write(
        world.path("bits/cnapi/master-latest/md5sums.txt"),
        format!("{} x/{name}\n", "0".repeat(32)),
    )
    .unwrap();
    std::fs::remove_file(world.path("build.lock")).unwrap();
    let error = fetch().unwrap_err();
    assert!(error.contains("its source says md5:0000"), "{error}");
}

#[test]
fn folders_of_web_servers() {
    let world = World::new();
    world
        .server
        .put("/d", "<a href=\"thing-master-1.tgz\">1</a><a href=\"thing-master-2.tgz\">2</a>");
    world.server.redirect("/d/", "/d");
    world.server.put("/d/thing-master-2.tgz", "two");
    world.server.put("/d/SHA256SUMS", format!("{}  thing-master-2.tgz\n", sha256(b"two")));
    let url = format!("{}/d/", world.server.url);
    world.spec(json!({"files": {"thing": {"source": "http", "url": url, "file": {"base": "thing", "ext": "tgz"}}}}));
    world.fetch().unwrap();
    let lock = world.lock();
    let entry = lock.get("file.thing").unwrap();
    assert_eq!(entry.version, "master-2");
    assert_eq!(entry.digest, Some(format!("sha256:{}", sha256(b"two"))));
}

#[test]
fn update_moves_on_and_fetch_does_not() {
    let world = World::new();
    let spec = json!({"manta-base-path": "/builds", "zones": {"cnapi": {}, "napi": {}},
                      "files": {"sdcadm": {"file": {"base": "sdcadm", "ext": "sh"}}}});
    let put = |day: u8| {
        world.zone("cnapi", &format!("202601{day:02}T000000Z"), A, None);
        world.zone("napi", &format!("202601{day:02}T000000Z"), B, None);
        let name = format!("sdcadm-master-202601{day:02}T000000Z.sh");
        world.manta("sdcadm", &format!("202601{day:02}T000000Z"), &[(&name, &[day])]);
    };
    put(1);
    world.spec(spec.clone());
    world.fetch().unwrap();
    put(2);
    world.fetch().unwrap();
    let version = |name: &str| world.lock().get(name).unwrap().version.clone();
    assert_eq!(version("zone.cnapi.imgfile"), "master-20260101T000000Z-g1");
    let output = world.run(&["update", "cnapi"]);
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(
        told.contains("zone.cnapi.imgfile: master-20260101T000000Z-g1 (")
            && told.contains("→ master-20260102T000000Z-g1 ("),
        "{told}"
    );
    assert_eq!(version("zone.napi.imgfile"), "master-20260101T000000Z-g1");
    let output = world.run(&["update", "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let steps = ["Looking up the parts", "Fetching and reading the parts"];
    for (step, name) in steps.into_iter().enumerate() {
        assert_eq!(report["seconds"][step]["step"], name);
    }
    let changed: Vec<&str> = report["changes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["name"].as_str().unwrap())
        .collect();
    assert_eq!(changed, ["file.sdcadm", "zone.napi.imgfile", "zone.napi.imgmanifest"]);
    let error = said(world.run(&["update", "cnapy"])).unwrap_err();
    assert!(error.contains("did you mean \"cnapi\""), "{error}");
    // What the spec no longer asks for goes, what it asks for differently is looked up.
    let mut less = spec;
    less["zones"].as_object_mut().unwrap().remove("napi");
    less["files"]["sdcadm"]["build_timestamp"] = json!("20260101T000000Z");
    world.spec(less);
    let error = locked(&world).unwrap_err();
    assert!(error.contains("sdcadm is locked as") && error.contains("headnode fetch"), "{error}");
    world.fetch().unwrap();
    assert!(world.lock().get("zone.napi.imgfile").is_none());
    assert_eq!(version("file.sdcadm"), "master-20260101T000000Z");
}
