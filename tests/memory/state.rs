//! State in a file.

use std::path::Path;

use tokio::time::{Instant, sleep};
use tower_roster::{error::ErrorKind, registry::Renewal};

use super::*;

fn read(path: &Path) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_saved_state_comes_back_whole_with_fresh_deadlines() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("registry.json");
    let memory = Memory::new();
    let rich = instance("a")
        .weight(7)
        .zone("eu-1a")
        .tag("v2")
        .meta("model", "große");
    memory
        .register(Announcement::new(rich).health(Health::Ttl(SECOND * 3)))
        .unwrap();
    let v6 = Instance::new("web", "six", "[::1]:80".parse().unwrap());
    memory.register(v6).unwrap();
    memory.register(unchecked("c")).unwrap();
    let probed = Announcement::new(instance("d")).health(Health::tcp());
    memory.register(probed.reap_after(None)).unwrap();
    sleep(SECOND * 2).await;
    memory.save(&path).unwrap();
    let (before, index, epoch) = (memory.instances("web"), memory.index(), memory.epoch());
    drop(memory);

    let memory = Memory::load(&path).unwrap();
    assert_eq!(memory.instances("web"), before);
    assert!(memory.index() >= index, "the index goes on");
    assert_ne!(memory.epoch(), epoch, "the epoch is another");
    sleep(SECOND * 2).await;
    assert_eq!(memory.heartbeat("a"), Renewal::Kept, "a fresh deadline");
    let resaved = directory.path().join("again.json");
    memory.save(&resaved).unwrap();
    let (first, second) = (read(&path), read(&resaved));
    assert_eq!(first["instances"][1], second["instances"][1]);
    sleep(SECOND * 4).await;
    assert_eq!(memory.heartbeat("a"), Renewal::Lost, "that does end");
    assert_eq!(memory.heartbeat("c"), Renewal::Kept);
}

#[tokio::test(start_paused = true)]
async fn a_registration_is_in_the_file_before_it_counts_as_made() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("registry.json");
    let build = || Memory::builder().persist(&path).build();
    let memory = build().unwrap();
    let registry = registry(&memory);
    let registration = registry.register(instance("a")).unwrap();
    registration.registered().await;
    // As after a kill: the file alone tells.
    let copy = directory.path().join("copy.json");
    std::fs::copy(&path, &copy).unwrap();
    let restarted = Memory::load(&copy).unwrap();
    assert_eq!(restarted.instances("web"), memory.instances("web"));

    registration.deregister().await.unwrap();
    assert_eq!(read(&path)["instances"].as_array().unwrap().len(), 0);

    // What was not yet saved is saved at the end.
    memory.register(unchecked("b")).unwrap();
    drop(registry);
    drop(memory);
    let memory = build().unwrap();
    assert_eq!(memory.instances("web").len(), 1);
    let names = std::fs::read_dir(directory.path()).unwrap();
    let mut names: Vec<_> = names.map(|file| file.unwrap().file_name()).collect();
    names.sort();
    let left = ["copy.json", "registry.json", "registry.json.lock"];
    assert_eq!(names, left, "nothing else is left beside the file");
}

#[tokio::test(start_paused = true)]
async fn expiry_is_saved_too() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("registry.json");
    let memory = Memory::builder().persist(&path).build().unwrap();
    memory.register(ttl("a", SECOND)).unwrap();
    let start = Instant::now();
    while !path.exists() || !read(&path)["instances"].as_array().unwrap().is_empty() {
        assert!(start.elapsed() < SECOND * 30, "the expiry was never saved");
        sleep(SECOND / 10).await;
    }
    assert!(memory.instances("web").is_empty());
}

#[test]
fn a_file_that_is_no_state_is_named_and_left_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("registry.json");
    let record = |fields: &str| {
        format!(
            r#"{{"index": 2, "instances": [{{"serviceId": "a", "serviceName": "web",
            "host": "127.0.0.1", {fields}}}]}}"#
        )
    };
    for (text, cause) in [
        (String::new(), "EOF"),
        ("{\"index\": 1".to_owned(), "EOF"),
        ("[]".to_owned(), "JSON object"),
        ("{}".to_owned(), "index is missing"),
        ("{\"index\": 1}".to_owned(), "instances"),
        (record("\"port\": 0"), "instances[0]: port is 0"),
        (
            record("\"port\": 80, \"generation\": 18446744073709551615"),
            "instances[0]: generation is 18446744073709551615",
        ),
        ("\u{0}\u{1}".repeat(1000), "expected value"),
    ] {
        std::fs::write(&path, &text).unwrap();
        for built in [
            Memory::load(&path),
            Memory::builder().persist(&path).build(),
        ] {
            let error = built.unwrap_err();
            let chain = error.to_chain();
            assert_eq!(error.kind(), ErrorKind::Malformed);
            assert!(chain.contains("registry.json"), "{chain}");
            assert!(chain.contains(cause), "{chain} without {cause}");
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    }
    std::fs::write(&path, record("\"port\": 80, \"later\": [1, {}]")).unwrap();
    let memory = Memory::load(&path).unwrap();
    assert_eq!(
        memory.instances("web").len(),
        1,
        "unknown fields are left out"
    );
    let missing = Memory::load(directory.path().join("none.json")).unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::Invalid);
}

#[tokio::test]
async fn a_file_that_cannot_be_written_does_not_stop_the_registry() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("none").join("registry.json");
    let memory = Memory::builder().persist(&path).build().unwrap();
    let registration = registry(&memory).register(instance("a")).unwrap();
    registration.registered().await;
    assert_eq!(memory.instances("web").len(), 1);
    let error = memory.save(&path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("registry.json"), "{error}");
    registration.deregister().await.unwrap();
}
