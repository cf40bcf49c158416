//! An answer of a ZooKeeper server: nothing panics, and no length is trusted.
//! `cargo +nightly fuzz run zookeeper_answer`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tower_roster::registry::zookeeper::wire::Reader;

fuzz_target!(|input: &[u8]| {
    let reader = || Reader::new(input);
    let _ = reader().session();
    let _ = reader().header();
    let _ = reader().event();
    let _ = reader().stat();
    let _ = reader().data();
    let _ = reader().children();
    let _ = reader().transaction();
});
