use proptest::prelude::*;

use super::*;
use crate::instance::Status;

fn decode(name: &str, value: &str) -> Result<Instance, String> {
    decode_with(&RecordFormat::new(), name, value)
}

fn decode_with(format: &RecordFormat, name: &str, value: &str) -> Result<Instance, String> {
    let decoded = format.decode(&"web".into(), name, value.as_bytes());
    decoded.map_err(|error| error.to_string())
}

/// All that a test looks at, in one line.
fn line(instance: &Instance) -> String {
    let Instance {
        address,
        weight,
        zone,
        status,
        metadata,
        ..
    } = instance;
    let zone = zone.as_deref().unwrap_or("-");
    let metadata: Vec<_> = metadata.iter().map(|(k, v)| format!("{k}={v}")).collect();
    let metadata = metadata.join(",");
    let id = instance.id();
    format!("{id} {address} {weight} {zone} {status} {metadata}")
        .trim_end()
        .to_owned()
}

#[test]
fn each_format_is_read_by_its_shape() {
    for (name, value, wanted) in [
        // Written by Curator 5.4.0.
        (
            "6c1f",
            r#"{"name":"web","id":"web-1","address":"10.0.0.7","port":8080,"sslPort":null,"payload":{"@class":"java.util.LinkedHashMap","zone":"a"},"registrationTimeUTC":1796026880012,"serviceType":"DYNAMIC","uriSpec":null}"#,
            "web-1 10.0.0.7:8080 1 a passing zone=a",
        ),
        ("n", r#"{"address":"h","port":80}"#, "n h:80 1 - passing"),
        (
            "n",
            r#"{"address":"h","port":null,"sslPort":443,"enabled":false}"#,
            "n h:443 1 - maintenance",
        ),
        (
            "n",
            r#"{"address":"10.0.0.7:80"}"#,
            "n 10.0.0.7:80 1 - passing",
        ),
        (
            "n",
            r#"{"address":"::1","port":"80"}"#,
            "n [::1]:80 1 - passing",
        ),
        // Spring Cloud.
        (
            "7d",
            r#"{"id":"7d","address":"h","port":80,"payload":{"@class":"org.springframework.cloud.zookeeper.discovery.ZookeeperInstance","id":"web-1","name":"web","metadata":{"instance_status":"OUT_OF_SERVICE"}}}"#,
            "7d h:80 1 - maintenance instance_status=OUT_OF_SERVICE",
        ),
        (
            "7d",
            r#"{"id":"7d","address":"h","port":80,"payload":{"id":"x","metadata":{"instance_status":"UP","weight":"3"}}}"#,
            "7d h:80 3 - passing instance_status=UP,weight=3",
        ),
        // Finagle.
        (
            "member_0000000012",
            r#"{"serviceEndpoint":{"host":"10.0.0.7","port":8080},"additionalEndpoints":{"admin":{"host":"10.0.0.7","port":9990}},"status":"ALIVE","shard":3}"#,
            "10.0.0.7:8080 10.0.0.7:8080 1 - passing",
        ),
        (
            "member_1",
            r#"{"serviceEndpoint":{"host":"h","port":80},"status":"WARNING","metadata":{"zone":"b"}}"#,
            "h:80 h:80 1 b critical zone=b",
        ),
        // gRPC naming.
        (
            "10.0.0.7:8080",
            r#"{"Op":0,"Addr":"10.0.0.7:8080","Metadata":{"zone":"a"}}"#,
            "10.0.0.7:8080 10.0.0.7:8080 1 a passing zone=a",
        ),
        (
            "x",
            r#"{"Op":1,"Addr":"h:80","Metadata":null}"#,
            "h:80 h:80 1 - passing",
        ),
        (
            "x",
            r#"{"Addr":"h:80","Metadata":"text"}"#,
            "h:80 h:80 1 - passing",
        ),
        // kitex.
        (
            "10.0.0.7:8080",
            r#"{"network":"tcp","address":"10.0.0.7:8080","weight":10,"tags":{"zone":"a"}}"#,
            "10.0.0.7:8080 10.0.0.7:8080 10 a passing zone=a",
        ),
        (
            "x",
            r#"{"network":"tcp","address":"::1:8080"}"#,
            "[::1]:8080 [::1]:8080 1 - passing",
        ),
        // go-micro.
        (
            "web-1",
            r#"{"name":"web","version":"latest","metadata":null,"endpoints":[],"nodes":[{"id":"web-1","address":"10.0.0.7:8080","metadata":{"a":"b"}}]}"#,
            "web-1 10.0.0.7:8080 1 - passing a=b,version=latest",
        ),
        // kratos.
        (
            "web-1",
            r#"{"id":"web-1","name":"web","version":"v1","metadata":{"weight":"10"},"endpoints":["grpc://10.0.0.7:9000?isSecure=false","http://10.0.0.7:80"]}"#,
            "web-1 10.0.0.7:9000 10 - passing version=v1,weight=10",
        ),
        // Text.
        (
            "7587861234567890123",
            "10.0.0.7:8080",
            "10.0.0.7:8080 10.0.0.7:8080 1 - passing",
        ),
        (
            "10.0.0.7_8080",
            "10.0.0.7:8080:100",
            "10.0.0.7:8080 10.0.0.7:8080 100 - passing",
        ),
        ("x", "[::1]:80:0", "[::1]:80 [::1]:80 0 - passing"),
        ("x", "::1:80", "[::1]:80 [::1]:80 1 - passing"),
        ("x", " http://h:80/path?q \n", "h:80 h:80 1 - passing"),
        ("x", "https://[::1]", "[::1]:443 [::1]:443 1 - passing"),
        ("x", "http://h", "h:80 h:80 1 - passing"),
        (
            "10.0.0.7:8080",
            "",
            "10.0.0.7:8080 10.0.0.7:8080 1 - passing",
        ),
        ("10.0.0.7%3A80:5", "", "10.0.0.7:80 10.0.0.7:80 5 - passing"),
    ] {
        assert_eq!(
            decode(name, value).map(|i| line(&i)).as_deref(),
            Ok(wanted),
            "{value}"
        );
    }
}

#[test]
fn a_record_that_cannot_be_used_says_why() {
    for (name, value, why) in [
        ("x", "", "no port"),
        ("x", "h", "no port"),
        ("x", "h:0", "port 0 is not in"),
        ("x", "h:80:many", "the weight \"many\" is not a number"),
        ("x", "h:80,h:81", "several addresses"),
        ("x", "grpc://h", "no port"),
        ("x", "{", "not JSON"),
        ("x", "[]", "no port"),
        ("x", "{}", "no address in any known format"),
        (
            "x",
            r#"{"address":7,"port":80}"#,
            "address is 7; it must be text",
        ),
        ("x", r#"{"address":"h","port":0}"#, "port 0 is not in"),
        (
            "x",
            r#"{"address":"h","port":99999999999999999999}"#,
            "is not in 1..=65535",
        ),
        (
            "x",
            r#"{"address":"h","port":true}"#,
            "it must be a whole number",
        ),
        ("x", r#"{"address":"","port":80}"#, "the host is empty"),
        (
            "x",
            r#"{"address":"h","port":80,"weight":"a"}"#,
            "weight is \"a\"",
        ),
        (
            "x",
            r#"{"address":"h","port":80,"status":"up"}"#,
            "status is \"up\"",
        ),
        ("x", r#"{"address":"h","port":80,"tags":[1]}"#, "a tag is 1"),
        ("", r#"{"address":"h","port":80}"#, "no id"),
        ("x", r#"{"serviceEndpoint":[]}"#, "endpoint is no object"),
        (
            "x",
            r#"{"serviceEndpoint":{"host":"h","port":-1}}"#,
            "port -1",
        ),
        ("x", r#"{"vector":[]}"#, "weights of a serverset"),
        ("x", r#"{"Addr":"h"}"#, "no port"),
        (
            "x",
            r#"{"network":"unix","address":"/s"}"#,
            "network is \"unix\"",
        ),
        ("x", r#"{"nodes":[]}"#, "exactly one node"),
        (
            "x",
            r#"{"nodes":[{"address":"h:1"},{"address":"h:2"}]}"#,
            "exactly one node",
        ),
        ("x", r#"{"nodes":[1]}"#, "node is no object"),
        ("x", r#"{"endpoints":[]}"#, "no endpoint"),
        ("x", r#"{"endpoints":["unix:///s"]}"#, "no port"),
        (
            "dubbo%3A%2F%2Fh%3A80%2Fcom.example.Greeter",
            "",
            "name is a URL",
        ),
    ] {
        let error = decode(name, value).map(|i| line(&i)).unwrap_err();
        assert!(
            error.contains(why),
            "{value:?}: {error:?} does not say {why:?}"
        );
    }
    let format = RecordFormat::new();
    let error = format.decode(&"web".into(), "x", b"\xff\xfe").unwrap_err();
    assert_eq!(error.to_string(), "it is not UTF-8");
    let long = vec![b'1'; 1 << 20];
    let error = format.decode(&"web".into(), "x", &long).unwrap_err();
    assert!(error.to_string().contains("1048576 bytes"), "{error}");
    let deep = format!("{{\"address\":{}", "[".repeat(60_000));
    assert!(decode("x", &deep).unwrap_err().contains("recursion limit"));
}

#[test]
fn the_urls_of_dubbo_are_read_on_request() {
    let format = RecordFormat::new().dubbo(true);
    let name = "dubbo%3A%2F%2F10.0.0.7%3A20880%2Fcom.example.Greeter%3Fapplication%3Dgreeter%26weight%3D200%26timestamp%3D1764489600000";
    // ZooKeeper's Java client stores the address of the writer as data.
    let instance = decode_with(&format, name, "10.0.0.9").unwrap();
    assert_eq!(
        line(&instance),
        "10.0.0.7:20880 10.0.0.7:20880 200 - passing \
         application=greeter,timestamp=1764489600000,weight=200"
    );
    let name = "dubbo%3A%2F%2Fh%3A80%2FG%3Fdisabled%3Dtrue";
    let instance = decode_with(&format, name, "").unwrap();
    assert_eq!(instance.status, Status::Maintenance);
    // Other formats may stand beside it.
    assert_eq!(decode_with(&format, "x", "h:80").unwrap().id(), "h:80");
}

#[test]
fn an_endpoint_is_chosen_by_name() {
    let serverset = r#"{"serviceEndpoint":{"host":"h","port":80},"additionalEndpoints":{"admin":{"host":"h","port":81}}}"#;
    let kratos = r#"{"id":"a","endpoints":["http://h:80","grpc://h:90"]}"#;
    let choose = |name: &str, value| {
        let format = RecordFormat::new().endpoint(name);
        decode_with(&format, "x", value).map(|i| i.address.port())
    };
    assert_eq!(choose("admin", serverset), Ok(81));
    assert_eq!(choose("grpc", kratos), Ok(90));
    for value in [serverset, kratos] {
        assert!(
            choose("other", value)
                .unwrap_err()
                .contains("no endpoint \"other\"")
        );
    }
}

#[test]
fn what_is_written_is_what_curator_writes_and_our_fields_beside_it() {
    let instance = Instance::new("web", "web-1", "10.0.0.7:8080".parse().unwrap())
        .weight(3)
        .zone("a")
        .tag("v2")
        .meta("k", "v");
    let text = String::from_utf8(encode(&instance, 1_796_026_880_012)).unwrap();
    assert_eq!(
        text,
        r#"{"name":"web","id":"web-1","address":"10.0.0.7","port":8080,"sslPort":null,"payload":null,"registrationTimeUTC":1796026880012,"serviceType":"DYNAMIC","uriSpec":{"parts":[{"value":"scheme","variable":true},{"value":"://","variable":false},{"value":"address","variable":true},{"value":":","variable":false},{"value":"port","variable":true}]},"weight":3,"zone":"a","tags":["v2"],"metadata":{"k":"v"},"status":"passing"}"#
    );
}

#[test]
fn names_of_services_are_one_part_of_a_path() {
    for (text, part) in [
        ("web-1", "web-1"),
        ("a b?#", "a b?#"),
        ("服务", "服务"),
        ("team/web", "team%2Fweb"),
        ("50%", "50%25"),
        ("a\u{0}\u{85}", "a%00%C2%85"),
        (".", "%2E"),
        ("..", "%2E%2E"),
        ("...", "..."),
    ] {
        assert_eq!(encode_name(text), part);
        assert_eq!(decode_name(part), text);
    }
    assert_eq!(decode_name("100%"), "100%", "written by another client");
}

proptest! {
    #[test]
    fn what_is_written_is_read_as_it_was(
        id in "\\PC{1,40}",
        weight: u16,
        zone in prop::option::of("[a-z]{1,8}"),
        status in 0..4_u8,
        tags in prop::collection::vec("\\PC{0,10}", 0..4),
        metadata in prop::collection::btree_map("(weight|zone|instance_status|\\PC{0,10})", "\\PC{0,10}", 0..6),
        v6: bool,
    ) {
        prop_assume!(!id.trim().is_empty());
        let address = if v6 { "[2001:db8::1]:8080" } else { "10.0.0.7:8080" };
        let mut instance = Instance::new("web", id.as_str(), address.parse().unwrap()).weight(weight);
        instance.zone = zone.map(Into::into);
        instance.status = [Status::Passing, Status::Warning, Status::Critical, Status::Maintenance]
            [usize::from(status)];
        instance.tags = tags;
        instance.metadata = metadata.into_iter().filter(|(name, _)| name != "@class").collect();
        let value = encode(&instance, 1);
        let read = RecordFormat::new().decode(&"web".into(), &encode_name(&id), &value);
        prop_assert_eq!(read.unwrap(), instance);
        prop_assert_eq!(decode_name(&encode_name(&id)), id);
    }
}
