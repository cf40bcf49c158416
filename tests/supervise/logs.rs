//! What an operator reads of a registry that fails.

use tower_roster::error::ErrorKind;
use tracing::Level;

use super::{
    log::Log,
    scripted::{Scripted, Step},
    *,
};

/// The warnings since the last call.
fn warnings(log: &Log) -> Vec<String> {
    let text = log.take();
    let lines = text.lines().map(|line| line.trim().to_owned());
    lines.filter(|line| line.starts_with("WARN")).collect()
}

/// Failures of two agents in turn, and of the first alone once they are over.
fn in_turn() -> Vec<Step> {
    let both = [
        Step::Fail(ErrorKind::Malformed),
        Step::Fail(ErrorKind::Unreachable),
        Step::Fail(ErrorKind::Timeout),
    ];
    both.iter().cycle().take(30).cloned().collect()
}

#[tokio::test(start_paused = true)]
async fn failures_that_alternate_are_warned_of_once_each_until_the_registry_answers() {
    let (log, _guard) = Log::start(Level::INFO);
    let mut steps = in_turn();
    steps.push(Step::List(&["a"]));
    // Time for the test to see the list.
    steps.push(Step::After(SECOND, &Step::Unchanged));
    steps.extend(in_turn());
    steps.push(Step::List(&["a", "b"]));
    let mut watch = Registry::new(Scripted::new(steps)).watch("web").unwrap();
    for (listed, what) in [(1, "no list yet"), (2, "keeping the last good set")] {
        until(&mut watch, "a list", |v| v.instances.len() == listed).await;
        let warned = warnings(&log);
        assert_eq!(warned.len(), 2, "{warned:#?}");
        assert!(warned.iter().all(|line| line.contains(what)), "{warned:#?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_registration_that_fails_for_a_new_reason_is_warned_of_again() {
    let (log, _guard) = Log::start(Level::INFO);
    let mut steps = vec![Step::Fail(ErrorKind::Unreachable); 3];
    steps.extend(vec![Step::Fail(ErrorKind::Denied); 3]);
    steps.extend(in_turn());
    steps.push(Step::Unchanged);
    let backend = Scripted::new([]).lease(steps);
    let registration = Registry::new(backend).register(unchecked("a")).unwrap();
    while !registration.is_registered() {
        tokio::time::sleep(SECOND).await;
    }
    let warned = warnings(&log);
    assert_eq!(warned.len(), 3, "{warned:#?}");
    assert!(
        warned[1].contains("registration is not confirmed"),
        "{warned:#?}"
    );
}

#[tokio::test(start_paused = true)]
async fn many_unusable_records_are_a_few_lines() {
    let (log, _guard) = Log::start(Level::INFO);
    let backend = Scripted::new([Step::Unusable(3), Step::Unusable(1_000), Step::Hang]);
    let mut watch = Registry::new(backend).watch("web").unwrap();
    until(&mut watch, "all", |v| v.rejected.len() == 1_000).await;
    let warned = warnings(&log);
    assert_eq!(warned.len(), 3 + 5 + 1, "{warned:#?}");
    assert!(warned[2].contains("web-2") && warned[3].contains("web-3"));
    assert!(warned[8].contains("992 more"), "{}", warned[8]);
}
