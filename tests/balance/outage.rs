//! What the driver does when many endpoints fail at once.

use std::collections::BTreeSet;

use tokio::task::yield_now;
use tower_roster::endpoint::eject::Ejection;

use crate::kit::{Answer, Rig, events, layer, poll, settle};

#[tokio::test(start_paused = true)]
async fn other_tasks_have_their_turns_while_all_endpoints_fail() {
    const ENDPOINTS: usize = 2_000;
    let rig = Rig::with(layer().ejection(Ejection::new()));
    for n in 0..ENDPOINTS {
        rig.feed.insert(&n.to_string()).answer(Answer::Fails);
    }
    rig.handle
        .wait_for(|status| status.usable == ENDPOINTS)
        .await
        .unwrap();
    // In turn, and without a pause: each has failed often enough before the driver hears of any.
    for _ in 0..5 * ENDPOINTS {
        rig.call().await.unwrap_err();
    }
    // The second is answered when what was there at the first has been heard.
    let mut heard = Box::pin(async {
        rig.handle.subscribe().await.unwrap();
        rig.handle.subscribe().await.unwrap();
    });
    let mut turns = 0;
    while poll(&mut heard).await.is_pending() {
        turns += 1;
        yield_now().await;
    }
    assert!(turns >= ENDPOINTS / 128, "{turns}");
}

#[tokio::test(start_paused = true)]
async fn of_many_that_fail_each_is_judged_by_those_that_are_still_in() {
    let ejection = Ejection::new().max_ejected(1.0);
    let rig = Rig::with(layer().ejection(ejection));
    let ids = ["a", "b", "c", "d", "e", "f", "g", "flaky", "h", "i"];
    let controls = rig.list(ids).await;
    let mut said = rig.handle.subscribe().await.unwrap();
    controls[..7]
        .iter()
        .for_each(|dead| dead.answer(Answer::Fails));
    // In turn, and without a pause: what all tell is heard in one go.
    for round in 0..24 {
        controls[7].answer(match round % 5 {
            4 => Answer::Name,
            _ => Answer::Fails,
        });
        for _ in ids {
            let _ = rig.call().await;
        }
    }
    settle().await;
    let ejected = ids[..8].iter().map(|id| format!("ejected {id}"));
    // Four in five is no more than what seven dead ones of nine make others look like, and yet is
    // its own fault.
    assert_eq!(
        events(&mut said).into_iter().collect::<BTreeSet<_>>(),
        ejected.collect()
    );
}
