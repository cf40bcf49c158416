//! What is reported of requests and of their attempts.

use std::{fmt, sync::Arc, time::Duration};

use crate::{
    attempt::{Abandoned, AttemptKind},
    classify::{Outcome, ResponseStatus},
    endpoint::{Endpoint, Facts},
    error::RequestErrorKind,
    instance::{Address, Instance, Key},
};

/// An endpoint, as reports name it.
#[derive(Clone, Debug)]
pub struct EndpointTag {
    key: Key,
    address: Option<Address>,
    facts: Option<Arc<Facts>>,
    /// Filled by the first response, if latencies are measured.
    #[cfg(feature = "status")]
    latency: Arc<std::sync::OnceLock<Arc<super::latency_counts::LatencyCounts>>>,
}

impl EndpointTag {
    /// The tag of an endpoint of one of this crate's discoveries.
    pub fn of<S>(endpoint: &Endpoint<S>) -> Self {
        let facts = endpoint.facts();
        Self {
            key: endpoint.key().clone(),
            address: Some(facts.instance().address.clone()),
            facts: Some(Arc::clone(facts)),
            #[cfg(feature = "status")]
            latency: Arc::default(),
        }
    }

    /// The tag of an endpoint of which only the key is known.
    pub fn new(key: Key) -> Self {
        Self {
            key,
            address: None,
            facts: None,
            #[cfg(feature = "status")]
            latency: Arc::default(),
        }
    }

    /// The counts of its latencies; made if there are none yet.
    #[cfg(feature = "status")]
    #[inline]
    pub(super) fn latency(
        &self,
        make: impl FnOnce(&Key) -> Arc<super::latency_counts::LatencyCounts>,
    ) -> &super::latency_counts::LatencyCounts {
        self.latency.get_or_init(|| make(&self.key))
    }

    /// Its identity.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// The address that its service sends to, if discovery is one of this crate's own.
    pub fn address(&self) -> Option<&Address> {
        self.address.as_ref()
    }

    /// Its present instance in the registry, if discovery is one of this crate's own. This takes a lock for
    /// a moment, so read it when an endpoint is new rather than for each attempt.
    pub fn instance(&self) -> Option<Arc<Instance>> {
        self.facts.as_ref().map(|facts| facts.instance())
    }
}

/// One attempt of a request: it is sent to one endpoint.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct AttemptInfo<'a> {
    /// The service.
    pub service: &'a str,
    /// The number of the request, which no other request of this process has; 0 if no
    /// [`MonitoredClient`](super::MonitoredClient) is above, or another task is in between.
    pub request: u64,
    /// The number of the attempt, from 1.
    pub number: u32,
    /// Why it was sent.
    pub kind: AttemptKind,
    /// The endpoint.
    pub endpoint: &'a EndpointTag,
}

/// One request, however often it was sent.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct RequestInfo<'a> {
    /// The service.
    pub service: &'a str,
    /// The number of the request, which no other request of this process has.
    pub number: u64,
    /// How often it was sent; 0 if it reached no endpoint.
    pub attempts: u32,
    /// Whether its last response came from a hedge; false if it ended with an error. When a hedge and the
    /// attempt beside it both fail, the caller may get the other response.
    pub hedged: bool,
    /// The endpoint that answered last, or if none did, the one that it was sent to last.
    pub endpoint: Option<&'a EndpointTag>,
}

/// How an attempt or a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Ended {
    /// With a response, which the classifier judged so.
    Answered(Outcome),
    /// With an error, in place of a response or in its body.
    Failed(RequestErrorKind),
    /// It was dropped before the classifier could judge it.
    Abandoned(Abandoned),
}

impl Ended {
    /// Returns a stable name: that of the outcome, of the kind of the error, or of the reason.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Answered(outcome) => outcome.as_str(),
            Self::Failed(kind) => kind.as_str(),
            Self::Abandoned(reason) => reason.as_str(),
        }
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The end of an attempt or of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct End {
    /// How it ended.
    pub ended: Ended,
    /// What it counts as: an attempt for its endpoint, as ejection counts it; a request for the whole
    /// service, as a breaker counts it. It tells more than [`ended`](Self::ended): an endpoint is to blame
    /// neither for the deadline of a caller, nor for a request that no endpoint can take, and it did answer
    /// if its response exceeds a limit of the client. An attempt that was dropped because time was up is a
    /// failure only if it had at least 90 % of the per-try timeout.
    pub outcome: Outcome,
    /// The status of the response, if there was one and the classifier knows it.
    pub status: Option<ResponseStatus>,
    /// The time until the head of the response; of a request, of the last response.
    pub to_head: Option<Duration>,
    /// The time until the end of the body; `None` if the body broke off, or was dropped before its end.
    pub to_end: Option<Duration>,
    /// The time until it ended in any way. The time of a request begins when `poll_ready` begins to wait,
    /// or else with its call.
    pub elapsed: Duration,
}

impl End {
    /// Whether its [outcome](Self::outcome) is a success.
    pub const fn is_success(&self) -> bool {
        matches!(self.outcome, Outcome::Success)
    }

    /// Whether its [outcome](Self::outcome) is a failure, or an overload. A request that its caller dropped,
    /// or a hedge that lost, neither succeeded nor failed.
    pub const fn is_failure(&self) -> bool {
        matches!(self.outcome, Outcome::Failure | Outcome::Overloaded)
    }
}
