//! Which test shows which rule of a correct Consul watcher (W), and which catches which bug of other
//! clients (B). `wire`, `diff`, `settle` and the like are the unit tests of these files; what has
//! no test here says why.
//!
//! | rule | what | tests |
//! |---|---|---|
//! | W1 | one endpoint, health | index::asks_once_and_then_for_what_is_newer, set::proxies_and_tagged_addresses_are_found |
//! | W2 | names are one segment | index::any_name_travels_as_one_segment |
//! | W3 | wait has a unit and a range | index::an_idle_watch_asks_once_each_wait, rules::settings_without_sense_are_refused |
//! | W4 | parameters that old agents ignore | set::an_agent_too_old_for_an_option_is_not_asked, set::the_version_of_each_agent_is_looked_at |
//! | W5 | warnings, filters that match nothing | set::checks_decide_who_serves_and_how_much, life::unreachable_missing_and_empty_are_told_apart |
//! | W6 | token in its header, gzip | bad_input::the_token_stays_a_secret, bad_input::compressed_answers_are_asked_for_and_read |
//! | W7 | first without an index | index::asks_once_and_then_for_what_is_newer |
//! | W8 | index of good answers only | pace::error_answers_cost_nothing_but_time, index::an_answer_without_a_usable_index_is_an_error |
//! | W9 | index equal, lower, early | index::an_index_that_goes_backwards_is_dropped_at_once, index::an_early_answer_with_the_same_index_is_read_anew_ever_more_slowly, index::a_restored_snapshot_is_seen_at_once |
//! | W10 | errors drop the index | index::an_agent_that_restarts_with_nothing_is_followed_at_once, pace::error_answers_cost_nothing_but_time |
//! | W11 | an index is for one query, agent, mode | index::queries_share_no_index, life::the_next_agent_is_asked_when_one_dies, modes::a_stale_answer_that_is_too_old_is_asked_of_the_leader |
//! | W12 | wakeups without a change | index::a_wakeup_without_a_change_shows_nothing, pace::a_missing_service_costs_no_hot_loop |
//! | W13 | deadlines | index::an_answer_may_come_seconds_after_its_wait, bad_input::a_query_that_is_never_answered_ends_in_time, bad_input::a_read_that_is_never_answered_ends_in_time, bad_input::an_answer_that_trickles_ends_in_time, tls::a_dead_connection_is_found_and_replaced, tls::a_handshake_that_never_ends_is_given_up |
//! | W14 | the default wait | bad_input::a_query_that_is_never_answered_ends_in_time |
//! | W15 | token bucket over requests | pace::a_busy_service_costs_no_more_than_the_pace, index::changes_are_seen_whatever_the_index_says |
//! | W16 | backoff | pace::a_lost_agent_is_asked_ever_more_rarely, pace::retry_after_is_honoured |
//! | W17 | last good set, state, age | pace::error_answers_cost_nothing_but_time, pace::nothing_is_known_until_the_first_good_answer, life::silence_makes_a_copy_stale |
//! | W18 | empty lists, in doubt and not | set::instances_come_and_go_at_once, set::a_wiped_registry_is_believed_after_the_guard, set::a_held_list_is_not_believed_while_the_registry_is_away, index::one_false_empty_list_takes_nothing_away, bad_input::a_list_without_a_usable_record_takes_nothing_away, set::a_list_cut_by_access_rules_says_so |
//! | W19 | grace | set::the_end_of_a_grace_hides_no_error |
//! | W20 | each record by itself | bad_input::records_that_an_agent_takes_are_rejected_one_by_one, bad_input::records_changed_on_the_way_cost_themselves_only; wire |
//! | W21 | host | bad_input::records_that_an_agent_takes_are_rejected_one_by_one; wire |
//! | W22 | port | bad_input::records_that_an_agent_takes_are_rejected_one_by_one; wire |
//! | W23 | tagged addresses | set::proxies_and_tagged_addresses_are_found; wire |
//! | W24 | the worst check | set::checks_decide_who_serves_and_how_much, set::a_node_that_dies_takes_its_instances_out; wire |
//! | W25 | maintenance | set::checks_decide_who_serves_and_how_much; wire |
//! | W26 | weights | set::checks_decide_who_serves_and_how_much, bad_input::records_changed_on_the_way_cost_themselves_only; wire |
//! | W27 | identity | bad_input::equal_ids_on_two_nodes_are_two_instances |
//! | W28 | real changes only | set::changes_of_labels_are_updates, index::a_wakeup_without_a_change_shows_nothing |
//! | W29 | inserts before removes, order | set::a_rolling_replacement_is_never_empty_and_needs_no_reader, set::near_changes_no_set; diff |
//! | W30 | state, not a queue; no end | set::a_rolling_replacement_is_never_empty_and_needs_no_reader |
//! | W31 | endpoints reconnect | not of the watcher: the tests of the endpoint |
//! | W32 | one request per query, ends with the last | life::equal_queries_share_one_request_until_the_last_is_dropped, life::a_dropped_watch_leaves_no_connection, life::a_lingering_watch_is_taken_up_again |
//! | W33 | connections | life::a_connection_limit_is_lived_with, tls::many_watches_share_few_connections |
//! | W34 | the next agent | life::the_next_agent_is_asked_when_one_dies, life::the_next_agent_is_asked_when_one_talks_nonsense |
//! | W35 | consistency | modes::each_mode_asks_as_it_should_and_sees_changes, modes::modes_differ_when_the_leader_is_lost, modes::staleness_is_seen_on_an_idle_query |
//! | W36 | datacenters | modes::the_first_datacenter_with_instances_is_used, modes::an_unknown_datacenter_is_an_error |
//! | W37 | prepared queries | not offered |
//! | W38 | near | set::near_changes_no_set |
//! | W39 | start | life::a_client_may_start_before_its_registry, index::an_agent_that_restarts_with_nothing_is_followed_at_once |
//!
//! | bug | what | tests |
//! |---|---|---|
//! | B1 | index never advanced | index::asks_once_and_then_for_what_is_newer, pace::a_busy_service_costs_no_more_than_the_pace |
//! | B2 | regression or 0 not handled | index::an_index_that_goes_backwards_is_dropped_at_once, index::changes_are_seen_whatever_the_index_says, index::a_restored_snapshot_is_seen_at_once |
//! | B3 | deaf after an agent restart | index::an_agent_that_restarts_with_nothing_is_followed_at_once |
//! | B4 | no backoff | pace::a_lost_agent_is_asked_ever_more_rarely |
//! | B5 | ended for good on EOF | index::an_agent_that_restarts_with_nothing_is_followed_at_once, bad_input::a_real_answer_that_is_cut_is_read_again |
//! | B6 | ended for good on 400 | pace::error_answers_cost_nothing_but_time |
//! | B7 | hot loop on a missing service | pace::a_missing_service_costs_no_hot_loop |
//! | B8 | all dropped while the agent is away | pace::a_lost_agent_is_asked_ever_more_rarely |
//! | B9 | cleared when there is no leader | modes::modes_differ_when_the_leader_is_lost |
//! | B10 | KnownLeader false taken for an error | set::an_unknown_leader_is_no_error |
//! | B11 | last instance never removed | set::instances_come_and_go_at_once |
//! | B12 | one removal removes all | set::instances_come_and_go_at_once |
//! | B13 | deadline below the wait | index::an_idle_watch_asks_once_each_wait, index::an_answer_may_come_seconds_after_its_wait |
//! | B14 | requests outlive their watch | life::equal_queries_share_one_request_until_the_last_is_dropped, life::a_dropped_watch_leaves_no_connection |
//! | B15 | connections pile up | life::a_lingering_watch_is_taken_up_again, life::a_connection_limit_is_lived_with, tls::many_watches_share_few_connections |
//! | B16 | 429 not handled | pace::retry_after_is_honoured, pace::error_answers_cost_nothing_but_time |
//! | B17 | all ask the leader | modes::modes_differ_when_the_leader_is_lost |
//! | B18 | two calls joined | pace::a_busy_service_costs_no_more_than_the_pace |
//! | B19 | check changes missed | index::asks_once_and_then_for_what_is_newer |
//! | B20 | warning taken for down | set::checks_decide_who_serves_and_how_much |
//! | B21 | node death ignored | set::a_node_that_dies_takes_its_instances_out |
//! | B22 | IPv6 without brackets | bad_input::records_that_an_agent_takes_are_rejected_one_by_one; wire |
//! | B23 | a missing field loses the list | bad_input::records_that_an_agent_takes_are_rejected_one_by_one; wire |
//! | B24 | narrow types, escapes, waits | index::an_idle_watch_asks_once_each_wait, index::any_name_travels_as_one_segment, bad_input::records_that_an_agent_takes_are_rejected_one_by_one, bad_input::an_answer_that_trickles_ends_in_time |
//! | B25 | numbers in a proxy's configuration | set::proxies_and_tagged_addresses_are_found |
//! | B26 to B33 | registration | not of the watcher |
//! | B34 | dead after cancel and re-create | life::a_watch_made_again_is_alive |
//! | B35 | a timeout of 0 | rules::settings_without_sense_are_refused |
//! | B36 | registered through a rotating address | not of the watcher |
//! | B37 | not drained while idle | set::a_rolling_replacement_is_never_empty_and_needs_no_reader |
//! | B38 | wrong endpoint after a removal | not of the watcher |
//! | B39 | empty list of a streaming race | index::one_false_empty_list_takes_nothing_away |
//! | B40 | no nodes while ACLs are away | set::a_token_without_rights_takes_nothing_away |
//! | B41 | empty list for a token without rights | set::a_token_without_rights_takes_nothing_away |
//! | B42 | connection limit hit in silence | life::a_connection_limit_is_lived_with |
//!
//! What 1.8.7 does not do is played: the streaming race (B39), 429 and `Retry-After` (W16, B16), lists that say
//! they are cut (W18), an agent of a later version (W4). Not shown at all, because it takes a later
//! version or Enterprise: streaming's own indexes, partitions, peers and namespaces that exist, `ports` of
//! a service, stale reads of several servers with different indexes (hashicorp/consul#7939).

use std::time::Duration;

use tower_roster::registry::{
    Registry, WatchMode, WatchSettings,
    consul::{Consul, ConsulConfig},
};

use crate::kit::*;

/// W3, W15; B35. A time of zero is an error when the client is made, never an instant failure or a hot loop
/// later on; so is what Consul would refuse, or take for its default of five minutes.
#[tokio::test]
async fn settings_without_sense_are_refused() {
    let config = |options| ConsulConfig::new("http://127.0.0.1:1").options(options);
    for (options, field) in [
        (long().wait(Duration::ZERO), "consul.wait"),
        (long().wait(Duration::from_millis(99)), "consul.wait"),
        (long().wait(Duration::from_secs(601)), "consul.wait"),
        (long().filter(""), "consul.filter"),
        (long().near(""), "consul.near"),
        (long().datacenter(""), "consul.datacenter"),
    ] {
        let error = Consul::new(config(options)).unwrap_err();
        assert_eq!(error.field(), field, "{error}");
    }
    for (settings, field) in [
        (
            WatchSettings::default().stale_after(Duration::ZERO),
            "watch.stale_after",
        ),
        (
            WatchSettings::default().mode(WatchMode::Poll(Duration::ZERO)),
            "watch.mode",
        ),
        (
            WatchSettings::default().mode(WatchMode::Poll(Duration::from_secs(31))),
            "watch.mode",
        ),
    ] {
        let consul = Consul::new(config(long())).unwrap();
        let error = Registry::with_settings(consul, settings).unwrap_err();
        assert_eq!(error.field(), field, "{error}");
    }
    for wait in ["0s", "0", "20", "-1s", "1e9h", "s", "nan s", "infs"] {
        let error = ConsulConfig::from_url(&format!("consul://h:1?wait={wait}")).unwrap_err();
        assert_eq!(error.field(), "consul.wait", "{wait}: {error}");
    }
}

/// The tables above name tests that exist.
#[test]
fn the_tables_name_tests_that_exist() {
    let sources = [
        ("bad_input", include_str!("bad_input.rs")),
        ("index", include_str!("index.rs")),
        ("life", include_str!("life.rs")),
        ("modes", include_str!("modes.rs")),
        ("pace", include_str!("pace.rs")),
        ("rules", include_str!("rules.rs")),
        ("set", include_str!("set.rs")),
        ("tls", include_str!("tls.rs")),
    ];
    let rows = include_str!("rules.rs")
        .lines()
        .filter(|line| line.starts_with("//! | "));
    let mut named = 0;
    for row in rows {
        let words = row.split(|c: char| !c.is_alphanumeric() && !matches!(c, '_' | ':'));
        for (file, test) in words.filter_map(|word| word.split_once("::")) {
            let source = sources.iter().find(|(name, _)| *name == file);
            let (_, source) = source.unwrap_or_else(|| panic!("no file {file}: {row}"));
            assert!(
                source.contains(&format!("fn {test}(")),
                "no test {file}::{test}"
            );
            named += 1;
        }
    }
    assert!(named > 100, "{named}");
}
