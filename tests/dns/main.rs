//! The backend for DNS, on a real BIND. What a server cannot be made to do is scripted (`fake`).
//!
//! | rule | test |
//! |---|---|
//! | DN1 no such name, no records, failures | `bind::no_such_name_and_no_records_are_told_apart`, `bind::a_server_that_is_behind_empties_no_set`, `bind::a_broken_zone_empties_no_set`, `fake::…` |
//! | DN2 targets of SRV records | `bind::a_target_without_an_address_costs_itself_only`, `bind::a_root_target_is_an_empty_service`, `fake::a_target_that_cannot_be_asked_for_keeps_its_address` |
//! | DN3 polls by TTL | `bind::changes_are_seen_when_the_records_expire`, `fake::records_are_not_asked_for_again_before_they_expire`, `source` (unit test); early when an endpoint fails: `tests/supervise`, `again` |
//! | DN4 the order means nothing | `fake::another_order_is_no_change` |
//! | DN4 IPv6 when there is no IPv4 | `bind::a_name_without_ipv4_gives_its_ipv6_addresses` |
//! | DN5 parts of the records | `fake::instances_of_partial_answers_accumulate_and_leave_when_they_are_absent_for_long`, `consul::…` |
//! | DN6 one server after another, EDNS | `fake::servers_are_asked_one_after_another_and_with_edns` |
//! | DN7 absolute names | `lookup` (unit test), `fake::the_search_goes_on_after_no_such_name_and_not_after_a_failure`, `fake::servers_are_asked_one_after_another_and_with_edns` |
//! | DN8 identity, weights, priorities | `bind::srv_records_have_weights_and_priorities` |
//! | DN9 the list of servers changes | `servers` (unit test); nothing is registered: `bind::nothing_can_be_registered` |
#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;

mod bind;
mod consul;
mod contract;
mod fake;
mod tcp;

use std::time::Duration;

use tower_roster::registry::{self, View, Watch};

const LONG: Duration = Duration::from_secs(30);

fn watch(url: &str) -> Watch {
    registry::connect(url).unwrap().watch("web").unwrap()
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

async fn until_ids(watch: &mut Watch, expected: &[&str]) -> View {
    until(watch, &format!("{expected:?}"), |view| {
        ids(view) == expected
    })
    .await
}
