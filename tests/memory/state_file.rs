//! The state file among other files, links, FIFOs and registries.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use tempfile::TempDir;
use tower_roster::{error::ErrorKind, registry::memory::MemoryLimits};

use super::*;

fn folder() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("registry.json");
    (directory, path)
}

fn open(path: &Path) -> Memory {
    Memory::builder().persist(path).build().unwrap()
}

fn mkfifo(path: &Path) {
    let made = std::process::Command::new("mkfifo").arg(path).status();
    assert!(made.unwrap().success());
}

/// Registers, and waits until it is saved.
async fn register(memory: &Memory, path: &Path, id: &str) {
    memory.register(unchecked(id)).unwrap();
    let start = std::time::Instant::now();
    let quoted = format!("{id:?}");
    while !fs::read_to_string(path).is_ok_and(|text| text.contains(&quoted)) {
        assert!(start.elapsed() < SECOND * 30, "{id} was never saved");
        tokio::time::sleep(SECOND / 1_000).await;
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn a_save_keeps_the_mode_and_a_first_file_is_for_its_owner() {
    let (_directory, path) = folder();
    let memory = open(&path);
    register(&memory, &path, "a").await;
    assert_eq!(mode(&path), 0o600);
    for kept in [0o640, 0o600, 0o644] {
        fs::set_permissions(&path, fs::Permissions::from_mode(kept)).unwrap();
        register(&memory, &path, &format!("a{kept}")).await;
        assert_eq!(mode(&path), kept, "{kept:o}");
    }
    memory.save(&path).unwrap();
    assert_eq!(mode(&path), 0o644);
}

#[tokio::test]
async fn links_and_fifos_beside_the_file_are_harmless() {
    let (directory, path) = folder();
    let precious = directory.path().join("precious");
    fs::write(&precious, "precious").unwrap();
    symlink(&precious, directory.path().join("registry.json.tmp")).unwrap();
    symlink(&precious, &path).unwrap();
    fs::write(&precious, r#"{"index": 1, "instances": []}"#).unwrap();
    let before = fs::read_to_string(&precious).unwrap();
    let memory = open(&path);
    register(&memory, &path, "a").await;
    assert_eq!(fs::read_to_string(&precious).unwrap(), before);
    assert!(
        fs::symlink_metadata(&path).unwrap().is_file(),
        "the link is replaced"
    );
    drop(memory);

    fs::remove_file(directory.path().join("registry.json.tmp")).unwrap();
    mkfifo(&directory.path().join("registry.json.tmp"));
    let memory = open(&path);
    register(&memory, &path, "b").await;
    drop(memory);
    assert_eq!(open(&path).instances("web").len(), 2);
}

#[tokio::test]
async fn a_lock_or_a_state_that_is_no_file_is_refused_at_once() {
    let (directory, path) = folder();
    mkfifo(&path);
    let error = Memory::builder().persist(&path).build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(
        error.to_chain().contains("no regular file"),
        "{}",
        error.to_chain()
    );
    fs::remove_file(&path).unwrap();

    let (lock, precious) = (
        directory.path().join("registry.json.lock"),
        directory.path().join("p"),
    );
    fs::remove_file(&lock).unwrap();
    symlink(&precious, &lock).unwrap();
    let error = Memory::builder().persist(&path).build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(!precious.exists(), "the link was not followed");
}

#[tokio::test]
async fn a_second_registry_on_one_file_is_refused_until_the_first_ends() {
    let (_directory, path) = folder();
    let first = open(&path);
    let error = Memory::builder().persist(&path).build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(
        error.to_chain().contains("in use by another registry"),
        "{}",
        error.to_chain()
    );
    register(&first, &path, "a").await;
    drop(first);
    assert_eq!(open(&path).instances("web").len(), 1);
}

#[tokio::test]
async fn changes_in_quick_succession_are_saved_together() {
    let (_directory, path) = folder();
    let limits = MemoryLimits::new().save_pause(SECOND / 5);
    let memory = Memory::builder()
        .persist(&path)
        .limits(limits)
        .build()
        .unwrap();
    register(&memory, &path, "a").await;
    let (start, mut saves, mut last) = (std::time::Instant::now(), 0, 0);
    let mut weight = 0;
    while start.elapsed() < SECOND * 2 {
        weight += 1;
        memory
            .register(instance("a").weight(weight % 60_000))
            .unwrap();
        let inode = fs::metadata(&path).unwrap().ino();
        saves += u32::from(inode != last);
        last = inode;
        tokio::time::sleep(SECOND / 1_000).await;
    }
    assert!(
        (3..=11).contains(&saves),
        "{saves} saves of {weight} changes in 2 s"
    );
    // The one that counts as made includes all before it.
    register(&memory, &path, "b").await;
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(&format!("\"weight\": {}", weight % 60_000)));
}

/// As when the folder is mounted after the start.
#[tokio::test]
async fn a_state_that_appears_after_the_start_is_not_replaced() {
    let (directory, _) = folder();
    let folder = directory.path().join("late");
    let path = folder.join("registry.json");
    let memory = open(&path);
    fs::create_dir(&folder).unwrap();
    let before = Memory::new();
    before.register(unchecked("before")).unwrap();
    before.save(&path).unwrap();
    memory.register(unchecked("a")).unwrap();
    for _ in 0..2 {
        let error = memory.flush().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        let chain = error.to_chain();
        assert!(chain.contains("was not read"), "{chain}");
    }
    let kept = Memory::load(&path).unwrap();
    assert_eq!(kept.instances("web")[0].id(), "before");
    fs::rename(&path, folder.join("moved")).unwrap();
    memory.flush().unwrap();
    let saved = Memory::load(&path).unwrap();
    assert_eq!(saved.instances("web")[0].id(), "a");
}

#[test]
fn what_a_killed_save_left_is_removed_at_the_start() {
    let (directory, path) = folder();
    let others = [
        ".other.json.0123456789abcdef.tmp",
        ".registry.json.0123456789.tmp",
        ".registry.json.tmp",
        "registry.json.0123456789abcdef.tmp",
    ];
    for name in others
        .iter()
        .chain(&[".registry.json.0123456789abcdef.tmp"])
    {
        fs::write(directory.path().join(name), "").unwrap();
    }
    drop(open(&path));
    let files = fs::read_dir(directory.path()).unwrap();
    let mut names: Vec<_> = files.map(|file| file.unwrap().file_name()).collect();
    names.sort();
    let mut expected = [&others[..], &["registry.json.lock"]].concat();
    expected.sort_unstable();
    assert_eq!(names, expected);
}
