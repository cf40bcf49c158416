//! A record under a name: nothing panics, and what is read can be used.
//! `cargo +nightly fuzz run record`; name and value are parted by a byte 0.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tower_roster::registry::record::{RecordFormat, encode};

fuzz_target!(|input: &[u8]| {
    let middle = input.iter().position(|byte| *byte == 0).unwrap_or(0);
    let (name, value) = input.split_at(middle);
    let value = value.strip_prefix(&[0]).unwrap_or(value);
    let Ok(name) = std::str::from_utf8(name) else {
        return;
    };
    for format in [RecordFormat::new(), RecordFormat::new().dubbo(true).endpoint("grpc")] {
        let Ok(instance) = format.decode(&"web".into(), name, value) else {
            continue;
        };
        assert_ne!(instance.address.port(), 0);
        assert!(!instance.id().is_empty());
        let again = RecordFormat::new().decode(&"web".into(), "", &encode(&instance, 1));
        assert_eq!(again.as_ref(), Ok(&instance));
    }
});
