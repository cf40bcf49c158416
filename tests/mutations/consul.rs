//! Replies of Consul.

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use serde_json::{Value, json};
use tower_roster::{instance::Instance, registry::consul::wire::Decoder};

use crate::{INPUTS, mutate::mutate};

fn entry(index: usize) -> Value {
    let id = format!("web-{index}");
    json!({
        "Node": {"ID": "40e4a748", "Node": "n1", "Address": "10.0.0.1", "Datacenter": "dc1", "Meta": null},
        "Service": {
            "ID": id, "Service": "web", "Tags": ["v1", "ä"], "Address": "10.0.0.2", "Port": 80,
            "TaggedAddresses": {"wan": {"Address": "10.1.0.2", "Port": 8080}},
            "Meta": {"zone": "a", "version": "1.4.2"}, "Weights": {"Passing": 10, "Warning": 2},
            "Locality": {"Region": "eu", "Zone": "eu-1"},
        },
        "Checks": [
            {"CheckID": "serfHealth", "Status": "passing"},
            {"CheckID": format!("service:{id}"), "Status": "warning", "ServiceID": id},
        ],
    })
}

fn decoder() -> Decoder {
    Decoder::new("web".into(), Some("wan".into()))
}

#[test]
fn no_reply_panics_and_what_is_read_can_be_used() {
    let good = json!([entry(1), entry(2), entry(3)]).to_string();
    let mut rng = SmallRng::seed_from_u64(1);
    let mut read = 0;
    for _ in 0..INPUTS {
        let body = mutate(good.as_bytes(), &mut rng);
        let Ok(decoded) = decoder().decode(&body) else {
            continue;
        };
        for instance in decoded.instances {
            assert_ne!(
                instance.address.port(),
                0,
                "{}",
                String::from_utf8_lossy(&body)
            );
            assert!(!instance.id().is_empty());
            read += 1;
        }
    }
    assert!(
        read > INPUTS / 10,
        "mutations leave something to read: {read}"
    );
}

#[test]
fn a_reply_is_read_alike_whatever_came_before() {
    let mut rng = SmallRng::seed_from_u64(2);
    let mut one_after_the_other = decoder();
    let mut good: Vec<Value> = (0..4).map(entry).collect();
    for round in 0..INPUTS / 10 {
        // The registry changes, and now and then a reply is damaged.
        match rng.random_range(0..4) {
            0 => good.push(entry(rng.random_range(0..8))),
            1 if !good.is_empty() => drop(good.remove(rng.random_range(0..good.len()))),
            2 if !good.is_empty() => {
                let at = rng.random_range(0..good.len());
                good[at]["Service"]["Weights"]["Passing"] = json!(rng.random_range(-1..70_000));
            }
            _ => {}
        }
        let mut body = Value::Array(good.clone()).to_string().into_bytes();
        if rng.random_bool(0.5) {
            body = mutate(&body, &mut rng);
        }
        let told = |decoder: &mut Decoder| {
            decoder.decode(&body).ok().map(|decoded| {
                let instances = decoded.instances.iter();
                let instances: Vec<Instance> = instances.map(|i| (**i).clone()).collect();
                (instances, decoded.rejected)
            })
        };
        let (incremental, fresh) = (told(&mut one_after_the_other), told(&mut decoder()));
        assert_eq!(
            incremental,
            fresh,
            "reply {round}: {}",
            String::from_utf8_lossy(&body)
        );
    }
}
