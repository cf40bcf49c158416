//! Replies of etcd's gateway.

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use tower_roster::registry::etcd::wire::{Failure, RangeReply, Said, WatchLine};

use crate::{INPUTS, mutate::mutate};

const LINES: &[&str] = &[
    r#"{"result":{"header":{"cluster_id":"4696903578624601916","revision":"4","raft_term":"2"},"created":true}}"#,
    r#"{"result":{"header":{"revision":"4"},"events":[{"kv":{"key":"YQ==","create_revision":"2","mod_revision":"2","version":"1","value":"dg==","lease":"247031873582856709"}},{"type":"DELETE","kv":{"key":"YQ==","mod_revision":"3"}}]}}"#,
    r#"{"result":{"header":{},"canceled":true,"compact_revision":"13"}}"#,
    r#"{"result":{"header":{}, "watch_id":"-1", "created":true, "canceled":true, "cancel_reason":"rpc error: code = PermissionDenied"}}"#,
    r#"{"error":{"grpc_code":14,"http_code":503,"message":"no leader","http_status":"Service Unavailable"}}"#,
];

const RANGE: &str = r#"{"header":{"cluster_id":"1","revision":"4"},"kvs":[{"key":"YQ==","create_revision":"4","mod_revision":"4","version":"1","value":"dg=="}],"more":true,"count":"1"}"#;

#[test]
fn no_reply_panics_and_most_lines_say_something() {
    let mut rng = SmallRng::seed_from_u64(5);
    let (mut said, mut read) = (0, 0);
    for _ in 0..INPUTS {
        let line = LINES[rng.random_range(0..LINES.len())];
        let line = mutate(line.as_bytes(), &mut rng);
        let parsed = serde_json::from_slice::<WatchLine>(&line);
        match parsed.ok().and_then(WatchLine::judge) {
            Some(Said::Live { events, .. }) => said += 1 + events.len() as u64,
            Some(_) => said += 1,
            None => {}
        }
        let _ = Failure::parse(&line);
        let range = mutate(RANGE.as_bytes(), &mut rng);
        read += u64::from(serde_json::from_slice::<RangeReply>(&range).is_ok());
    }
    // Base64 and the names of fields leave few.
    assert!(
        said > INPUTS / 100,
        "mutations leave lines to judge: {said}"
    );
    assert!(read > INPUTS / 100, "and replies to read: {read}");
}
