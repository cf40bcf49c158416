//! The state of a registry that discovery follows.

use std::{fmt, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::error::NoEndpoint;
use crate::{
    error::RegistryError,
    registry::{View, ViewPart, ViewState, Watch},
    text::Escaped,
};

/// The state of a registry that discovery follows. The endpoints of the last good set continue to serve in
/// every state.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RegistryStatus {
    /// The name of the registry, as it appears in errors.
    pub registry: Arc<str>,
    /// The watched service.
    pub service: Arc<str>,
    /// How current the list is.
    pub state: ViewState,
    /// Number of listed instances that may serve.
    pub instances: usize,
    /// The error that keeps the list from being fresh; `None` while the registry answers.
    pub error: Option<RegistryError>,
    /// The time since which the registry has confirmed nothing, while it is [pending](ViewState::Pending)
    /// or [stale](ViewState::Stale); `None` while it is fresh.
    pub silent_since: Option<Instant>,
    /// Whether the watch has ended because its runtime has shut down. No update follows.
    pub ended: bool,
    /// Whether its instances are in use: `false` only for a part of a
    /// [`Failover`](crate::registry::Failover), while those of the other part are.
    pub is_used: bool,
    /// The states of two registries that are used as one ([`Merge`](crate::registry::Merge),
    /// [`Failover`](crate::registry::Failover)); empty for one registry.
    pub parts: Vec<RegistryStatus>,
}

impl RegistryStatus {
    /// The state now. `began` is the time at which the balancer began to follow the registry.
    pub(super) fn of(watch: &Watch, began: Instant) -> Self {
        let (registry, service) = (watch.registry(), watch.query().service());
        let view = watch.view();
        let status = Self::of_view(registry, service, &view, began);
        if !watch.is_ended() {
            return status;
        }
        let state = match status.state {
            // A watch that has ended does not notice that its list grows old.
            ViewState::Pending => ViewState::Pending,
            _ => ViewState::Stale,
        };
        Self {
            state,
            silent_since: Some(view.confirmed.unwrap_or(began)),
            ended: true,
            ..status
        }
    }

    fn of_view(registry: &Arc<str>, service: &Arc<str>, view: &View, began: Instant) -> Self {
        let silent = matches!(view.state, ViewState::Pending | ViewState::Stale);
        let part = |part: &ViewPart| Self {
            is_used: part.is_used,
            ..Self::of_view(&part.registry, service, &part.view, began)
        };
        Self {
            registry: Arc::clone(registry),
            service: Arc::clone(service),
            state: view.state,
            instances: view.instances.len(),
            error: view.error.clone(),
            silent_since: silent.then(|| view.confirmed.unwrap_or(began)),
            ended: false,
            is_used: true,
            parts: view.parts.iter().map(part).collect(),
        }
    }

    /// How long the registry has confirmed nothing, while it is pending or stale; `None` while it is fresh.
    pub fn silent_for(&self) -> Option<Duration> {
        self.silent_since.map(|since| since.elapsed())
    }

    /// Whether the state equals `before` for the purpose of events. A new text of the same kind of error
    /// makes no difference.
    pub(super) fn is_like(&self, before: &Self) -> bool {
        let kind = |status: &Self| status.error.as_ref().map(RegistryError::kind);
        let mut parts = self.parts.iter().zip(&before.parts);
        (self.state, kind(self), self.ended, self.is_used)
            == (before.state, kind(before), before.ended, before.is_used)
            && self.parts.len() == before.parts.len()
            && parts.all(|(part, before)| part.is_like(before))
    }

    /// The reason for having no endpoint, taken from the most significant registry. First comes a registry
    /// that cannot be reached, as it may list instances; last comes one that lists none.
    pub(super) fn explain(all: &[Self]) -> Option<NoEndpoint> {
        let failed = |status: &Self| status.error.is_some() || status.ended;
        let one = all
            .iter()
            .min_by_key(|status| status.state.rank(failed(status)))?;
        Some(match (one.state, &one.error) {
            (ViewState::Pending, None) if !one.ended => NoEndpoint::NeverResolved,
            (ViewState::Pending | ViewState::Stale, error) => NoEndpoint::Unreachable {
                since: one.silent_for().unwrap_or_default(),
                error: match error {
                    Some(error) => error.to_chain(),
                    None if one.ended => "the watch has ended with its runtime".to_owned(),
                    None => "it is silent".to_owned(),
                },
            },
            (ViewState::Live, _) => NoEndpoint::NotMade(one.instances),
            (ViewState::Empty, _) => NoEndpoint::Empty,
            (ViewState::Missing, _) => NoEndpoint::Missing,
        })
    }
}

impl fmt::Display for RegistryStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "registry of {:?}: {}", self.service, self.state)?;
        if let Some(silent) = self.silent_for() {
            write!(f, " for {silent:.1?}")?;
        }
        match &self.error {
            Some(error) => write!(f, ", {}", error.to_chain())?,
            None if self.ended => f.write_str(", ended")?,
            None => {}
        }
        for part in &self.parts {
            let unused = if part.is_used { "" } else { ", not used" };
            let (registry, state) = (Escaped(&part.registry), part.state);
            write!(f, "; {registry}: {state}{unused}")?;
        }
        Ok(())
    }
}
