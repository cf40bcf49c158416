//! Says which tests did not run for want of a server.
//!
//! Cargo runs test targets in the order of their names, so this one, `zz_not_run`, comes last and
//! its words are not lost among the others. It is no test itself: it takes any argument of a test
//! runner, and always succeeds.

#[allow(dead_code, unreachable_pub)]
#[path = "../support/not_run.rs"]
mod not_run;

fn main() {
    if std::env::args().any(|arg| arg == "--list") {
        return;
    }
    not_run::report();
}
