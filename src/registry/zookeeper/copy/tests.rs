use super::*;

fn copy() -> Copy {
    Copy::new(Query::new("web"), RecordFormat::new())
}

fn record(copy: &Copy, port: u16, czxid: i64) -> Record {
    let stat = Stat {
        czxid,
        ..Stat::default()
    };
    let data = format!(r#"{{"id":"a","address":"h","port":{port}}}"#);
    copy.record("a", data.as_bytes(), &stat)
}

fn list(names: &[&str]) -> Option<Option<BTreeSet<Box<str>>>> {
    Some(Some(names.iter().map(|name| Box::from(*name)).collect()))
}

fn listed(copy: &Copy) -> Vec<u16> {
    let listing = copy.listing(None);
    let ports = listing.instances.iter().map(|i| i.address.port());
    ports.collect()
}

/// ZD16, ZD25.
#[tokio::test(start_paused = true)]
async fn a_node_that_is_gone_is_kept_until_a_later_list_lacks_it_too() {
    let mut copy = copy();
    let start = Instant::now();
    let read = vec![("a".into(), Some(record(&copy, 1, 7)))];
    assert!(copy.apply(list(&["a"]), read, start));
    assert!(
        !copy.apply(list(&[]), vec![], start),
        "nothing to publish yet"
    );
    assert!(!copy.forget(start));
    assert_eq!(listed(&copy), [1]);
    assert_eq!(copy.look_again(), Some(start + GONE_AFTER));
    // It is back, as another node: the same instance.
    let names = BTreeSet::from(["a".into()]);
    assert_eq!(copy.unread(&names, &Changes::default()), ["a".into()]);
    let later = start + GONE_AFTER;
    let read = vec![("a".into(), Some(record(&copy, 1, 8)))];
    assert!(copy.apply(list(&["a"]), read, later));
    assert!(!copy.forget(later));
    assert_eq!(copy.look_again(), None);
    assert!(copy.unread(&names, &Changes::default()).is_empty());
    // It stays away.
    assert!(!copy.apply(list(&[]), vec![], later));
    let last = later + GONE_AFTER;
    assert!(!copy.apply(list(&[]), vec![], last));
    assert!(copy.forget(last));
    assert!(listed(&copy).is_empty());
}

/// ZD5, ZD6.
#[tokio::test(start_paused = true)]
async fn what_was_read_replaces_what_was_known_and_equals_cost_nothing() {
    let mut copy = copy();
    let now = Instant::now();
    let read = vec![("a".into(), Some(record(&copy, 1, 7)))];
    copy.apply(list(&["a"]), read, now);
    let first = Arc::clone(&copy.listing(None).instances[0]);
    let read = vec![("a".into(), Some(record(&copy, 1, 7)))];
    assert!(!copy.apply(None, read, now));
    assert!(Arc::ptr_eq(&first, &copy.listing(None).instances[0]));
    let changes = Changes {
        node: false,
        children: ["a".into(), "b".into()].into(),
    };
    assert_eq!(copy.changed(&changes), ["a".into()], "b is of no list");
    for (port, czxid) in [(2, 7), (2, 9)] {
        let read = vec![("a".into(), Some(record(&copy, port, czxid)))];
        assert!(copy.apply(None, read, now), "{port} {czxid}");
    }
    assert_eq!(copy.listing(None).instances[0].generation, 9);
    // A node that went between the list and its read.
    assert!(!copy.apply(None, vec![("a".into(), None), ("b".into(), None)], now));
    assert_eq!(copy.look_again(), Some(now + GONE_AFTER));
}

#[test]
fn a_service_without_one_usable_record_is_in_doubt() {
    let mut copy = copy();
    let bad = copy.record("a", b"{", &Stat::default());
    let now = Instant::now();
    assert!(copy.apply(list(&["a"]), vec![("a".into(), Some(bad))], now));
    let listing = copy.listing(None);
    assert!(listing.exists && listing.doubt.is_some(), "{listing:?}");
    assert_eq!(&*listing.rejected[0].record, "a");
    let empty = Copy::new(Query::new("web"), RecordFormat::new()).listing(None);
    assert!(!empty.exists && empty.doubt.is_none());
}
