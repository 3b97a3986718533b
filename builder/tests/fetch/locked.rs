//! Builds from the lock file alone.

use serde_json::json;

use super::World;
use super::sources::locked;

#[test]
fn a_locked_build_takes_nothing_else() {
    let world = World::new();
    world.one_http_file(b"thing");
    std::fs::write(world.path("keys"), "ssh-ed25519 A").unwrap();
    let url = format!("{}/x/thing.bin", world.server.url);
    std::fs::create_dir_all(world.path("over/key")).unwrap();
    std::fs::write(world.path("over/key/grub.cfg"), "set a=1").unwrap();
    let spec = json!({
        "authorized-keys": "keys",
        "overlays": "over",
        "files": {"thing": {"source": "http", "url": url}},
    });
    world.spec(spec.clone());
    world.fetch().unwrap();
    assert_eq!(locked(&world).unwrap().len(), 3);
    std::fs::write(world.path("keys"), "ssh-ed25519 B").unwrap();
    std::fs::write(world.path("over/key/grub.cfg"), "set a=2").unwrap();
    std::fs::write(world.path("over/key/new.cfg"), "").unwrap();
    let sha256 = world.lock().get("file.thing").unwrap().sha256.clone();
    let object = world.path("cache/artefacts/objects").join(&sha256[..2]).join(&sha256);
    std::fs::remove_file(&object).unwrap();
    let mut more = spec;
    more["zones"] = json!({"cnapi": {}});
    world.spec(more);
    let error = locked(&world).unwrap_err();
    for wanted in [
        "local.authorized-keys: ",
        "local.overlays.key/grub.cfg: ",
        "local.overlays.key/new.cfg is not in the lock file",
        "is not the file that was locked",
        "file.thing is not in the cache",
        "cnapi is not in the lock file",
    ] {
        assert!(error.contains(wanted), "{wanted} in {error}");
    }
}

#[test]
fn a_locked_build_misses_what_was_taken_away() {
    let world = World::new();
    let files = ["over/key/grub.cfg", "sapi/application.json", "head/scripts/sdc-init.js"];
    for file in files.into_iter().chain(["head/scripts/headnode.sh", "over/key/kept"]) {
        let path = world.path(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "{}").unwrap();
    }
    let spec = json!({"overlays": "over", "sapi-config": "sapi", "sdc-headnode": "head"});
    world.spec(spec.clone());
    world.fetch().unwrap();
    assert_eq!(locked(&world).unwrap().len(), 5);
    for file in files {
        std::fs::remove_file(world.path(file)).unwrap();
    }
    let error = locked(&world).unwrap_err();
    for name in [
        "local.overlays.key/grub.cfg",
        "local.sapi-config.application.json",
        "local.sdc-headnode.scripts/sdc-init.js",
    ] {
        assert!(error.contains(&format!("{name} was locked, but is gone")), "{name}: {error}");
    }
    assert!(error.starts_with("3 things") && error.contains("headnode fetch"), "{error}");
    // A folder that is gone as a whole is one problem.
    std::fs::remove_dir_all(world.path("over")).unwrap();
    let error = locked(&world).unwrap_err();
    assert!(
        error.starts_with("3 things") && error.contains("local.overlays: there is no "),
        "{error}"
    );
    // What the spec no longer asks for is not missed.
    world.spec(json!({"sdc-headnode": "head"}));
    let error = locked(&world).unwrap_err();
    assert!(error.starts_with("local.sdc-headnode.scripts/sdc-init.js was locked"), "{error}");
    world.fetch().unwrap();
    assert_eq!(locked(&world).unwrap().len(), 1);
}
