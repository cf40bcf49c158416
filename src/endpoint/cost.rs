//! Load divided by weight.

use std::fmt;

use crate::instance::Weight;

/// What one more request on an endpoint costs: its load divided by its weight; smaller is better.
///
/// With the same load, an endpoint with three times the weight costs a third. The cost of an endpoint of
/// weight 0 is infinite, so it is chosen only if all others cost as much.
#[derive(Clone, Copy, PartialEq, PartialOrd)]
pub struct Cost(f64);

impl Cost {
    /// Divides a load by a weight. NaN and negative loads count as infinite.
    pub fn new(load: f64, weight: Weight) -> Self {
        // False for NaN, too, so that costs are always comparable.
        if load >= 0.0 && weight > Weight::ZERO {
            Self(load / f64::from(weight.get()))
        } else {
            Self(f64::INFINITY)
        }
    }

    /// The cost, from 0 to infinity; never NaN.
    pub fn get(self) -> f64 {
        self.0
    }
}

impl fmt::Debug for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cost({:e})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weight_divides_and_zero_costs_infinitely_much() {
        let (one, three) = (Weight::ONE, Weight::from(3));
        assert!(Cost::new(2.9, three) < Cost::new(1.0, one));
        assert!(Cost::new(3.1, three) > Cost::new(1.0, one));
        assert_eq!(Cost::new(0.0, Weight::ZERO).get(), f64::INFINITY);
        assert!(Cost::new(1e15, one) < Cost::new(0.0, Weight::ZERO));
    }

    #[test]
    fn a_load_that_is_no_number_stays_comparable() {
        for load in [f64::NAN, -1.0, f64::INFINITY] {
            let cost = Cost::new(load, Weight::ONE);
            assert!(cost.partial_cmp(&cost).is_some());
            assert_eq!(cost.get(), f64::INFINITY);
        }
    }
}
