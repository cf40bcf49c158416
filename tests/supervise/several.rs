//! Several sources for one query, as for several datacenters.

use tower_roster::{error::ErrorKind, registry::ViewState};

use super::{
    scripted::{Scripted, Step},
    *,
};

/// A registry that cannot be reached may list instances. So its silence must not be hidden by another one
/// that lists none, or callers would not wait for the instances.
#[tokio::test(start_paused = true)]
async fn a_source_without_a_list_is_told_before_one_that_lists_nothing() {
    let missing = || vec![Step::Nothing { exists: false }];
    let empty = || vec![Step::Nothing { exists: true }];
    let down = || vec![Step::Fail(ErrorKind::Unreachable)];
    let lost = || {
        vec![
            Step::Nothing { exists: true },
            Step::Fail(ErrorKind::Unreachable),
        ]
    };
    for (what, sources, state, failed) in [
        (
            "unreachable last",
            [missing(), down()],
            ViewState::Pending,
            true,
        ),
        (
            "unreachable first",
            [down(), missing()],
            ViewState::Pending,
            true,
        ),
        ("lost last", [missing(), lost()], ViewState::Stale, true),
        ("lost first", [lost(), empty()], ViewState::Stale, true),
        ("empty last", [missing(), empty()], ViewState::Empty, false),
        ("empty first", [empty(), missing()], ViewState::Empty, false),
        (
            "both missing",
            [missing(), missing()],
            ViewState::Missing,
            false,
        ),
    ] {
        let registry = Registry::new(Scripted::several(sources));
        let watch = registry.watch("web").unwrap();
        tokio::time::sleep(SECOND * 5).await;
        let view = watch.view();
        assert_eq!(
            (view.state, view.error.is_some()),
            (state, failed),
            "{what}"
        );
    }
    // But instances of any source are used.
    let sources = [missing(), down(), vec![Step::List(&["a"])]];
    let mut watch = Registry::new(Scripted::several(sources))
        .watch("web")
        .unwrap();
    until(&mut watch, "the instances", |v| ids(v) == ["a"]).await;
}
