use headnode::source::cache::{About, Cache};
use serde_json::Value;

use super::{World, said};

fn put(cache: &Cache, text: &str) -> String {
    let about = About { name: text.to_owned(), ..About::default() };
    cache.put(text.as_bytes(), &about).unwrap().sha256
}

fn names(world: &World) -> Vec<String> {
    let output = world.run(&["cache", "ls", "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let objects = report["objects"].as_array().unwrap();
    let mut names: Vec<String> =
        objects.iter().map(|object| object["name"].as_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

#[test]
fn what_is_in_use_or_locked_is_not_deleted() {
    let world = World::new();
    world.one_http_file(b"locked");
    world.fetch().unwrap();
    let cache = Cache::open(&world.path("cache")).unwrap();
    let used = put(&cache, "used");
    put(&cache, "free");
    let held = cache.get(&used).unwrap().unwrap();
    let error = said(world.run(&["cache", "gc"])).unwrap_err();
    assert!(error.contains("--keep-days"), "{error}");
    let gc = ["cache", "gc", "--max-size", "0B", "--lock", "build.lock"];
    let output = world.run(&gc);
    let told = String::from_utf8(output.stdout.clone()).unwrap();
    assert!(
        output.status.success() && told.contains("in use: ") && told.contains("1 files and"),
        "{told}"
    );
    assert_eq!(names(&world), ["file.thing", "used"]);
    assert_eq!(std::fs::read(&held.path).unwrap(), b"used");
    drop(held);
    said(world.run(&gc)).unwrap();
    assert_eq!(names(&world), ["file.thing"]);
    said(world.run(&["cache", "gc", "--max-size", "0B"])).unwrap();
    assert_eq!(names(&world), Vec::<String>::new());
    // The file is fetched again: nothing stands for it any more.
    world.fetch().unwrap();
    assert_eq!(names(&world), ["file.thing"]);
}

#[test]
fn old_files_go_and_recent_ones_stay() {
    let world = World::new();
    let cache = Cache::open(&world.path("cache")).unwrap();
    let old = put(&cache, "old");
    put(&cache, "new");
    let path = cache.get(&old).unwrap().unwrap().path;
    let long_ago = headnode::source::upkeep::days_ago(10);
    std::fs::File::open(&path).unwrap().set_modified(long_ago).unwrap();
    said(world.run(&["cache", "gc", "--keep-days", "11"])).unwrap();
    assert_eq!(names(&world), ["new", "old"]);
    said(world.run(&["cache", "gc", "--keep-days", "9"])).unwrap();
    assert_eq!(names(&world), ["new"]);
}

#[test]
fn damage_is_found_and_repaired() {
    let world = World::new();
    world.one_http_file(b"thing");
    world.fetch().unwrap();
    assert!(world.run(&["cache", "verify"]).status.success());
    let sha256 = world.lock().get("file.thing").unwrap().sha256.clone();
    let path = world.path("cache/artefacts/objects").join(&sha256[..2]).join(&sha256);
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "thinG").unwrap();
    let output = world.run(&["cache", "verify"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(output).unwrap_err().contains("damaged: "));
    assert!(path.exists());
    assert_eq!(world.run(&["cache", "verify", "--repair"]).status.code(), Some(1));
    world.fetch().unwrap();
    assert_eq!(world.cached("file.thing"), b"thing");
}
