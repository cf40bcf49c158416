//! What the stack does about failures, in plain words: ejections, probes, breaker transitions.

use std::{future::pending, time::Duration};

use tokio::sync::{broadcast::error::RecvError, watch};
use tower_roster::{
    balance::BalanceEvent,
    client::Handles,
    service::breaker::{BreakerCause, BreakerHandle, BreakerState, BreakerTransition},
};

use super::figures::{Figures, Summary};

/// What a stack told.
pub enum News {
    Balance(BalanceEvent),
    Breaker(BreakerTransition),
}

/// The same for people.
pub struct Words {
    pub event: &'static str,
    pub instance: Option<String>,
    pub detail: Option<String>,
}

/// Counts what happens and tells it, until the balancer is gone.
pub async fn follow(handles: Handles, figures: &Figures, mut tell: impl FnMut(News)) {
    let Ok(mut events) = handles.balance.subscribe().await else {
        return;
    };
    let mut breaker = handles.breaker.as_ref().map(BreakerHandle::subscribe);
    loop {
        tokio::select! {
            event = events.recv() => match event {
                Ok(event) => {
                    match &event {
                        BalanceEvent::Ejected { .. } => figures.note_ejection(),
                        BalanceEvent::Restored { .. } => figures.note_restoration(),
                        _ => {}
                    }
                    tell(News::Balance(event));
                }
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            },
            Some(transition) = changed(&mut breaker) => {
                figures.note_transition(transition, cause(transition.cause));
                tell(News::Breaker(transition));
            }
        }
    }
}

/// The next transition of the breaker, if there is one; `None` when it has gone.
async fn changed(
    breaker: &mut Option<watch::Receiver<BreakerTransition>>,
) -> Option<BreakerTransition> {
    match breaker {
        Some(breaker) => {
            breaker.changed().await.ok()?;
            Some(*breaker.borrow_and_update())
        }
        None => pending().await,
    }
}

impl News {
    /// Puts it into words; `None` for what a registry tells, too.
    pub fn words(&self) -> Option<Words> {
        Some(match self {
            Self::Breaker(transition) => {
                let BreakerTransition { to, open_for, .. } = transition;
                let to = match to {
                    BreakerState::HalfOpen => "half-open",
                    to => to.as_str(),
                };
                let mut detail = format!("{to}: {}", cause(transition.cause));
                if let Some(time) = open_for {
                    detail.push_str(&format!(", for {}", seconds(*time)));
                }
                Words::new("breaker", None, detail)
            }
            Self::Balance(event) => match event {
                BalanceEvent::Ejected {
                    key, cause, time, ..
                } => {
                    let mut detail = cause.to_string();
                    if let Some(time) = time {
                        detail.push_str(&format!(", probe in {}", seconds(*time)));
                    }
                    Words::new("ejected", Some(key.id()), detail)
                }
                BalanceEvent::Probing { key, .. } => {
                    Words::new("probing", Some(key.id()), "gets one request")
                }
                BalanceEvent::Restored {
                    key, by: restored, ..
                } => Words::new("restored", Some(key.id()), restored.to_string()),
                BalanceEvent::Spared { key, cause, .. } => {
                    let detail = format!("not ejected, too many are: {cause}");
                    Words::new("spared", Some(key.id()), detail)
                }
                BalanceEvent::Notice { notice, .. } => {
                    Words::new("notice", None, notice.to_string())
                }
                BalanceEvent::DiscoveryFailed { error, .. } => {
                    Words::new("discovery", None, &**error)
                }
                BalanceEvent::DiscoveryEnded => Words::new("discovery", None, "ended"),
                _ => return None,
            },
        })
    }
}

impl Words {
    fn new(event: &'static str, instance: Option<&str>, detail: impl Into<String>) -> Self {
        Self {
            event,
            instance: instance.map(str::to_owned),
            detail: Some(detail.into()),
        }
    }
}

/// A line of a running report.
pub fn line(at: Duration, words: &Words) -> String {
    format!(
        "{:>6.1} s  {:<9} {} {}",
        at.as_secs_f64(),
        words.event,
        words.instance.as_deref().unwrap_or_default(),
        words.detail.as_deref().unwrap_or_default()
    )
}

/// What the stack did, in one line; `None` when there was nothing to do.
pub fn done(summary: &Summary) -> Option<String> {
    let counts = [
        (summary.retries, "retries", "retry"),
        (summary.hedges, "hedges", "hedge"),
        (
            summary.budget_refused,
            "refused by their budget",
            "refused by its budget",
        ),
        (summary.ejections, "ejections", "ejection"),
        (summary.restorations, "restorations", "restoration"),
        (
            summary.breaker.refused,
            "refused by the breaker",
            "refused by the breaker",
        ),
    ];
    let counts = counts.into_iter().filter(|(count, ..)| *count > 0);
    let mut parts: Vec<_> = counts
        .map(|(count, many, one)| format!("{count} {}", if count == 1 { one } else { many }))
        .collect();
    if let Some(state) = summary.breaker.state {
        parts.push(format!("breaker {state}"));
    }
    (!parts.is_empty()).then(|| format!("resilience: {}", parts.join(", ")))
}

/// Why a breaker changed its state.
fn cause(cause: BreakerCause) -> String {
    match cause {
        BreakerCause::Failures(counts) => {
            format!("{} of {} calls failed", counts.failed, counts.total)
        }
        BreakerCause::SlowCalls(counts) => {
            format!("{} of {} calls were slow", counts.slow, counts.total)
        }
        BreakerCause::OpenTimeOver => "its open time is over".to_owned(),
        BreakerCause::ProbeFailed => "a probe failed".to_owned(),
        BreakerCause::ProbeTimedOut => "a probe had no answer in time".to_owned(),
        BreakerCause::ProbesSucceeded => "its probes succeeded".to_owned(),
        BreakerCause::Created => "it is new".to_owned(),
        BreakerCause::Forced | BreakerCause::Reset => "by hand".to_owned(),
        _ => "for another reason".to_owned(),
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}
