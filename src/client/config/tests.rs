//! What a file says, and what is refused.

use super::*;
use crate::{
    client::{http::HttpEndpoints, stack::Stack},
    endpoint::{SlowStart, eject::Ejection},
    service::{
        breaker::BreakerSettings,
        hedge::HedgeSettings,
        retry::{BudgetSettings, RetrySettings},
    },
};

const EXAMPLE: &str = include_str!("../../../examples/client.toml");

fn read(text: &str) -> Result<ClientConfig, String> {
    toml::from_str(text).map_err(|error| error.to_string())
}

// The clock is paused, so that the settings that hold a time are equal.
#[tokio::test(start_paused = true)]
async fn the_example_has_all_settings_with_their_defaults() {
    let config = read(EXAMPLE).expect("it is a configuration");
    let file = config.service("any");
    let default = ServiceConfig::default();
    let retry = file.retry.settings().expect("delays");
    assert_eq!(retry, RetrySettings::new());
    assert_eq!(default.retry.settings(), Ok(RetrySettings::new()));
    assert_eq!(file.retry.budget.settings(), Some(BudgetSettings::new()));
    assert_eq!(file.hedge.settings(), HedgeSettings::new());
    assert_eq!(file.ejection.settings(), Some(Ejection::new()));
    assert_eq!(default.ejection.settings(), Some(Ejection::new()));
    assert_eq!(file.slow_start.settings(), SlowStart::new());
    assert_eq!(file.breaker.settings("any"), None);
    let mut enabled = file.breaker.clone();
    enabled.enabled = Some(true);
    assert_eq!(
        enabled.settings(""),
        Some(BreakerSettings::new().min_calls(20))
    );
    assert_eq!(file.health_check.settings(), None);
    let [mut of_file, mut of_none] = [file.health_check.clone(), default.health_check.clone()];
    (of_file.enabled, of_none.enabled) = (Some(true), Some(true));
    assert_eq!(of_file.settings(), of_none.settings());
    let stack = |settings: &ServiceConfig| format!("{:?}", settings.stack().expect("in range"));
    assert_eq!(stack(&file), stack(&default));
    let peak_ewma = crate::balance::policy::by_name("peak-ewma").expect("a policy");
    let usual = Stack::http().balance(|balance| balance.policy(peak_ewma));
    assert_eq!(stack(&default), format!("{usual:?}"));
    let endpoints = |settings: &ServiceConfig| {
        let endpoints = HttpEndpoints::<http_body_util::Full<bytes::Bytes>>::new();
        format!(
            "{:?}",
            settings.connection.endpoints(endpoints).expect("HTTP/1.1")
        )
    };
    assert_eq!(endpoints(&file), endpoints(&default));
    assert_eq!(config.registry.url.as_deref(), Some("consul:"));
    let router =
        crate::client::router::Router::new(&crate::registry::connect("fixed:h:1").expect("a list"));
    assert_eq!(config.router.max_services, Some(256));
    assert_eq!(
        config.router.idle,
        Some(OrNone(Some(Duration::from_secs(300))))
    );
    assert_eq!(config.router.unknown, Some(Unknown::default()));
    drop(router);
}

#[test]
fn the_example_leaves_no_setting_out() {
    let sections: [(&str, &[&str]); 13] = [
        ("[registry]", RegistryConfig::KEYS),
        ("[router]", RouterConfig::KEYS),
        ("[defaults]", ServiceConfig::KEYS),
        ("[defaults.retry]", RetryConfig::KEYS),
        ("[defaults.retry.budget]", BudgetConfig::KEYS),
        ("[defaults.hedge]", HedgeConfig::KEYS),
        ("[defaults.ejection]", EjectionConfig::KEYS),
        ("[defaults.slow_start]", SlowStartConfig::KEYS),
        ("[defaults.breaker]", BreakerConfig::KEYS),
        ("[defaults.health_check]", HealthCheckConfig::KEYS),
        ("[defaults.split]", SplitConfig::KEYS),
        ("[defaults.connection]", ConnectionConfig::KEYS),
        ("[services.", &["like"]),
    ];
    for (section, keys) in sections {
        let (_, after) = EXAMPLE.split_once(section).expect(section);
        let until = after.find("\n[").unwrap_or(after.len());
        let own = if section == "[services." {
            after
        } else {
            &after[..until]
        };
        for key in keys {
            let inner = format!("{}.{key}]", section.trim_end_matches(']'));
            let is_there = own.contains(&format!("\n{key} ="))
                || own.contains(&format!("\n# {key} ="))
                || EXAMPLE.contains(&inner)
                || (section, *key) == ("[defaults]", "like");
            assert!(is_there, "{key} in {section}");
        }
    }
}

#[test]
fn what_cannot_be_is_refused_by_its_path() {
    for (text, why) in [
        (
            "services.a.retry.max_attempts = 0",
            "services.a.retry.max_attempts is 0, and a whole number from 1",
        ),
        (
            "services.a.retry.max_attempts = 'two'",
            "services.a.retry.max_attempts is \"two\"",
        ),
        (
            "services.a.retry.max_atempts = 2",
            "services.a.retry.max_atempts is no setting; did you mean \"max_attempts\"?",
        ),
        ("defaults.timeout = 5", "defaults.timeout is 5, and a time"),
        (
            "defaults.timeout = '-5s'",
            "defaults.timeout is \"-5s\", and a time",
        ),
        ("defaults.timeout = '5 sekunden'", "defaults.timeout is"),
        (
            "defaults.retry = true",
            "defaults.retry is true or false, and a table",
        ),
        (
            "defaults.retry.budget.ratio = 'much'",
            "defaults.retry.budget.ratio is \"much\", and a number",
        ),
        (
            "defaults.weights.user-1 = 70000",
            "defaults.weights.user-1 is 70000",
        ),
        (
            "service.a.timeout = '1s'",
            "service is no setting; did you mean \"services\"?",
        ),
        (
            "defaults.completely_other = 1",
            "defaults.completely_other is no setting; there are like, policy",
        ),
        ("router.unknown = 'maybe'", "\"refuse\" or \"dns\""),
        (
            "defaults.like = 'a'",
            "defaults.like is a setting of services only",
        ),
        (
            "services.a.like = 'b'",
            "services.a.like is \"b\", which has no settings",
        ),
        (
            "[services]\na.like = 'a'",
            "services.a.like goes round in a circle: a → a",
        ),
        (
            "[services]\na.like = 'b'\nb.like = 'c'\nc.like = 'a'",
            "goes round in a circle: a → b → c → a",
        ),
        (
            "services = 3",
            "services is a number, and a table is expected",
        ),
    ] {
        let error = read(text).expect_err(text);
        assert!(
            error.replace(": ", " ").contains(&why.replace(": ", " ")),
            "{text}: {error}"
        );
    }
}

#[test]
fn a_service_takes_what_it_leaves_open_from_others_and_from_the_defaults() {
    let config = read(
        "defaults.timeout = '1s'\ndefaults.wait = '2s'\n[services]\na.timeout = '3s'\n\
         a.retry.max_attempts = 5\na.weights.one = 1\nb.like = 'a'\nb.timeout = '4s'\nb.weights.two = 2",
    )
    .expect("a configuration");
    let b = config.service("B");
    let seconds = |n| Some(OrNone(Some(Duration::from_secs(n))));
    assert_eq!(b.timeout, seconds(4));
    assert_eq!(b.retry.max_attempts.map(|n| n.get()), Some(5));
    assert_eq!(b.wait, Some(Duration::from_secs(2)));
    assert_eq!(b.weights.len(), 2);
    assert_eq!(config.service("other").timeout, seconds(1));
}

#[test]
fn json_and_texts_of_the_environment_are_read_as_well() {
    let json = r#"{"defaults": {"retry": {"max_attempts": 2}, "timeout": null}}"#;
    let config: ClientConfig = serde_json::from_str(json).expect("a configuration");
    assert_eq!(config.defaults.retry.max_attempts.map(|n| n.get()), Some(2));
    let text = r#"{"defaults": {"retry": {"max_attempts": "2"}, "hedge": {"enabled": "false"}}}"#;
    let config: ClientConfig = serde_json::from_str(text).expect("a configuration");
    assert_eq!(config.defaults.retry.max_attempts.map(|n| n.get()), Some(2));
    assert_eq!(config.defaults.hedge.enabled, Some(false));
}
