//! Waiting for a condition, never for a time.

use std::{
    fmt::Debug,
    future::Future,
    time::{Duration, Instant},
};

/// How often a condition is looked at.
const EVERY: Duration = Duration::from_millis(10);

/// What one look at a condition found: the value waited for, or why not yet.
pub trait Probe {
    type Value;
    fn settle(self) -> Result<Self::Value, String>;
}

impl Probe for bool {
    type Value = ();
    fn settle(self) -> Result<(), String> {
        self.then_some(()).ok_or_else(|| "false".into())
    }
}

impl<T> Probe for Option<T> {
    type Value = T;
    fn settle(self) -> Result<T, String> {
        self.ok_or_else(|| "None".into())
    }
}

/// The error is what the panic message shows as the last thing seen.
impl<T, E: Debug> Probe for Result<T, E> {
    type Value = T;
    fn settle(self) -> Result<T, String> {
        self.map_err(|seen| format!("{seen:?}"))
    }
}

/// Looks every 10 ms until `probe` holds; panics, naming `what` and the last thing seen, when it
/// does not within `deadline`.
///
/// The probe returns a `bool`, an `Option`, or a `Result` whose error tells what was seen instead.
/// The deadline is real time, also where tokio's clock is paused.
#[track_caller]
pub fn eventually<F, Fut>(
    deadline: Duration,
    what: &str,
    mut probe: F,
) -> impl Future<Output = <Fut::Output as Probe>::Value>
where
    F: FnMut() -> Fut,
    Fut: Future<Output: Probe>,
{
    let caller = std::panic::Location::caller();
    async move {
        let start = Instant::now();
        let mut last = String::from("nothing: the first look did not finish");
        loop {
            let left = deadline.saturating_sub(start.elapsed());
            // The look itself may hang, on a registry without a leader for example.
            match tokio::time::timeout(left.max(EVERY), probe())
                .await
                .map(Probe::settle)
            {
                Ok(Ok(value)) => return value,
                Ok(Err(seen)) => last = seen,
                Err(_) => {}
            }
            if start.elapsed() >= deadline {
                panic!("{caller}: not within {deadline:?}: {what}; last seen: {last}");
            }
            tokio::time::sleep(EVERY).await;
        }
    }
}
