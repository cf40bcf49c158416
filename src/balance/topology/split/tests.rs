use super::*;
use crate::classify::Outcome;

fn instance() -> Instance {
    Instance::new("web", "1", "127.0.0.1:80".parse().unwrap())
}

#[test]
fn shares_that_cannot_be_used_are_refused_by_name() {
    for (shares, text) in [
        (Shares::new(), "their sum"),
        (Shares::new().version("v1", 0.0), "their sum"),
        (Shares::new().version("", 1.0), "name is empty"),
        (
            Shares::new().version("v1", f64::MAX).rest(f64::MAX),
            "their sum",
        ),
        (Shares::new().version("v1", f64::NAN), "of version \"v1\""),
        (Shares::new().version("v1", -0.1), "of version \"v1\""),
        (Shares::canary("v2", 1.5), "of the rest"),
        (
            Shares::new().version("v1", 1.0).rest(f64::INFINITY),
            "of the rest",
        ),
    ] {
        let error = SplitSettings::new(shares.clone()).build().unwrap_err();
        assert_eq!(error.field(), "split.shares");
        assert!(error.to_string().contains(text), "{error}");
        let split = Split::of(&SplitSettings::new(Shares::canary("v2", 0.1)));
        assert!(split.set(shares).is_err());
        assert_eq!(split.shares(), Shares::canary("v2", 0.1), "nothing changed");
    }
}

#[test]
fn versions_come_from_metadata_or_a_closure() {
    let settings = SplitSettings::new(Shares::canary("v2", 0.1));
    let split = Split::of(&settings);
    let v2 = instance().meta("version", "v2").tag("release:v3");
    assert_eq!(split.version(&v2).as_deref(), Some("v2"));
    assert_eq!(split.version(&instance()), None);
    assert_eq!(split.version(&instance().meta("version", "")), None);
    let by_tag = settings.clone().by_fn(|instance| {
        let mut tags = instance.tags.iter();
        tags.find_map(|tag| Some(tag.strip_prefix("release:")?.to_owned()))
    });
    let by_tag = Split::of(&by_tag);
    assert_eq!(by_tag.version(&v2).as_deref(), Some("v3"));
    let broken = Split::of(&settings.by_fn(|_| panic!("a user's mistake")));
    assert_eq!(broken.version(&v2), None);
}

fn record(split: &Split, version: &str, requests: u32, failures: u32) {
    let instance = instance().meta("version", version);
    let [canary, baseline] = split.tallies().unwrap();
    let tally = if split.is_canary(Some(&instance)) {
        canary
    } else {
        baseline
    };
    for i in 0..requests {
        let outcome = if i < failures {
            Outcome::Failure
        } else {
            Outcome::Success
        };
        tally.record(outcome, Duration::from_millis(10));
    }
}

#[test]
fn a_trip_takes_the_share_until_it_is_set_again() {
    let split = Split::of(&SplitSettings::new(Shares::canary("v2", 0.1)).guard(Guard::new("v2")));
    let shared = split.clone();
    let mut changes = shared.subscribe();
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    assert_eq!(split.check(at(0)), None);
    record(&split, "v1", 900, 9);
    record(&split, "v2", 200, 100);
    let trip = split.check(at(10)).unwrap();
    assert_eq!(&*trip.version, "v2");
    assert!((trip.share - 0.1).abs() < 1e-12);
    assert!(changes.has_changed().unwrap());
    changes.mark_unchanged();
    assert_eq!(shared.shares().share("v2"), 0.0, "every clone sees it");
    assert_eq!(shared.shares().share_of_rest(), 1.0);
    assert_eq!(shared.trip(), Some(trip));

    record(&split, "v1", 900, 900);
    record(&split, "v2", 200, 0);
    assert_eq!(
        split.check(at(20)),
        None,
        "it stays away, however good it is now"
    );
    assert_eq!(split.shares().share("v2"), 0.0);

    split.set(Shares::canary("v2", 0.5)).unwrap();
    assert_eq!(split.trip(), None);
    assert_eq!(split.shares().share("v2"), 0.5);
    assert_eq!(split.check(at(21)), None, "the past is forgotten");
    assert_eq!(split.check(at(40)), None);
}

#[test]
fn a_canary_with_everything_keeps_it() {
    let split = Split::of(&SplitSettings::new(Shares::canary("v2", 1.0)).guard(Guard::new("v2")));
    let now = Instant::now();
    split.check(now);
    record(&split, "v1", 900, 0);
    record(&split, "v2", 900, 900);
    assert_eq!(split.check(now + Duration::from_secs(10)), None);
    assert_eq!(
        split.shares().share("v2"),
        1.0,
        "there is nobody to give it to"
    );
}

#[test]
fn without_a_guard_nothing_is_counted() {
    let split = Split::of(&SplitSettings::new(Shares::canary("v2", 0.1)));
    assert!(split.tallies().is_none());
    assert!(!split.is_canary(Some(&instance().meta("version", "v2"))));
    assert_eq!(split.check(Instant::now()), None);
}
