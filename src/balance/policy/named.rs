//! Policies that are chosen while the program runs.

use std::{fmt, sync::Arc};

use rand::rngs::SmallRng;

use super::{
    Candidate, LeastLoad, LeastRequests, P2c, Picker, Policy, Random, ResponseTime, RingHash,
    RoundRobin, WeightedRandom, WeightedRoundRobin,
};
use crate::{
    endpoint::load::{LoadTracker, PeakEwma},
    error::ConfigError,
};

/// The names that [`by_name`] accepts.
pub const NAMES: &[&str] = &[
    "round-robin",
    "weighted-round-robin",
    "random",
    "weighted-random",
    "least-requests",
    "p2c",
    "peak-ewma",
    "least-load",
    "response-time",
    "ring-hash",
];

/// Creates the policy of this name with default settings. The name is one of [`NAMES`].
///
/// `p2c` is [`P2c::in_flight`] and `peak-ewma` is [`P2c::peak_ewma`]; the others are named as their types.
///
/// # Errors
/// Returns an error when no policy has this name. The message lists all names.
///
/// # Examples
/// ```
/// use tower_roster::balance::policy;
///
/// assert!(policy::by_name("ring-hash").is_ok());
/// let error = policy::by_name("magic").unwrap_err();
/// assert!(error.to_string().contains("weighted-random, least-requests, p2c"));
/// ```
pub fn by_name(name: &str) -> Result<AnyPolicy, ConfigError> {
    Ok(match name {
        "round-robin" => AnyPolicy::new(RoundRobin::new()),
        "weighted-round-robin" => AnyPolicy::new(WeightedRoundRobin::new()),
        "random" => AnyPolicy::new(Random::new()),
        "weighted-random" => AnyPolicy::new(WeightedRandom::new()),
        "least-requests" => AnyPolicy::new(LeastRequests::new()),
        "p2c" => AnyPolicy::new(P2c::in_flight()),
        "peak-ewma" => AnyPolicy::new(P2c::peak_ewma()),
        "least-load" => AnyPolicy::new(LeastLoad::new()),
        "response-time" => AnyPolicy::new(ResponseTime::new()),
        "ring-hash" => AnyPolicy::new(RingHash::new()),
        _ => {
            let message = format!("{name:?} is none of {}", NAMES.join(", "));
            return Err(ConfigError::new("policy.name", message));
        }
    })
}

/// Any policy whose picker works with [`PeakEwma`], as one type.
///
/// Each pick costs an indirect call. Latency is measured for every policy, also when the policy does not
/// use it.
///
/// # Examples
/// ```
/// use tower_roster::balance::policy::{AnyPolicy, P2c, WeightedRoundRobin};
///
/// let steady = true;
/// let policy = if steady {
///     AnyPolicy::new(WeightedRoundRobin::new())
/// } else {
///     AnyPolicy::new(P2c::peak_ewma().margin(1.5)?)
/// };
/// # Ok::<_, tower_roster::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct AnyPolicy {
    /// The settings of the measurement.
    tracker: Arc<PeakEwma>,
    policy: Arc<dyn Prepare>,
}

impl AnyPolicy {
    /// Wraps a policy. When the policy's own tracker is a [`PeakEwma`], its settings are kept; otherwise
    /// default settings are used.
    pub fn new<P>(policy: P) -> Self
    where
        P: Policy + fmt::Debug,
        P::Picker: Picker<PeakEwma>,
    {
        let own: Box<dyn std::any::Any> = Box::new(policy.tracker());
        let tracker = own
            .downcast::<PeakEwma>()
            .map_or_else(|_| PeakEwma::new(), |own| *own);
        Self {
            tracker: Arc::new(tracker),
            policy: Arc::new(policy),
        }
    }
}

/// The methods of [`Policy`] that the balancer's driver calls, without associated types.
trait Prepare: fmt::Debug + Send + Sync {
    fn prepare(&self, candidates: &[Candidate], rng: &mut SmallRng) -> Box<dyn Picker<PeakEwma>>;
    fn is_costly(&self, candidates: usize) -> bool;
}

impl<P> Prepare for P
where
    P: Policy + fmt::Debug,
    P::Picker: Picker<PeakEwma>,
{
    fn prepare(&self, candidates: &[Candidate], rng: &mut SmallRng) -> Box<dyn Picker<PeakEwma>> {
        Box::new(Policy::prepare(self, candidates, rng))
    }

    fn is_costly(&self, candidates: usize) -> bool {
        Policy::is_costly(self, candidates)
    }
}

impl Policy for AnyPolicy {
    type Load = PeakEwma;
    type Picker = Box<dyn Picker<PeakEwma>>;

    fn tracker(&self) -> PeakEwma {
        self.tracker.fresh(tokio::time::Instant::now())
    }

    fn prepare(&self, candidates: &[Candidate], rng: &mut SmallRng) -> Self::Picker {
        self.policy.prepare(candidates, rng)
    }

    fn is_costly(&self, candidates: usize) -> bool {
        self.policy.is_costly(candidates)
    }
}

impl fmt::Debug for AnyPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.policy.fmt(f)
    }
}
