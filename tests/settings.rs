//! Every setting that is out of its range is refused by name, in one form: `part.setter`.
#![allow(clippy::unwrap_used)]

use std::{fs, path::Path, time::Duration};

use tower_roster::{
    Backoff, ConfigError, Registry,
    balance::{
        BalanceLayer,
        policy::{self, P2c, RingHash},
        topology::{
            Guard, Peers, Priority, Shares, SplitSettings, Subsets, Topology, ZonePreference,
        },
    },
    endpoint::{SlowStart, eject::Ejection},
    registry::{self, WatchMode, WatchSettings, fixed::Fixed},
    service::{
        breaker::BreakerSettings,
        failfast::FailFastSettings,
        hedge::HedgeSettings,
        limit::LimitSettings,
        retry::{BudgetSettings, RetrySettings},
        throttle::ThrottleSettings,
    },
};

const ZERO: Duration = Duration::ZERO;

fn refused<T>(result: Result<T, ConfigError>) -> ConfigError {
    result.err().expect("it is refused")
}

/// The part of the crate and a setter, in lower case, or an environment variable.
fn is_well_formed(field: &str) -> bool {
    let is_name = |name: &str| {
        let is_lower = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        name.starts_with(|c: char| c.is_ascii_lowercase()) && name.chars().all(is_lower)
    };
    match field.split_once('.') {
        Some((part, setter)) => is_name(part) && is_name(setter),
        None => field.starts_with("CONSUL_") && field == field.to_uppercase(),
    }
}

#[test]
fn what_is_out_of_range_is_refused_by_part_and_setter() {
    let breaker = BreakerSettings::new;
    let balance = BalanceLayer::builder;
    let topology = |topology| refused(balance().topology(topology).build());
    let ejection = |ejection| refused(balance().ejection(ejection).build());
    let slow_start = |slow_start| refused(balance().slow_start(slow_start).build());
    let split = || SplitSettings::new(Shares::canary("v2", 0.1));
    let guard = |guard| refused(split().guard(guard).build());
    let watch = |settings| {
        let fixed = Fixed::parse("h:1").unwrap();
        refused(Registry::with_settings(fixed, settings))
    };
    for (error, field) in [
        (refused(Backoff::new(ZERO, ZERO)), "backoff.base"),
        (
            refused(breaker().time_window(ZERO).build()),
            "breaker.time_window",
        ),
        (
            refused(breaker().count_window(0).build()),
            "breaker.count_window",
        ),
        (
            refused(breaker().failure_ratio(0.0).build()),
            "breaker.failure_ratio",
        ),
        (
            refused(breaker().slow_calls(ZERO, 0.5).build()),
            "breaker.slow_calls",
        ),
        (refused(breaker().min_calls(0).build()), "breaker.min_calls"),
        (
            refused(breaker().open_time(ZERO, ZERO).build()),
            "breaker.open_time",
        ),
        (refused(breaker().jitter(2.0).build()), "breaker.jitter"),
        (refused(breaker().probes(0).build()), "breaker.probes"),
        (
            refused(breaker().probe_deadline(ZERO).build()),
            "breaker.probe_deadline",
        ),
        (
            refused(FailFastSettings::new().wait(ZERO).build()),
            "failfast.wait",
        ),
        (
            refused(LimitSettings::new().range(0, 1).build()),
            "limit.range",
        ),
        (
            refused(LimitSettings::new().initial(0).build()),
            "limit.initial",
        ),
        (
            refused(LimitSettings::new().tolerance(0.0).build()),
            "limit.tolerance",
        ),
        (
            refused(ThrottleSettings::new().k(0.0).build()),
            "throttle.k",
        ),
        (
            refused(ThrottleSettings::new().window(ZERO).build()),
            "throttle.window",
        ),
        (
            refused(ThrottleSettings::new().min_calls(0).build()),
            "throttle.min_calls",
        ),
        (
            refused(RetrySettings::new().deadline(ZERO).build()),
            "retry.deadline",
        ),
        (
            refused(RetrySettings::new().try_timeout(ZERO).build()),
            "retry.try_timeout",
        ),
        (
            refused(BudgetSettings::new().ratio(-1.0).build()),
            "retry_budget.ratio",
        ),
        (
            refused(BudgetSettings::new().ttl(ZERO).build()),
            "retry_budget.ttl",
        ),
        (
            refused(HedgeSettings::new().percentile(0.0).build()),
            "hedge.percentile",
        ),
        (
            refused(HedgeSettings::new().times_median(0.0).build()),
            "hedge.times_median",
        ),
        (
            refused(HedgeSettings::new().share(2.0).build()),
            "hedge.share",
        ),
        (
            refused(HedgeSettings::new().window(ZERO).build()),
            "hedge.window",
        ),
        (
            ejection(Ejection::new().consecutive_failures(0)),
            "ejection.consecutive_failures",
        ),
        (
            ejection(Ejection::new().failure_ratio(0.0)),
            "ejection.failure_ratio",
        ),
        (
            ejection(Ejection::new().min_requests(0)),
            "ejection.min_requests",
        ),
        (ejection(Ejection::new().window(ZERO)), "ejection.window"),
        (
            ejection(Ejection::new().slow_factor(1.0)),
            "ejection.slow_factor",
        ),
        (ejection(Ejection::new().min_peers(2)), "ejection.min_peers"),
        (ejection(Ejection::new().time(ZERO, ZERO)), "ejection.time"),
        (
            ejection(Ejection::new().probe_timeout(ZERO)),
            "ejection.probe_timeout",
        ),
        (
            ejection(Ejection::new().max_ejected(2.0)),
            "ejection.max_ejected",
        ),
        (
            slow_start(SlowStart::new().window(Duration::MAX)),
            "slow_start.window",
        ),
        (slow_start(SlowStart::new().least(0.0)), "slow_start.least"),
        (
            slow_start(SlowStart::new().aggression(0.0)),
            "slow_start.aggression",
        ),
        (slow_start(SlowStart::new().surge(0.0)), "slow_start.surge"),
        (refused(P2c::peak_ewma().margin(0.0)), "p2c.margin"),
        (refused(P2c::in_flight().grain(-1.0)), "p2c.grain"),
        (
            refused(RingHash::new().load_factor(0.0)),
            "ring_hash.load_factor",
        ),
        (refused(policy::by_name("fastest")), "policy.name"),
        (
            topology(Topology::new().zone(ZonePreference::new(""))),
            "zone.name",
        ),
        (
            topology(Topology::new().priority(Priority::by_zone(["a"]).overprovision(0.0))),
            "priority.overprovision",
        ),
        (
            topology(Topology::new().subsets(Subsets::by([""]))),
            "subsets.by",
        ),
        (
            refused(SplitSettings::new(Shares::new()).build()),
            "split.shares",
        ),
        (guard(Guard::new("")), "guard.version"),
        (guard(Guard::new("v2").window(ZERO)), "guard.window"),
        (
            guard(Guard::new("v2").min_requests(0)),
            "guard.min_requests",
        ),
        (guard(Guard::new("v2").sigmas(0.0)), "guard.sigmas"),
        (
            guard(Guard::new("v2").failure_margin(2.0)),
            "guard.failure_margin",
        ),
        (
            guard(Guard::new("v2").latency_ratio(0.0)),
            "guard.latency_ratio",
        ),
        (refused(Peers::new().set_rank(1, 1)), "peers.rank"),
        (
            refused(Peers::new().set_zones([("a", -1.0)])),
            "peers.zones",
        ),
        (refused(registry::connect("nothing")), "registry.url"),
        (refused(Fixed::parse("")), "fixed.addresses"),
        (
            watch(WatchSettings::default().stale_after(ZERO)),
            "watch.stale_after",
        ),
        (
            watch(WatchSettings::default().mode(WatchMode::Poll(ZERO))),
            "watch.mode",
        ),
    ] {
        assert_eq!(error.field(), field, "{error}");
        assert!(is_well_formed(field), "{field}");
    }
}

#[cfg(feature = "http")]
#[test]
fn so_is_a_health_check() {
    use tower_roster::endpoint::check::HealthCheck;

    let tcp = HealthCheck::tcp;
    for (check, field) in [
        (HealthCheck::http("health"), "health_check.http"),
        (tcp().interval(ZERO), "health_check.interval"),
        (tcp().timeout(ZERO), "health_check.timeout"),
        (tcp().max_failures(0), "health_check.max_failures"),
        (tcp().passes(0), "health_check.passes"),
        (tcp().jitter(2.0), "health_check.jitter"),
        (tcp().concurrency(0), "health_check.concurrency"),
        (tcp().host("a b"), "health_check.host"),
    ] {
        let error = refused(BalanceLayer::builder().health_check(check).build());
        assert_eq!(error.field(), field, "{error}");
        assert!(is_well_formed(field), "{field}");
    }
}

#[cfg(feature = "http")]
#[test]
fn so_are_the_settings_of_a_router() {
    use tower_roster::client::{HttpEndpoints, Router, Stack};

    let registry = Registry::new(Fixed::parse("h:1").unwrap());
    let builder = || Router::<http_body_util::Full<bytes::Bytes>>::builder(&registry);
    let template = || Stack::http().over(HttpEndpoints::new());
    for (built, field) in [
        (builder().max_services(0).build(), "router.max_services"),
        (builder().idle(ZERO).build(), "router.idle"),
        (builder().service("", template()).build(), "router.service"),
    ] {
        assert_eq!(refused(built).field(), field);
        assert!(is_well_formed(field), "{field}");
    }
}

#[cfg(feature = "consul")]
#[test]
fn so_are_the_options_of_consul() {
    use tower_roster::registry::consul::{Consul, ConsulConfig, ConsulOptions};

    let options = ConsulOptions::default;
    for (options, field) in [
        (options().wait(ZERO), "consul.wait"),
        (options().max_blocking(0), "consul.max_blocking"),
        (options().near(""), "consul.near"),
        (options().filter(""), "consul.filter"),
        (options().namespace(""), "consul.namespace"),
        (options().partition(""), "consul.partition"),
        (options().peer(""), "consul.peer"),
        (options().datacenter(""), "consul.datacenter"),
    ] {
        let error = refused(Consul::new(
            ConsulConfig::new("http://h:1").options(options),
        ));
        assert_eq!(error.field(), field, "{error}");
        assert!(is_well_formed(field), "{field}");
    }
    let config = ConsulConfig::new("http://h:1").max_records(0);
    assert_eq!(refused(Consul::new(config)).field(), "consul.max_records");
}

#[cfg(feature = "rest")]
#[test]
fn so_are_the_settings_of_a_rest_client() {
    use tower_roster::registry::rest::RestSettings;

    let one = RestSettings::from_url("rest://127.0.0.1:1").unwrap();
    assert_eq!(one.clone(), one);
    assert_ne!(one.clone().wait(ZERO), one);
    assert_ne!(one.clone().max_records(1), one);
    let none = one.clone().max_records(0);
    assert_eq!(refused(none.build()).field(), "rest.max_records");
    assert_eq!(refused(one.wait(ZERO).build()).field(), "rest.wait");
    assert_eq!(
        refused(RestSettings::new([]).build()).field(),
        "rest.addresses"
    );
}

#[cfg(feature = "etcd")]
#[test]
fn so_are_the_settings_of_etcd() {
    use tower_roster::registry::{etcd::EtcdSettings, record::RecordFormat};

    let one = || EtcdSettings::from_url("etcd://127.0.0.1").unwrap();
    assert_eq!(
        one(),
        EtcdSettings::new(["127.0.0.1:2379".parse().unwrap()])
    );
    for other in [
        one().prefix("/other"),
        one().user("a", "b"),
        one().ttl(Duration::from_secs(16)),
        one().timeout(Duration::from_secs(1)),
        one().format(RecordFormat::new().dubbo(true)),
    ] {
        assert_ne!(other, one());
        assert_eq!(other.clone(), other);
        assert!(other.build().is_ok());
    }
    for (settings, field) in [
        (EtcdSettings::new([]), "etcd.members"),
        (one().ttl(Duration::from_millis(1_999)), "etcd.ttl"),
        (one().timeout(ZERO), "etcd.timeout"),
        (one().prefix("a\nb"), "etcd.prefix"),
        #[cfg(feature = "tls")]
        (one().ca_file("ca.pem"), "etcd.ca_file"),
        #[cfg(feature = "tls")]
        (one().tls(true).ca_file("/none"), "etcd.ca_file"),
        #[cfg(feature = "tls")]
        (one().client_cert("c.pem", "k.pem"), "etcd.client_cert"),
    ] {
        let error = refused(settings.build());
        assert_eq!(error.field(), field, "{error}");
        assert!(is_well_formed(field), "{field}");
    }
}

#[cfg(feature = "zookeeper")]
#[test]
fn so_are_the_settings_of_zookeeper() {
    use tower_roster::registry::{
        record::RecordFormat,
        zookeeper::{ZookeeperAcl, ZookeeperSettings},
    };

    let one = || ZookeeperSettings::from_url("zk://127.0.0.1").unwrap();
    assert_eq!(
        one(),
        ZookeeperSettings::new(["127.0.0.1:2181".parse().unwrap()])
    );
    for other in [
        one().chroot("/app"),
        one().prefix("/other"),
        one().user("a", "b"),
        one().user("a", "b").acl(ZookeeperAcl::Creator),
        one().session_timeout(Duration::from_secs(16)),
        one().timeout(Duration::from_secs(1)),
        one().format(RecordFormat::new().dubbo(true)),
    ] {
        assert_ne!(other, one());
        assert_eq!(other.clone(), other);
        assert!(other.build().is_ok());
    }
    let millis = Duration::from_millis;
    for (settings, field) in [
        (ZookeeperSettings::new([]), "zookeeper.servers"),
        (
            one().session_timeout(millis(999)),
            "zookeeper.session_timeout",
        ),
        (one().timeout(ZERO), "zookeeper.timeout"),
        (one().chroot("a//b"), "zookeeper.chroot"),
        (one().prefix("a\nb"), "zookeeper.prefix"),
        (one().user("a:b", "c"), "zookeeper.user"),
        (one().acl(ZookeeperAcl::Readable), "zookeeper.acl"),
    ] {
        let error = refused(settings.build());
        assert_eq!(error.field(), field, "{error}");
        assert!(is_well_formed(field), "{field}");
    }
}

#[cfg(feature = "dns")]
#[test]
fn so_are_the_settings_of_dns() {
    use tower_roster::registry::dns::{DnsFamily, DnsSettings};

    let one = || DnsSettings::addresses("web.test", 80);
    for other in [
        DnsSettings::srv("web.test"),
        one().server("127.0.0.1:53".parse().unwrap()),
        one().resolv_conf("/etc/other"),
        one().tcp(true),
        one().search(true),
        one().family(DnsFamily::Ipv4),
        one().poll(Duration::from_secs(1)),
        one().accumulate(Duration::from_secs(1)),
        one().timeout(Duration::from_secs(1)),
    ] {
        assert_ne!(other, one());
        assert_eq!(other.clone(), other);
        assert!(other.build().is_ok());
    }
    for (settings, field) in [
        (DnsSettings::srv("."), "dns.name"),
        (DnsSettings::addresses("web.test", 0), "dns.port"),
        (one().poll(Duration::from_millis(999)), "dns.poll"),
        (
            one().accumulate(Duration::from_secs(3_601)),
            "dns.accumulate",
        ),
        (one().timeout(ZERO), "dns.timeout"),
    ] {
        let error = refused(settings.build());
        assert_eq!(error.field(), field, "{error}");
        assert!(is_well_formed(field), "{field}");
    }
}

#[cfg(all(feature = "memory", feature = "server"))]
#[tokio::test]
async fn so_are_the_settings_of_a_server() {
    use tower_roster::{registry::Health, server::ServerSettings};

    let one = || ServerSettings::new("web");
    assert_eq!(one(), "web".into());
    let second = Duration::from_secs(1);
    for other in [
        ServerSettings::new("other"),
        one().id("web-1"),
        one().advertise("h:1".parse().ok()),
        one().weight(2),
        one().zone("a"),
        one().tag("a"),
        one().meta("a", "b"),
        one().health(Health::tcp()),
        one().reap_after(None),
        one().starts_passing(false),
        one().notice(2 * second),
        one().grace(2 * second),
    ] {
        assert_ne!(other, one());
        assert_eq!(other.clone(), other);
    }
    let registry = registry::connect("memory:").unwrap();
    let nowhere: std::net::SocketAddr = "0.0.0.0:0".parse().unwrap();
    let error = registry.announce(one(), &nowhere).unwrap_err().to_string();
    assert!(error.contains("server.advertise"), "{error}");
    assert!(is_well_formed("server.advertise"));
}

#[cfg(feature = "metrics")]
#[test]
fn so_is_the_interval_of_metrics() {
    use tower_roster::telemetry::{Metrics, Telemetry};

    let every = |interval| {
        Telemetry::new()
            .metrics(Metrics::new().interval(interval))
            .build()
    };
    every(Duration::from_millis(1)).unwrap();
    let error = every(Duration::ZERO).unwrap_err();
    assert!(error.to_string().starts_with("metrics.interval"), "{error}");
    assert!(is_well_formed("metrics.interval"));
}

#[cfg(all(feature = "http", feature = "memory", feature = "status"))]
#[tokio::test]
async fn so_is_what_a_status_page_shows() {
    use tower_roster::{Instance, client::HttpService, telemetry::status::StatusPage};

    let registry = registry::connect("memory:").unwrap();
    let client = HttpService::connect(&registry, "web").unwrap();
    let page = || StatusPage::new().service("web", client.handles().clone());
    page().build().unwrap();
    let twice = page().service("web", client.handles().clone());
    let error = refused(twice.build()).to_string();
    assert!(error.contains("status.service"), "{error}");

    let me = Instance::new("web", "web-1", "127.0.0.1:80".parse().unwrap());
    let registration = registry.register(me).unwrap();
    let many = (0..101).fold(page(), |page, _| page.registration(registration.handle()));
    let error = refused(many.build()).to_string();
    assert!(error.contains("status.registration"), "{error}");
    for field in ["status.service", "status.registration"] {
        assert!(is_well_formed(field));
    }
}

#[cfg(feature = "tonic")]
#[tokio::test]
async fn so_are_the_calls_that_may_be_repeated() {
    use tower_roster::client::{GrpcEndpoints, Stack};

    let watch = registry::connect("fixed:h:1")
        .unwrap()
        .watch("web")
        .unwrap();
    let stack = Stack::grpc().repeatable("a b");
    let error = refused(stack.build(watch.discover(GrpcEndpoints::new())));
    assert_eq!(error.field(), "stack.repeatable");
    assert!(is_well_formed(error.field()));
}

#[test]
fn so_are_the_settings_of_two_registries() {
    use tower_roster::registry::{Failover, Merge};

    let fixed = |port: u16| registry::connect(&format!("fixed:h:{port}")).unwrap();
    let pair = || Failover::new(fixed(1), fixed(2));
    let second = Duration::from_secs(1);
    assert!(pair().after(second).back_after(second).build().is_ok());
    let (same, day) = (fixed(1), Duration::from_secs(86_401));
    for (result, field) in [
        (pair().after(day).build(), "failover.after"),
        (pair().back_after(day).build(), "failover.back_after"),
        (
            Failover::new(same.clone(), same.clone()).build(),
            "failover.second",
        ),
        (Merge::new(same.clone(), same).build(), "merge.second"),
    ] {
        assert_eq!(refused(result).field(), field);
        assert!(is_well_formed(field), "{field}");
    }
}

#[cfg(feature = "memory")]
#[test]
fn so_are_the_limits_of_an_embedded_registry() {
    use tower_roster::registry::memory::{Memory, MemoryLimits, Network};

    let limits = MemoryLimits::new;
    for (limits, field) in [
        (limits().instances(0), "memory_limits.instances"),
        (limits().bytes(0), "memory_limits.bytes"),
        (limits().tags(100_000), "memory_limits.tags"),
        (
            limits().least_check_interval(ZERO),
            "memory_limits.least_check_interval",
        ),
        (
            limits().longest_check_timeout(ZERO),
            "memory_limits.longest_check_timeout",
        ),
        (limits().checks_at_once(0), "memory_limits.checks_at_once"),
        (limits().checks_per_sec(0), "memory_limits.checks_per_sec"),
        (
            limits().save_pause(Duration::MAX),
            "memory_limits.save_pause",
        ),
    ] {
        assert_ne!(limits, MemoryLimits::default());
        assert_eq!(limits.clone(), limits);
        let error = Memory::builder().limits(limits).build().unwrap_err();
        assert!(error.to_string().contains(field), "{error} without {field}");
        assert!(is_well_formed(field), "{field}");
    }
    let error = refused("10.0.0.0/33".parse::<Network>());
    assert_eq!(error.field(), "memory_limits.check_network");
    let network = "10.0.0.0/8".parse().unwrap();
    assert_ne!(limits().check_network(network), limits());
    for (builder, field) in [
        (
            Memory::builder().check_interval(Duration::from_millis(999)),
            "memory.check_interval",
        ),
        (
            Memory::builder().check_timeout(Duration::from_secs(61)),
            "memory.check_timeout",
        ),
    ] {
        let error = builder.build().unwrap_err();
        assert!(error.to_string().contains(field), "{error} without {field}");
    }
}

#[cfg(feature = "rest")]
#[test]
fn so_are_the_settings_of_a_rest_server() {
    use tower_roster::registry::{memory::Memory, rest::RestServerSettings};

    let settings = RestServerSettings::new;
    for (settings, field) in [
        (settings().connections(0), "rest_server.connections"),
        (
            settings().connections_per_address(0),
            "rest_server.connections_per_address",
        ),
        (settings().bodies(0), "rest_server.bodies"),
        (settings().write_within(ZERO), "rest_server.write_within"),
    ] {
        assert_ne!(settings, RestServerSettings::default());
        assert_eq!(settings.clone(), settings);
        assert_eq!(refused(settings.build(Memory::new())).field(), field);
        assert!(is_well_formed(field), "{field}");
    }
    assert_ne!(settings().host("h".parse().unwrap()), settings());
}

#[cfg(feature = "memory")]
#[tokio::test]
async fn so_is_the_health_of_a_registration() {
    use tower_roster::{
        Instance,
        registry::{Announcement, Health},
    };

    let registry = registry::connect("memory:").unwrap();
    let instance = Instance::new("web", "web-1", "127.0.0.1:80".parse().unwrap());
    let announcement = Announcement::new(instance).health(Health::Ttl(ZERO));
    let error = registry.register(announcement).expect_err("it is refused");
    let chain = error.to_chain();
    assert!(chain.contains("registration.health"), "{chain}");
}

/// Fields that other tests try: what a file, the environment or an address holds, in `tests/consul`; the status
/// page in `tests/status`; the configuration of a router in `tests/client` and beside its source. Without the
/// feature `http2`, `connection.http2` is refused.
const ELSEWHERE: [&str; 17] = [
    "CONSUL_HTTP_ADDR",
    "connection.http2",
    "consul.address",
    "consul.ca_file",
    "consul.ca_path",
    "consul.client_cert",
    "consul.client_key",
    "consul.tls",
    "defaults.like",
    "etcd.client_key",
    "router.config",
    "status.at",
    "status.host",
    "status.interval",
    "status.orders",
    "status.streams",
    "status.title",
];

/// What the sources write as the field of an error has the form, and stands in a table above.
#[test]
fn the_sources_name_no_field_that_is_not_tried() {
    let tried = include_str!("settings.rs");
    let mut seen = 0;
    visit(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
        &mut |path, text| {
            let calls = ["ConfigError::new(", "check_range(", "check_share("];
            for call in calls {
                for (at, _) in text.match_indices(call) {
                    let argument = text[at + call.len()..].trim_start();
                    let Some(literal) = argument.strip_prefix('"') else {
                        continue;
                    };
                    let field = literal.split('"').next().unwrap_or_default();
                    assert!(is_well_formed(field), "{field:?} in {}", path.display());
                    let is_tried = tried.contains(&format!("\"{field}\""));
                    let is_tried = is_tried || ELSEWHERE.contains(&field);
                    assert!(is_tried, "{field:?} in {}", path.display());
                    seen += 1;
                }
            }
        },
    );
    assert!(seen > 60, "{seen} are too few: the search finds nothing");
}

fn visit(folder: &Path, see: &mut impl FnMut(&Path, &str)) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            visit(&path, see);
        } else if path.extension().is_some_and(|it| it == "rs") {
            see(&path, &fs::read_to_string(&path).unwrap());
        }
    }
}

#[test]
fn settings_are_equal_to_their_copies_and_to_no_others() {
    let breaker = BreakerSettings::new().name("web");
    assert_eq!(breaker.clone(), breaker);
    assert_ne!(breaker.clone().probes(1), breaker);
    assert_eq!(LimitSettings::new(), LimitSettings::default());
    assert_ne!(ThrottleSettings::new().k(3.0), ThrottleSettings::new());
    assert_ne!(FailFastSettings::new().name("a"), FailFastSettings::new());
    assert_ne!(Ejection::new().min_requests(1), Ejection::new());
    assert_ne!(RetrySettings::new().budget(None), RetrySettings::new());
    assert_ne!(BudgetSettings::new().reserve(1), BudgetSettings::new());
    assert_ne!(HedgeSettings::new().share(0.1), HedgeSettings::new());
}

#[tokio::test]
async fn a_timeout_of_zero_of_a_stack_is_refused_as_the_setting_that_it_is() {
    use tower_roster::{classify::Answers, client::Stack};

    let service = tower::service_fn(|request: u8| async move { Ok::<_, tower::BoxError>(request) });
    let list = tower::discover::ServiceList::new::<u8>(vec![service]);
    let built = Stack::cloned(Answers::default())
        .timeout(ZERO)
        .build_plain(list);
    assert_eq!(refused(built).field(), "stack.timeout");
}
