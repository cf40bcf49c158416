use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::registry::etcd::wire::Base64;

const PREFIX: &str = "/services/web/";

fn copy() -> Copy {
    let prefix = PREFIX.as_bytes().to_vec();
    Copy::new(Query::new("web"), RecordFormat::new(), prefix)
}

fn kv(id: u8, port: u16, created: i64, modified: i64) -> KeyValue {
    KeyValue {
        key: format!("{PREFIX}{id}").into_bytes(),
        // A port of zero is a bad record.
        value: format!(r#"{{"address":"10.0.0.1","port":{port}}}"#).into_bytes(),
        create_revision: created,
        mod_revision: modified,
        version: 1,
        lease: 0,
    }
}

fn delete(id: u8, revision: i64) -> Event {
    let key = Base64(format!("{PREFIX}{id}").into_bytes());
    let kv = json!({"key": key, "mod_revision": revision.to_string()});
    serde_json::from_value(json!({"type": "DELETE", "kv": kv})).unwrap()
}

fn put(kv: KeyValue) -> Event {
    Event {
        kv,
        ..Event::default()
    }
}

fn listed(kvs: impl IntoIterator<Item = KeyValue>) -> Copy {
    let mut copy = copy();
    let mut pages = Pages::default();
    copy.add(&mut pages, kvs.into_iter().collect()).unwrap();
    copy.replace(pages);
    copy
}

/// The reply to a range of the key that was changed last.
fn confirmation(store: &BTreeMap<u8, KeyValue>) -> RangeReply {
    let last = store.values().max_by_key(|kv| kv.mod_revision).cloned();
    RangeReply {
        kvs: last.into_iter().collect(),
        count: store.len().try_into().unwrap(),
        ..RangeReply::default()
    }
}

#[test]
fn an_unchanged_instance_keeps_its_allocation() {
    let mut copy = listed([kv(1, 80, 1, 1), kv(2, 80, 2, 2)]);
    let before = copy.listing(None).instances;
    // The same value under a new revision is no change (ED7).
    assert_eq!(copy.apply(vec![put(kv(1, 80, 1, 3))]), Ok(false));
    assert_eq!(copy.apply(vec![put(kv(2, 81, 2, 4))]), Ok(true));
    let after = copy.listing(None).instances;
    assert!(Arc::ptr_eq(&before[0], &after[0]));
    assert_eq!(after[1].address.port(), 81);
    // Delivered twice.
    assert_eq!(
        copy.apply(vec![put(kv(2, 80, 2, 2)), delete(1, 2)]),
        Ok(false)
    );
    assert_eq!(copy.listing(None).instances, after);
}

#[test]
fn keys_outside_of_the_service_are_refused() {
    let outside = KeyValue {
        key: b"/services/webhook/1".to_vec(),
        ..kv(1, 80, 1, 1)
    };
    assert!(copy().apply(vec![put(outside.clone())]).is_err());
    assert!(copy().add(&mut Pages::default(), vec![outside]).is_err());
}

proptest! {
    /// The copy that follows the changes is the copy of a list, and a confirmation succeeds if and only if
    /// no change was missed (ED12).
    #[test]
    fn changes_lead_to_what_a_list_gives(
        changes in prop::collection::vec((0..6_u8, prop::option::of(0..3_u16)), 0..40),
        missed in prop::option::of(0..40_usize),
    ) {
        let mut store: BTreeMap<u8, KeyValue> = BTreeMap::new();
        let mut follower = copy();
        let mut confirmed = true;
        for (n, (id, port)) in changes.into_iter().enumerate() {
            let revision = 2 + n as i64;
            let event = match port {
                Some(port) => {
                    let created = store.get(&id).map_or(revision, |kv| kv.create_revision);
                    let kv = kv(id, port, created, revision);
                    store.insert(id, kv.clone());
                    put(kv)
                }
                None if store.remove(&id).is_some() => delete(id, revision),
                None => continue,
            };
            if missed == Some(n) {
                prop_assert!(!follower.is_confirmed_by(&confirmation(&store)));
                confirmed = false;
            } else {
                follower.apply(vec![event]).unwrap();
            }
        }
        if confirmed {
            prop_assert!(follower.is_confirmed_by(&confirmation(&store)));
            let list = listed(store.into_values()).listing(None);
            let followed = follower.listing(None);
            prop_assert_eq!(list.instances, followed.instances);
            prop_assert_eq!(list.rejected, followed.rejected);
            prop_assert_eq!(list.exists, followed.exists);
            prop_assert_eq!(list.doubt, followed.doubt);
        }
    }
}
