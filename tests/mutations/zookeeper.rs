//! Answers of ZooKeeper.

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use tower_roster::registry::zookeeper::wire::Reader;

use crate::{INPUTS, mutate::mutate};

/// The state of a node: only the version is not zero.
fn stat() -> Vec<u8> {
    let mut stat = vec![0; 68];
    stat[35] = 1;
    stat
}

fn bytes(data: &[u8]) -> Vec<u8> {
    let length = i32::try_from(data.len()).unwrap();
    [&length.to_be_bytes()[..], data].concat()
}

#[test]
fn no_answer_panics_and_some_are_read() {
    let list = [
        &[0, 0, 0, 2][..],
        &bytes(b"web-1"),
        &bytes(b"web-2"),
        &stat(),
    ]
    .concat();
    let data = [bytes(b"10.0.0.7:8080"), stat()].concat();
    let event = [&[0, 0, 0, 4, 0, 0, 0, 3][..], &bytes(b"/services/web")].concat();
    let session = [&[0; 16][..], &bytes(&[7; 16]), &[0]].concat();
    let done = [
        &[0, 0, 0, 2, 0, 0, 0, 0, 0][..],
        &[255, 255, 255, 255, 1, 0, 0, 0, 0],
    ]
    .concat();
    let answers = [list, data, event, session, done];
    let mut rng = SmallRng::seed_from_u64(6);
    let mut read = [0_u64; 5];
    for _ in 0..INPUTS {
        let answer = &answers[rng.random_range(0..answers.len())];
        let answer = mutate(answer, &mut rng);
        let reader = || Reader::new(&answer);
        let all = [
            reader().children().is_ok(),
            reader().data().is_ok(),
            reader().event().is_ok(),
            reader().session().is_ok(),
            reader().transaction().is_ok(),
        ];
        let _ = reader().header();
        for (count, is_ok) in read.iter_mut().zip(all) {
            *count += u64::from(is_ok);
        }
    }
    for count in read {
        assert!(count > INPUTS / 100, "mutations leave some: {read:?}");
    }
}
