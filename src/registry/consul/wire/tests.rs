use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::{
    catalog::Rejected,
    instance::{Instance, Key, Status, Weight},
};

fn entry(edit: impl FnOnce(&mut Value)) -> Value {
    let mut entry = json!({
        "Node": {"ID": "", "Node": "n1", "Address": "10.0.0.1", "Datacenter": "dc1", "Meta": null},
        "Service": {
            "ID": "web-1", "Service": "web", "Tags": ["v1"], "Address": "10.0.0.2", "Port": 80,
            "Meta": {"zone": "a"}, "Weights": {"Passing": 10, "Warning": 2},
            "Proxy": {"Config": {"limit": 3}}, "Unknown": [{}],
        },
        "Checks": [{"CheckID": "serfHealth", "Status": "passing"}],
    });
    edit(&mut entry);
    entry
}

fn decode(body: &[u8], tag: Option<&str>) -> Result<Decoded, serde_json::Error> {
    Decoder::new("web".into(), tag.map(str::to_owned)).decode(body)
}

fn one(edit: impl FnOnce(&mut Value)) -> Result<Instance, Rejected> {
    let body = json!([entry(edit)]).to_string();
    let mut decoded = decode(body.as_bytes(), None).unwrap();
    match decoded.instances.pop() {
        Some(instance) => Ok((*instance).clone()),
        None => Err(decoded.rejected.remove(0)),
    }
}

#[test]
fn reads_what_an_agent_writes() {
    let instance = one(|_| {}).unwrap();
    assert_eq!(instance.key, Key::new("web-1", "dc1/n1"));
    assert_eq!(instance.address.to_string(), "10.0.0.2:80");
    assert_eq!(
        (instance.weight.get(), instance.zone.as_deref()),
        (10, Some("a"))
    );
    assert_eq!(
        (instance.tags, instance.status),
        (vec!["v1".to_owned()], Status::Passing)
    );
}

#[test]
fn absent_and_null_fields_have_their_meaning() {
    let bare = one(|entry| {
        let service = entry["Service"].as_object_mut().unwrap();
        service.retain(|name, _| name == "ID" || name == "Port");
        entry["Checks"] = Value::Null;
    })
    .unwrap();
    assert_eq!(
        bare.address.to_string(),
        "10.0.0.1:80",
        "the node's address"
    );
    assert_eq!((bare.weight, bare.zone), (Weight::ONE, None));
    for field in [
        "Tags",
        "Meta",
        "Weights",
        "TaggedAddresses",
        "Address",
        "Locality",
    ] {
        one(|entry| entry["Service"][field] = Value::Null)
            .unwrap_or_else(|e| panic!("{field}: {e}"));
    }
}

#[test]
fn unusable_records_are_named_with_their_reason() {
    type Edit = fn(&mut Value);
    let cases: [(Edit, &str); 12] = [
        (|e| e["Service"]["Port"] = json!(0), "port 0"),
        (|e| e["Service"]["Port"] = json!(70_000), "port 70000"),
        (|e| e["Service"]["Port"] = json!(-1), "port -1"),
        (|e| e["Service"]["Port"] = json!("80"), "invalid type"),
        (|e| e["Service"]["Port"] = json!(1e300), "invalid"),
        (
            |e| e["Service"]["Address"] = json!("not an ip!"),
            "neither an IP address",
        ),
        (|e| e["Service"]["Tags"] = json!([1]), "invalid type"),
        (
            |e| e["Service"]["Tags"] = json!(["x".repeat(70_000)]),
            "bytes of tags",
        ),
        (
            |e| e["Service"]["Meta"] = json!({"m": "x".repeat(10 << 20)}),
            "bytes of metadata",
        ),
        (|e| e["Service"]["ID"] = json!(""), "no id"),
        (|e| e["Node"] = json!("n1"), "invalid type"),
        (|e| *e = json!(7), "invalid type"),
    ];
    for (index, (edit, reason)) in cases.into_iter().enumerate() {
        let rejected = one(edit).expect_err("it cannot be used");
        let text = rejected.to_string();
        assert!(
            text.contains(reason),
            "case {index}: {text} does not say {reason:?}"
        );
        assert!(text.len() < 500, "case {index}: a message stays short");
    }
}

#[test]
fn a_bad_record_costs_itself_only() {
    let good = entry(|_| {});
    let bad = entry(|e| e["Service"]["Tags"] = json!({"a": 1}));
    let body = json!([bad, good]).to_string();
    let decoded = decode(body.as_bytes(), None).unwrap();
    assert_eq!((decoded.instances.len(), decoded.rejected.len()), (1, 1));
    assert_eq!(&*decoded.rejected[0].record, "web-1 on node n1");
    for garbage in ["", "{}", "null", "[", "[{]", "<html>", "\"a\""] {
        assert!(decode(garbage.as_bytes(), None).is_err(), "{garbage:?}");
    }
    assert!(decode(b"[\xff]", None).is_err(), "not UTF-8");
}

#[test]
fn a_reply_of_nothing_but_bad_records_stays_small() {
    let body = format!("[{}0]", "0,".repeat(50_000));
    let decoded = decode(body.as_bytes(), None).unwrap();
    assert_eq!(
        (decoded.instances.len(), decoded.rejected.len()),
        (0, 1_000)
    );
}

#[test]
fn weights_follow_the_status_and_are_clamped() {
    let checked = |status: &str, weights: Value| {
        let instance = one(|e| {
            e["Checks"][0]["Status"] = json!(status);
            e["Service"]["Weights"] = weights;
        });
        instance.unwrap().weight.get()
    };
    let weights = json!({"Passing": 10, "Warning": 0});
    assert_eq!(checked("passing", weights.clone()), 10);
    assert_eq!(checked("warning", weights), 0);
    for (raw, weight) in [(-5, 0), (0, 0), (70_000, 65_535), (i64::MAX, 65_535)] {
        assert_eq!(checked("passing", json!({"Passing": raw})), weight);
    }
    assert_eq!(checked("warning", json!({"Passing": 10})), 1);
}

#[test]
fn the_worst_check_decides_and_maintenance_is_a_state_of_its_own() {
    let status = |checks: Value| one(|e| e["Checks"] = checks).unwrap().status;
    let check = |id: &str, status: &str| json!({"CheckID": id, "Status": status});
    let (ok, dead) = (check("a", "passing"), check("serfHealth", "critical"));
    assert_eq!(status(json!([])), Status::Passing);
    assert_eq!(status(json!([ok, check("b", "warning")])), Status::Warning);
    assert_eq!(
        status(json!([dead, check("b", "warning"), ok])),
        Status::Critical
    );
    assert_eq!(status(json!([ok, check("b", "weird")])), Status::Critical);
    for id in ["_service_maintenance:web-1", "_node_maintenance"] {
        assert_eq!(
            status(json!([dead, check(id, "critical")])),
            Status::Maintenance
        );
    }
}

#[test]
fn addresses_come_from_the_tag_the_service_or_the_node() {
    let tagged = entry(|e| {
        e["Service"]["TaggedAddresses"] = json!({
            "wan": {"Address": "198.18.0.1", "Port": 8080},
            "lan": {"address": "10.9.9.9", "port": 0},
        });
    });
    let body = json!([tagged]).to_string();
    for (tag, address) in [
        (Some("wan"), "198.18.0.1:8080"),
        (Some("lan"), "10.9.9.9:80"),
        (Some("other"), "10.0.0.2:80"),
        (None, "10.0.0.2:80"),
    ] {
        let decoded = decode(body.as_bytes(), tag).unwrap();
        assert_eq!(decoded.instances[0].address.to_string(), address);
    }
    for (written, address) in [
        ("  ", "10.0.0.1:80"),
        ("::1", "[::1]:80"),
        ("[::1]", "[::1]:80"),
        ("web.internal", "web.internal:80"),
    ] {
        let instance = one(|e| e["Service"]["Address"] = json!(written)).unwrap();
        assert_eq!(instance.address.to_string(), address);
    }
}

#[test]
fn several_ports_have_a_default() {
    let ports = |ports: Value| {
        one(|e| {
            e["Service"]["Port"] = json!(0);
            e["Service"]["Ports"] = ports;
        })
    };
    let both = json!([{"name": "b", "port": 2}, {"name": "a", "port": 1, "default": true}]);
    assert_eq!(ports(both).unwrap().address.port(), 1);
    let none = json!([{"name": "b", "port": 2}, {"name": "a", "port": 1}]);
    assert_eq!(ports(none).unwrap().address.port(), 1);
    assert!(ports(json!([])).is_err());
}

#[test]
fn only_what_changed_is_read_again() {
    let body = |port: u16| {
        let other = entry(|e| {
            e["Service"]["ID"] = json!("web-2");
            e["Service"]["Port"] = json!(port);
        });
        json!([entry(|_| {}), other]).to_string()
    };
    let mut decoder = Decoder::new("web".into(), None);
    let first = decoder.decode(body(1).as_bytes()).unwrap().instances;
    let second = decoder.decode(body(2).as_bytes()).unwrap().instances;
    assert!(Arc::ptr_eq(&first[0], &second[0]));
    assert_eq!((first[1].address.port(), second[1].address.port()), (1, 2));
    decoder.decode(b"[]").unwrap();
    assert!(
        decoder.known.is_empty(),
        "only the last reply is remembered"
    );
}

#[test]
fn escapes_in_text_are_decoded() {
    let instance = one(|e| e["Service"]["ID"] = json!("a\"b\u{4e2d}\n")).unwrap();
    assert_eq!(instance.id(), "a\"b\u{4e2d}\n");
}

#[test]
fn the_witness_is_the_first_element_whose_names_an_expression_can_contain() {
    let entry = |id: &str, node: &str| {
        let (id, node) = (serde_json::json!(id), serde_json::json!(node));
        format!(r#"{{"Node": {{"Node": {node}}}, "Service": {{"ID": {id}}}}}"#)
    };
    let witness = |entries: &[String]| {
        let body = format!("[{}]", entries.join(","));
        let witness = decode(body.as_bytes(), None).unwrap().witness;
        witness.map(|Witness { id, node }| (id, node))
    };
    let odd = [
        entry(r#"a" or "" == ""#, "n"),
        entry(r"a\b", "n"),
        entry("a", "n\n"),
        entry("a", ""),
        entry(&"a".repeat(513), "n"),
    ];
    assert_eq!(witness(&odd), None);
    let plain = [odd[0].clone(), entry("a/b c", "rack 7/ä")];
    let named = ("a/b c".to_owned(), "rack 7/ä".to_owned());
    assert_eq!(witness(&plain), Some(named));
    assert_eq!(witness(&[]), None);
    let late = [vec![odd[0].clone(); 8], vec![entry("a", "n")]].concat();
    assert_eq!(witness(&late), None, "only a few are parsed for it");
}

#[test]
fn a_blank_value_never_hides_another_source_of_it() {
    let zone = |locality: Value, meta: Value| {
        let instance = one(|e| {
            e["Service"]["Locality"] = locality;
            e["Service"]["Meta"] = meta;
        });
        instance.unwrap().zone.map(|zone| zone.to_string())
    };
    let meta = || json!({"zone": "eu-1a"});
    for blank in [
        json!(null),
        json!({}),
        json!({"Zone": ""}),
        json!({"Zone": " "}),
        json!({"Zone": null}),
    ] {
        assert_eq!(
            zone(blank.clone(), meta()).as_deref(),
            Some("eu-1a"),
            "{blank}"
        );
        assert_eq!(zone(blank, json!({"zone": " "})), None);
    }
    assert_eq!(
        zone(json!({"Zone": "eu-1b"}), meta()).as_deref(),
        Some("eu-1b")
    );

    let ports = |ports: Value| {
        let instance = one(|e| {
            e["Service"]["Port"] = json!(0);
            e["Service"]["Ports"] = ports;
        });
        instance.map(|instance| instance.address.port()).ok()
    };
    let unset = json!({"name": "a", "port": 0, "default": true});
    assert_eq!(ports(json!([unset, {"name": "b", "port": 81}])), Some(81));
    assert_eq!(ports(json!([unset])), None);

    // A tagged address without a host is none, and its port belongs to no other host.
    let tagged = entry(|e| {
        e["Service"]["TaggedAddresses"] = json!({"wan": {"Address": " ", "Port": 8080}});
    });
    let decoded = decode(json!([tagged]).to_string().as_bytes(), Some("wan")).unwrap();
    assert_eq!(decoded.instances[0].address.port(), 80);
}
