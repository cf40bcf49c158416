//! Records of ZooKeeper and etcd.

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use tower_roster::registry::record::{RecordFormat, encode};

use crate::{INPUTS, mutate::mutate};

/// Names and values in each format.
const GOOD: &[(&str, &str)] = &[
    (
        "web-1",
        r#"{"name":"web","id":"web-1","address":"10.0.0.7","port":8080,"sslPort":null,"payload":{"@class":"X","id":"y","metadata":{"instance_status":"UP"}},"enabled":true,"weight":3,"zone":"a","tags":["v1","ä"],"metadata":{"k":"v"},"status":"passing"}"#,
    ),
    (
        "member_0000000012",
        r#"{"serviceEndpoint":{"host":"10.0.0.7","port":8080},"additionalEndpoints":{"grpc":{"host":"10.0.0.7","port":9990}},"status":"ALIVE","shard":3}"#,
    ),
    (
        "x",
        r#"{"Op":0,"Addr":"10.0.0.7:8080","Metadata":{"zone":"a","weight":5}}"#,
    ),
    (
        "x",
        r#"{"network":"tcp","address":"::1:8080","weight":10,"tags":{"zone":"a"}}"#,
    ),
    (
        "web-1",
        r#"{"name":"web","version":"latest","metadata":null,"nodes":[{"id":"web-1","address":"10.0.0.7:8080","metadata":{}}]}"#,
    ),
    (
        "web-1",
        r#"{"id":"web-1","version":"v1","metadata":{"weight":"10"},"endpoints":["http://10.0.0.7:80","grpc://10.0.0.7:9000?isSecure=false"]}"#,
    ),
    ("7587861234567890123", "10.0.0.7:8080:100"),
    ("x", "https://[::1]:8080/path"),
    ("10.0.0.7:8080", ""),
    (
        "dubbo%3A%2F%2F10.0.0.7%3A20880%2FGreeter%3Fweight%3D200%26disabled%3Dtrue",
        "1",
    ),
];

#[test]
fn no_record_panics_and_what_is_read_can_be_used_and_written() {
    let mut rng = SmallRng::seed_from_u64(4);
    let formats = [
        RecordFormat::new(),
        RecordFormat::new().dubbo(true).endpoint("grpc"),
    ];
    let mut read = 0;
    for _ in 0..INPUTS {
        let (name, value) = GOOD[rng.random_range(0..GOOD.len())];
        let (mut name, mut value) = (name.as_bytes().to_vec(), value.as_bytes().to_vec());
        if rng.random_bool(0.3) {
            name = mutate(&name, &mut rng);
        }
        if rng.random_bool(0.8) {
            value = mutate(&value, &mut rng);
        }
        let name = String::from_utf8_lossy(&name);
        let format = &formats[rng.random_range(0..2)];
        let Ok(instance) = format.decode(&"web".into(), &name, &value) else {
            continue;
        };
        read += 1;
        assert_ne!(instance.address.port(), 0, "{name:?} {value:?}");
        assert!(!instance.id().is_empty(), "{name:?} {value:?}");
        let again = RecordFormat::new().decode(&"web".into(), "", &encode(&instance, 1));
        assert_eq!(again.as_ref(), Ok(&instance), "{name:?} {value:?}");
    }
    assert!(
        read > INPUTS / 10,
        "mutations leave something to read: {read}"
    );
}
