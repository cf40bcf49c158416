//! What every backend does alike: one source of test, run on each of them.
//!
//! A backend may refuse what it cannot hold, when it is asked to, and with the reason. What differs
//! beyond that is in the tests of the backend.
#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;

mod cases;
mod place;

/// The cases on each backend, as tests of their own. Without the server of a backend its tests are noted
/// as not run.
macro_rules! suite {
    ($($backend:ident $needs:tt)*) => {$(
        suite!(@cases $backend $needs
            a_service_is_missing_until_it_has_an_instance_and_after_its_last
            an_instance_arrives_as_it_was_registered
            an_update_of_each_field_is_seen_and_keeps_the_identity
            an_instance_of_weight_zero_is_listed_or_refused
            instances_come_and_go_one_by_one
            a_tag_selects
            names_are_held_as_they_are_or_refused_with_the_reason
            two_services_of_one_registry_are_apart
            a_dropped_registration_leaves_nothing_behind
            a_watch_that_begins_later_sees_the_same
            two_hundred_watches_see_their_changes
            a_registration_survives_a_restart
            a_registration_survives_the_loss_of_all_state
            a_successor_replaces_a_predecessor_that_was_killed
            what_no_registry_can_hold_is_refused
            ten_thousand_instances_arrive_in_one_set
            the_latest_of_two_owners_of_an_id_is_listed_and_the_first_returns_after_it
        );
    )*};
    (@cases $backend:ident $needs:tt $($case:ident)*) => {
        mod $backend {
            $(
                #[tokio::test]
                async fn $case() {
                    suite!(@need $needs);
                    let mut place = crate::place::$backend().await;
                    crate::cases::$case(&mut place).await;
                }
            )*
        }
    };
    (@need ()) => {};
    (@need ($server:ident)) => {
        crate::support::need!($server);
    };
}

#[cfg(feature = "consulrs")]
suite! {
    consulrs (consul)
}

suite! {
    memory ()
    rest ()
    consul (consul)
    etcd (etcd)
    zookeeper (zookeeper)
}
