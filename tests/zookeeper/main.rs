//! The backend for ZooKeeper, on real servers. What a server cannot be made to do is scripted (`fake`).
//!
//! The tests name the rules that they check: `ZD` are the rules for watches, and `ZR` those for
//! registrations.
//!
//! | rule | test |
//! |---|---|
//! | ZD1 the list that arms the watch is used | `fake::a_change_between_the_event_and_the_list_is_not_lost` |
//! | ZD2 an event is a hint | `watch::a_burst_of_a_thousand_changes_converges` |
//! | ZD3 no node is an answer | `watch::an_instance_arrives_as_it_was_registered_and_each_change_after_it`, `watch::a_service_may_be_watched_before_any_of_its_nodes_exists` |
//! | ZD4 data of a node are watched | `watch::a_change_of_data_alone_is_seen` |
//! | ZD5, ZD25 the id is the identity | `watch::a_node_that_was_replaced_in_one_transaction_is_read_again_and_keeps_its_identity` |
//! | ZD6 no list in part | `fake::a_read_that_fails_in_part_changes_nothing` |
//! | ZD7 a bad record costs itself | `watch::a_bad_record_costs_itself_only` |
//! | ZD8 disconnected: keep the set, say so | `faults::a_server_that_was_killed_is_watched_again_with_all_it_knew` |
//! | ZD9 read again on each connection | `faults::connections_that_break_again_and_again_lose_nothing` |
//! | ZD10 events that occur once only | `fake::only_requests_that_every_version_knows_are_sent` |
//! | ZD11, ZD19 a new session at once, without an end of tries | `faults::a_paused_server_that_dropped_all_sessions_gets_them_again`, `fake::an_expired_session_is_replaced_at_once` |
//! | ZD12 a server that is behind shows nothing old | `fake::only_requests_that_every_version_knows_are_sent`, `fake::transactions_that_went_back_are_in_doubt` |
//! | ZD13 deadlines, and names that are resolved anew | `fake::the_timeout_that_the_server_grants_is_used`, `faults::the_next_server_answers_when_one_refuses` |
//! | ZD14, ZD23 no permission | `auth::who_may_not_read_is_told_so_and_the_set_serves_on` |
//! | ZD15, ZD20 a wiped server empties no set | `faults::a_wiped_server_empties_no_set_and_gets_its_instances_again`, `fake::transactions_that_went_back_are_in_doubt` |
//! | ZD16, ZD25 removals are looked at twice | `watch::a_node_that_is_deleted_and_created_again_is_never_missing`, `curator::a_provider_of_curator_is_never_missing_while_it_reconnects` |
//! | ZD17 requests are small | `watch::ten_thousand_long_names_are_read_and_one_change_costs_one_node` |
//! | ZD18 silence is confirmed | `fake::a_silent_watch_is_confirmed_by_the_state_of_its_node` |
//! | ZD21 the negotiated timeout | `fake::the_timeout_that_the_server_grants_is_used` |
//! | ZD22 one session | `watch::all_of_a_registry_share_one_session_and_leave_nothing_behind` |
//! | ZD24 3.9: `exists` needs permission | `auth::on_3_9_a_service_that_may_not_be_seen_is_not_missing` |
//! | ZR1 ephemeral, at a stable path | `lease::an_instance_is_an_ephemeral_node_and_its_parents_stay` |
//! | ZR2 an outcome that is not known | `fake::a_registration_whose_answer_was_lost_is_found_again` |
//! | ZR3, ZR10 the ghost of a predecessor | `lease::a_successor_takes_the_node_of_its_predecessor_over`, `lease::a_node_of_another_owner_is_a_conflict` |
//! | ZR4, ZR11 the own node is watched | `lease::a_deleted_node_is_back_within_a_second` |
//! | ZR5, ZR12 the session is taken up first | `cluster::a_registration_outlives_a_lost_quorum_and_the_watch_notices_it` |
//! | ZR6 for ever | `faults::an_outage_longer_than_every_timeout_ends_with_the_registration` |
//! | ZR7 what is gone stays gone | `faults::a_registration_that_ended_during_an_outage_stays_gone` |
//! | ZR8 the newest record | `faults::an_update_during_an_outage_is_what_is_registered_after_it` |
//! | ZR9 the granted timeout | `fake::the_timeout_that_the_server_grants_is_used` |
//! | ZR13 deregister the own node only | `lease::deregistering_leaves_the_node_of_a_successor` |
//! | ZR14 parents are persistent | `lease::an_instance_is_an_ephemeral_node_and_its_parents_stay` |
#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;

mod auth;
mod cluster;
mod curator;
mod fake;
mod faults;
mod formats;
mod lease;
#[path = "../support/log.rs"]
mod log;
mod watch;

use std::time::Duration;

use tower_roster::{
    Instance, Registry,
    registry::{self, Registration, RegistrationEvent, View, Watch},
};

const SECOND: Duration = Duration::from_secs(1);
const LONG: Duration = Duration::from_secs(40);

fn instance(service: &str, id: &str) -> Instance {
    let port = 8_000 + u16::from(*id.as_bytes().last().unwrap_or(&0));
    Instance::new(service, id, format!("127.0.0.1:{port}").parse().unwrap())
}

fn connect(url: &str) -> Registry {
    registry::connect(url).unwrap()
}

fn ids(view: &View) -> Vec<&str> {
    view.instances.iter().map(|i| i.id()).collect()
}

fn has_weight(view: &View, weight: u32) -> bool {
    view.instances.iter().any(|i| i.weight.get() == weight)
}

async fn until(watch: &mut Watch, what: &str, condition: impl FnMut(&View) -> bool) -> View {
    match tokio::time::timeout(LONG, watch.wait_for(condition)).await {
        Ok(view) => view.unwrap(),
        Err(_) => panic!("not in time: {what}; last seen: {:?}", watch.view()),
    }
}

async fn event(
    registration: &mut Registration,
    what: &str,
    mut condition: impl FnMut(&RegistrationEvent) -> bool,
) -> RegistrationEvent {
    let found = async {
        loop {
            let event = registration
                .event()
                .await
                .expect("the registration goes on");
            if condition(&event) {
                return event;
            }
        }
    };
    let found = tokio::time::timeout(LONG, found).await;
    found.unwrap_or_else(|_| panic!("not in time: {what}"))
}

/// Fails as soon as the set is empty.
fn never_empty(watch: &Watch) -> tokio::task::JoinHandle<()> {
    let mut watch = watch.clone();
    tokio::spawn(async move {
        while let Ok(view) = watch.changed().await {
            assert!(!view.instances.is_empty(), "{view:?}");
        }
    })
}

/// A record as `register` writes it.
fn record(service: &str, id: &str) -> Vec<u8> {
    registry::record::encode(&instance(service, id), 1)
}

fn weighted(service: &str, id: &str, weight: u16) -> Vec<u8> {
    registry::record::encode(&instance(service, id).weight(weight), 1)
}
