//! The backend for etcd, on real servers. What a server cannot be made to do is scripted (`fake`).
//!
//! The tests name the rules that they check: `ED` are the rules for watches, and `ER` those for
//! registrations.
//!
//! | rule | test |
//! |---|---|
//! | ED1 list, then watch from the next revision | `fake::a_watch_begins_after_the_revision_of_its_list` |
//! | ED2 the prefix ends in `/` | `watch::services_with_a_common_prefix_are_apart` |
//! | ED3 a watch asks for a leader | `fake::a_watch_begins_after_the_revision_of_its_list`, `cluster::a_registration_outlives_a_lost_quorum_and_the_watch_notices_it` |
//! | ED4 resume after the last event | `fake::a_watch_that_was_silent_resumes_after_its_last_change` |
//! | ED5 canceled first, compaction | `watch::a_compacted_revision_is_followed_by_a_list`, `fake::a_compaction_is_noticed_although_the_stream_stays_open_and_lists_are_few` |
//! | ED6, ED13 a store that went back | `faults::a_wiped_store_empties_no_set_and_gets_its_instances_again`, `fake::a_store_that_went_back_between_list_and_watch_is_listed_again` |
//! | ED7 all changes of a line at once | `watch::keys_of_one_transaction_change_together` |
//! | ED8 a serializable list at the start | `cluster::a_minority_gives_a_first_set_and_says_that_it_is_stale` |
//! | ED9, ED17 pages of one revision | `watch::ten_thousand_instances_are_read_in_pages_and_one_change_costs_one_key`, `fake::pages_are_of_one_revision_and_begin_again_after_a_compaction` |
//! | ED10 the next member, one new token | `faults::the_next_member_answers_when_one_fails`, `auth::a_user_watches_and_registers_through_the_end_of_tokens` |
//! | ED11 only the consumer ends a watch | `faults::a_server_that_was_killed_is_watched_again_with_all_it_knew` |
//! | ED12 silence is confirmed | `fake::a_confirmation_that_differs_is_followed_by_a_list`, `faults::a_dead_connection_is_noticed_and_what_was_missed_is_found` |
//! | ED14, ED15 refused watches, both forms of errors | `auth::who_may_not_read_is_told_so_and_the_set_serves_on`, `fake::errors_are_read_in_the_forms_of_both_versions` |
//! | ED16 a line that is too long | `fake::a_line_that_is_too_long_is_read_in_pages` |
//! | ER1 one lease for a registration | `lease::an_update_keeps_the_lease_and_a_key_always_has_one` |
//! | ER2 a lost lease is granted anew | `lease::a_revoked_lease_is_replaced` |
//! | ER3, ER10 deadlines | `faults::a_server_that_hangs_costs_no_registration` |
//! | ER4 a lease outlives a lost quorum | `cluster::a_registration_outlives_a_lost_quorum_and_the_watch_notices_it` |
//! | ER5 the own key is looked at | `lease::a_deleted_key_is_back_within_two_seconds` |
//! | ER6, ER11 the ghost of a predecessor | `lease::a_successor_takes_the_key_of_its_predecessor_over` |
//! | ER7 deregister the own key only | `lease::deregistering_leaves_the_key_of_a_successor` |
//! | ER8 after a pause | `faults::a_paused_server_that_dropped_the_lease_gets_it_again` |
//! | ER9 always with the lease | `lease::an_update_keeps_the_lease_and_a_key_always_has_one` |
#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;

mod auth;
mod bad_input;
mod cluster;
mod fake;
mod faults;
mod formats;
mod lease;
#[path = "../support/log.rs"]
mod log;
#[cfg(feature = "tls")]
mod tls;
mod versions;
mod watch;

use std::time::Duration;

use tower_roster::{
    Instance, Registry,
    registry::{self, Announcement, Health, View, Watch},
};

const SECOND: Duration = Duration::from_secs(1);
const LONG: Duration = Duration::from_secs(40);

fn instance(service: &str, id: &str) -> Instance {
    let port = 8_000 + u16::from(*id.as_bytes().last().unwrap_or(&0));
    Instance::new(service, id, format!("127.0.0.1:{port}").parse().unwrap())
}

/// With the shortest TTL that etcd grants.
fn brief(instance: Instance) -> Announcement {
    Announcement::new(instance).health(Health::Ttl(SECOND * 2))
}

fn connect(url: &str) -> Registry {
    registry::connect(url).unwrap()
}

fn ids(view: &View) -> Vec<&str> {
    view.instances.iter().map(|i| i.id()).collect()
}

async fn until(watch: &mut Watch, what: &str, condition: impl FnMut(&View) -> bool) -> View {
    match tokio::time::timeout(LONG, watch.wait_for(condition)).await {
        Ok(view) => view.unwrap(),
        Err(_) => panic!("not in time: {what}; last seen: {:?}", watch.view()),
    }
}

/// A record as `register` writes it.
fn record(service: &str, id: &str) -> String {
    let record = registry::record::encode(&instance(service, id), 1);
    String::from_utf8(record).unwrap()
}
