//! Limits retries and hedges to a share of the traffic and a small reserve.
//!
//! A limit per request does not protect a service that is down: three attempts for each request
//! triple the load when the service can bear the least. A budget ties attempts beyond the first to
//! the traffic: each request deposits a fraction, and each further attempt withdraws one. By
//! default that is a fifth of the requests of the last 10 s. Ten more attempts are in reserve, for
//! a client with little traffic and for one that has just started. Hedges have a share of their own
//! and also draw on this budget, so it bounds the sum of both.
//!
//! # Load of the service in an outage
//! The clients of a service do not know of each other, so a reserve that does not depend on
//! requests grows with the number of clients.
//! [Finagle's](https://twitter.github.io/finagle/guide/Clients.html#retries) reserve of 10 a second
//! is little for a service with three clients; with a hundred clients it is 1,000 a second, for as
//! long as an outage lasts. Here time does not refill the reserve. Deposits that expire unused
//! refill it, so requests that needed no retry pay for it: fifty of them pay for ten attempts. When
//! a service fails entirely, and `n` clients send it `r` requests in all during the outage, it gets
//! at most `0.2 × r + 10 × n` attempts more, however long the outage lasts:
//!
//! | a client's requests during an outage | retried at most | load of the service |
//! |---:|---:|---:|
//! | 10 | 12 | 2.2 |
//! | 100 | 30 | 1.3 |
//! | 1 000 | 210 | 1.21 |
//!
//! A client that is the only one can have [a reserve that time
//! refills](BudgetSettings::reserve_per_sec).
//!
//! # What is counted
//! In any window of the time to live there are at most `reserve + ratio × requests` withdrawals.
//! Deposits and withdrawals count for the whole window, and for at most a tenth more, which is the
//! length of a slot.
//!
//! # Comparison
//! tower's `TpsBudget` has the same rule, with four faults. A ratio of 0.6 becomes 1, because `1 /
//! ratio` is cut to a whole number ([tower#857]). Its slots pass twice as fast as time, so a
//! deposit is forgotten after half the time to live. Two threads can withdraw one deposit twice.
//! The first deposit after a quiet week steps through each slot of that week under a lock. Finagle
//! truncates the price of a retry to a thousandth. Here a share is exact to a millionth, the balance
//! is one atomic, and moving the window takes a bounded number of steps that no request waits for.
//!
//! [tower#857]: https://github.com/tower-rs/tower/issues/857

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::ledger::{Ledger, Refill, WITHDRAWAL};
use crate::error::{ConfigError, check_range};

/// As in Finagle and tower. A window that is one slot longer or shorter makes little difference.
const SLOTS: u32 = 10;

/// A budget for retries and hedges, shared by its clones.
///
/// # Examples
/// The default: 20 % of the requests of 10 s, and ten in reserve.
/// ```
/// use tokio::time::Instant;
/// use tower_roster::service::retry::RetryBudget;
///
/// let budget = RetryBudget::new();
/// let now = Instant::now();
/// for _ in 0..100 {
///     budget.deposit(now);
/// }
/// assert_eq!(budget.available(now), 30); // 20 for the requests, ten in reserve
/// assert!(budget.withdraw(now));
/// ```
///
/// No reserve, and one retry for twenty requests:
/// ```
/// use tower_roster::service::retry::BudgetSettings;
///
/// let budget = BudgetSettings::new().ratio(0.05).reserve(0).build()?;
/// # Ok::<_, tower_roster::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct RetryBudget(Arc<BudgetInner>);

struct BudgetInner {
    ledger: Ledger,
    base: Instant,
    deposit: i64,
    // Statistics, each read on its own: relaxed.
    withdrawn: AtomicU64,
    refused: AtomicU64,
}

/// The end of the current slot, as last read; the window need not be moved before it. An old value
/// is never too late, because the window only moves forward.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SlotEnd(Option<Instant>);

impl RetryBudget {
    /// A budget of a fifth of the requests of the last 10 s, and ten in reserve.
    pub fn new() -> Self {
        BudgetSettings::new()
            .build()
            .expect("the defaults are in range")
    }

    fn with(deposit: i64, reserve: i64, refill: Refill, ttl: Duration) -> Self {
        let slot_ns = ttl.as_nanos() as u64 / u64::from(SLOTS);
        Self(Arc::new(BudgetInner {
            ledger: Ledger::new(reserve, refill, SLOTS, slot_ns),
            base: Instant::now(),
            deposit,
            withdrawn: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }))
    }

    /// Deposits for a request. To be called once for each request, however often it is sent.
    #[inline]
    pub fn deposit(&self, now: Instant) {
        self.0.ledger.deposit(self.0.deposit, self.0.since(now));
    }

    /// The same, and cheaper until `slot` ends.
    #[inline]
    pub(super) fn deposit_in(&self, slot: &mut SlotEnd, now: Instant) {
        if slot.0.is_some_and(|end| now < end) {
            self.0.ledger.deposit_in_slot(self.0.deposit);
        } else {
            self.deposit_and_look(slot, now);
        }
    }

    #[cold]
    fn deposit_and_look(&self, slot: &mut SlotEnd, now: Instant) {
        self.deposit(now);
        let left = self.0.ledger.left_of_slot(self.0.since(now));
        *slot = SlotEnd(now.checked_add(Duration::from_nanos(left)));
    }

    /// Withdraws the price of one more attempt and returns whether there was enough. A withdrawal
    /// cannot be returned: call this when the attempt is about to be sent.
    #[must_use = "an attempt must not be sent without"]
    pub fn withdraw(&self, now: Instant) -> bool {
        let granted = self.take(now);
        if !granted {
            self.count_refusal();
        }
        granted
    }

    /// Withdraws without counting a refusal, for a caller that asks again and again for one attempt.
    pub(crate) fn take(&self, now: Instant) -> bool {
        let granted = self.0.ledger.withdraw(self.0.since(now));
        if granted {
            self.0.withdrawn.fetch_add(1, Relaxed);
        }
        granted
    }

    /// Whether an attempt could be sent now. If not, it counts as refused.
    pub(crate) fn allows(&self, now: Instant) -> bool {
        let allowed = self.available(now) > 0;
        if !allowed {
            self.count_refusal();
        }
        allowed
    }

    /// Counts an attempt that is not sent because the budget is empty.
    pub(crate) fn count_refusal(&self) {
        self.0.refused.fetch_add(1, Relaxed);
    }

    /// The attempts beyond the first that were sent since the budget was made.
    pub fn withdrawn(&self) -> u64 {
        self.0.withdrawn.load(Relaxed)
    }

    /// The attempts that were not sent because the budget was empty.
    pub fn refused(&self) -> u64 {
        self.0.refused.load(Relaxed)
    }

    /// The number of attempts that could be sent now.
    pub fn available(&self, now: Instant) -> u64 {
        let balance = self.0.ledger.balance(self.0.since(now));
        u64::try_from(balance / WITHDRAWAL).unwrap_or(0)
    }
}

impl BudgetInner {
    /// In nanoseconds. `as_nanos` is not used, because its 128-bit arithmetic would double the
    /// cost.
    #[inline]
    fn since(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.base);
        let whole = since.as_secs().saturating_mul(1_000_000_000);
        whole.saturating_add(since.subsec_nanos().into())
    }
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self::new()
    }
}

impl_debug!(RetryBudget: |this|
    available = this.available(Instant::now()),
    withdrawn = this.withdrawn(),
    refused = this.refused(),
);

/// The settings of a [`RetryBudget`]. Each [`build`](Self::build) makes a new budget.
#[derive(Clone, Copy, Debug, PartialEq)]
#[must_use = "settings do nothing until they are built"]
pub struct BudgetSettings {
    ratio: f64,
    reserve: Reserve,
    ttl: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reserve {
    /// This many attempts. Deposits refill them.
    Earned(u32),
    /// This many attempts a second.
    PerSec(u32),
}

impl BudgetSettings {
    /// The defaults.
    pub const fn new() -> Self {
        Self {
            ratio: 0.2,
            reserve: Reserve::Earned(10),
            ttl: Duration::from_secs(10),
        }
    }

    /// Sets the attempts beyond the first per request, 0.0 to 10.0, exact to a millionth; 0.2 by
    /// default. Zero leaves only the reserve; 10 lets every request be sent eleven times.
    pub fn ratio(mut self, ratio: f64) -> Self {
        self.ratio = ratio;
        self
    }

    /// Sets how many attempts need no traffic; ten by default. Only deposits that expire unused
    /// refill them. Zero leaves a client that sends fewer than `1 / ratio` requests in a
    /// [`ttl`](Self::ttl) without any retry. Every client has its own reserve, so in an outage the
    /// service gets this number of attempts from each client, once.
    pub fn reserve(mut self, attempts: u32) -> Self {
        self.reserve = Reserve::Earned(attempts);
        self
    }

    /// Sets a reserve that time refills, in attempts a second, instead of
    /// [`reserve`](Self::reserve). For a client that is the only one or one of few: the service
    /// gets these attempts from each client for as long as an outage lasts.
    pub fn reserve_per_sec(mut self, attempts: u32) -> Self {
        self.reserve = Reserve::PerSec(attempts);
        self
    }

    /// Sets how long a request and a retry count, 1 s to 60 s; 10 s by default. A short time
    /// follows the traffic closely; a long one lets the traffic of quiet times pay for a burst of
    /// retries.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Makes the budget, with a full reserve.
    ///
    /// # Errors
    /// When the ratio is not within 0.0 to 10.0, or the time to live not within 1 s to 60 s.
    pub fn build(self) -> Result<RetryBudget, ConfigError> {
        check_range("retry_budget.ratio", self.ratio, 0.0..=10.0)?;
        let times = Duration::from_secs(1)..=Duration::from_secs(60);
        check_range("retry_budget.ttl", self.ttl, times)?;
        // Less than 2^32 × 60 × 10^6, far below the maximum of an `i64`.
        let (reserve, refill) = match self.reserve {
            Reserve::Earned(attempts) => (i64::from(attempts) * WITHDRAWAL, Refill::Deposits),
            Reserve::PerSec(attempts) => {
                let micros = self.ttl.as_micros() as i64;
                (i64::from(attempts) * micros, Refill::Time)
            }
        };
        let deposit = in_millionths(self.ratio);
        Ok(RetryBudget::with(deposit, reserve, refill, self.ttl))
    }
}

impl Default for BudgetSettings {
    fn default() -> Self {
        Self::new()
    }
}

fn in_millionths(ratio: f64) -> i64 {
    (ratio * WITHDRAWAL as f64).round() as i64
}

#[cfg(test)]
#[cfg(not(roster_loom))]
mod tests {
    use super::*;

    const SEC: Duration = Duration::from_secs(1);

    fn without_reserve(ratio: f64) -> RetryBudget {
        let builder = BudgetSettings::new().ratio(ratio).reserve_per_sec(0);
        builder.build().expect("a usable ratio")
    }

    #[test]
    fn a_share_is_what_was_asked_for() {
        for (ratio, retries) in [
            (0.0, 0),
            (0.000_1, 1),
            (0.05, 500),
            (0.3, 3_000),
            (0.6, 6_000),
            (0.75, 7_500),
            (1.0, 10_000),
            (1.5, 15_000),
            (10.0, 100_000),
        ] {
            let (budget, now) = (without_reserve(ratio), Instant::now());
            (0..10_000).for_each(|_| budget.deposit(now));
            assert_eq!(budget.available(now), retries, "for a ratio of {ratio}");
            let granted = (0..=retries).filter(|_| budget.withdraw(now)).count();
            assert_eq!(granted as u64, retries, "for a ratio of {ratio}");
        }
    }

    #[test]
    fn who_knows_the_slot_deposits_as_much_for_as_long() {
        let (one, other) = (without_reserve(0.2), without_reserve(0.2));
        let (mut slot, now) = (SlotEnd::default(), Instant::now());
        for ms in (0..60_000u32).map(|step| step * 7 % 45_000 + step / 3) {
            let now = now + Duration::from_millis(ms.into());
            one.deposit(now);
            other.deposit_in(&mut slot, now);
            assert_eq!(one.available(now), other.available(now), "after {ms} ms");
        }
    }

    #[test]
    fn the_default_is_a_fifth_and_ten() {
        let made = BudgetSettings::new().build().unwrap();
        for budget in [RetryBudget::new(), RetryBudget::default(), made] {
            let now = Instant::now();
            assert_eq!(budget.available(now), 10);
            (0..50).for_each(|_| budget.deposit(now));
            assert_eq!(budget.available(now), 20);
            assert_eq!(budget.available(now + 11 * SEC), 10);
        }
    }

    #[test]
    fn a_service_that_fails_gets_a_fifth_more_and_ten_from_each_client_however_long_it_fails() {
        for (clients, every) in [(1, 10), (1_000, 60_000), (1_000, 10_000), (100, 28), (1, 1)] {
            let budgets: Vec<_> = (0..clients).map(|_| RetryBudget::new()).collect();
            let (base, mut requests, mut retries) = (Instant::now(), 0, 0);
            // Every attempt fails, and is retried while the budget lasts.
            for step in 0..200 {
                let now = base + Duration::from_millis(step * every);
                for budget in &budgets {
                    requests += 1;
                    budget.deposit(now);
                    let again = (0..2).take_while(|_| budget.withdraw(now)).count();
                    assert!(again == 2 || step > 0, "a fresh client may retry");
                    retries += again;
                }
            }
            let most = requests / 5 + 10 * clients;
            assert!(
                retries <= most,
                "{retries} of {most} with {clients} clients, one request each {every} ms"
            );
        }
    }

    #[test]
    fn the_reserve_comes_back_with_requests_that_needed_none_and_not_with_time() {
        let (budget, now) = (RetryBudget::new(), Instant::now());
        assert_eq!((0..20).filter(|_| budget.withdraw(now)).count(), 10);
        assert_eq!(budget.available(now + 3_600 * SEC), 0);
        let now = now + 3_600 * SEC;
        (0..50).for_each(|_| budget.deposit(now));
        assert_eq!(budget.available(now), 10);
        let left = budget.available(now + 60 * SEC);
        assert_eq!(left, 10, "what was not needed is in reserve");
    }

    #[test]
    fn a_share_is_of_the_last_second_and_a_few_once() {
        let share = BudgetSettings::new().ratio(0.05).reserve(2).ttl(SEC);
        let (share, now) = (share.build().unwrap(), Instant::now());
        (0..1_000).for_each(|_| share.deposit(now));
        assert_eq!(share.available(now), 52);
        assert_eq!(share.available(now + 2 * SEC), 2);
        let now = now + 2 * SEC;
        assert!(share.withdraw(now) && share.withdraw(now) && !share.withdraw(now));
        assert_eq!(share.available(now + 3_600 * SEC), 0);
    }

    #[test]
    fn the_reserve_follows_the_time_to_live() {
        let ttl = Duration::from_millis(1_500);
        let budget = BudgetSettings::new().reserve_per_sec(3).ttl(ttl).build();
        assert_eq!(budget.unwrap().available(Instant::now()), 4);
        let most = BudgetSettings::new()
            .reserve_per_sec(u32::MAX)
            .ttl(60 * SEC);
        let available = most.build().unwrap().available(Instant::now());
        assert_eq!(available, u64::from(u32::MAX) * 60);
    }

    #[test]
    fn clones_share_it() {
        let (one, now) = (BudgetSettings::new().reserve(2), Instant::now());
        let one = one.build().unwrap();
        let other = one.clone();
        assert!(one.withdraw(now) && other.withdraw(now));
        assert_eq!((one.available(now), other.withdrawn()), (0, 2));
    }

    #[test]
    fn refuses_what_is_out_of_range_and_names_the_field() {
        let builder = BudgetSettings::new;
        for ratio in [-0.1, 10.1, f64::NAN, f64::INFINITY] {
            let error = builder().ratio(ratio).build().unwrap_err();
            assert_eq!(error.field(), "retry_budget.ratio");
        }
        for ttl in [Duration::ZERO, SEC / 2, 61 * SEC, Duration::MAX] {
            let error = builder().ttl(ttl).build().unwrap_err();
            assert_eq!(error.field(), "retry_budget.ttl");
        }
    }
}
