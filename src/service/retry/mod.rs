//! Sending a request again.

mod budget;
mod ledger;

pub use self::budget::{BudgetBuilder, RetryBudget};
