//! Two replies of Consul, one after the other: nothing panics, and the second is read as it is read afresh.
//! `cargo +nightly fuzz run consul_reply`; the two are parted by a byte 0.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tower_roster::registry::consul::wire::Decoder;

fuzz_target!(|input: &[u8]| {
    let middle = input.iter().position(|byte| *byte == 0).unwrap_or(0);
    let (first, second) = input.split_at(middle);
    let second = second.strip_prefix(&[0]).unwrap_or(second);
    let mut decoder = Decoder::new("web".into(), None);
    let _ = decoder.decode(first);
    let read = |decoder: &mut Decoder| {
        let decoded = decoder.decode(second).ok()?;
        Some((decoded.instances, decoded.rejected))
    };
    assert_eq!(
        read(&mut decoder),
        read(&mut Decoder::new("web".into(), None))
    );
});
