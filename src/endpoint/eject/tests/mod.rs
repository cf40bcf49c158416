//! Tests of the rules of ejection, without a balancer.

mod ejector;
mod invariants;
mod scene;
