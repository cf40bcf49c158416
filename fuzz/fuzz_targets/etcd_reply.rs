//! A reply or a line of etcd's gateway: nothing panics.
//! `cargo +nightly fuzz run etcd_reply`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tower_roster::registry::etcd::wire::{Failure, RangeReply, WatchLine};

fuzz_target!(|input: &[u8]| {
    let _ = serde_json::from_slice::<WatchLine>(input).map(WatchLine::judge);
    let _ = serde_json::from_slice::<RangeReply>(input);
    let _ = Failure::parse(input);
});
