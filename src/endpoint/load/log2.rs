//! Powers and logarithms to base 2, fast enough for the path of a request.
//!
//! They are exact to eight digits, far more than a latency needs. They need no call, no table and none
//! of the checks for special values of the system's functions. Both split a number into exponent and
//! mantissa by bit operations, and compute the mantissa's part with a polynomial: the interpolation in
//! Chebyshev nodes, whose error is near the smallest for its degree. The stated errors are those of the
//! polynomials over their interval; the tests check them.

/// 2⁵² × 1.5. Adding it to a number of less than 51 bits rounds that number to the nearest integer,
/// which is then in the low bits of the sum.
const ROUND: f64 = 6_755_399_441_055_744.0;

/// `2^x` with a relative error below 1e-8, for `x` from -1000 to 1000. Values of `x` beyond this range
/// count as its bounds. `x` must not be `NaN`.
#[inline]
pub(super) fn exp2(x: f64) -> f64 {
    let x = x.clamp(-1_000.0, 1_000.0);
    let shifted = x + ROUND;
    let f = x - (shifted - ROUND);
    // The terms are grouped in pairs, so that the processor can compute products in parallel.
    let f2 = f * f;
    let low = 1.0 + f * 0.693_147_206_702_832_6;
    let middle = 0.240_226_509_222_887_57 + f * 0.055_503_272_266_702_98;
    let high = 0.009_618_056_678_524_637 + f * 0.001_340_042_817_761_583_8;
    let top = 0.000_154_614_446_986_691_3;
    let power = low + f2 * (middle + f2 * (high + f2 * top));
    // Adds the integer to the exponent. The low bits of `shifted` hold it in two's complement.
    f64::from_bits(power.to_bits().wrapping_add(shifted.to_bits() << 52))
}

/// `log2(x)` with an absolute error below 1e-9, for `x` finite, normal and above zero.
#[inline]
pub(super) fn log2(x: f64) -> f64 {
    /// Bits of √½. A number between √½ and √2 gets exponent 0.
    const LOW: u64 = 0x3FE6_A09E_667F_3BCD;
    let bits = x.to_bits();
    let exponent = (bits.wrapping_sub(LOW) as i64) >> 52;
    let mantissa = f64::from_bits(bits.wrapping_sub((exponent as u64) << 52));
    // log2 m = 2 / ln 2 × artanh t, and |t| is below 0.172.
    let t = (mantissa - 1.0) / (mantissa + 1.0);
    let t2 = t * t;
    let low = 2.885_390_079_803_336_5 + t2 * 0.961_798_838_802_11;
    let high = 0.576_715_186_019_023_4 + t2 * 0.431_717_697_458_873_84;
    exponent as f64 + t * (low + t2 * t2 * high)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn powers_agree_with_the_exact_ones(x in -1_000.0f64..1_000.0) {
            let exact = x.exp2();
            prop_assert!((exp2(x) - exact).abs() <= exact * 1e-8, "2^{x}: {}", exp2(x));
        }

        #[test]
        fn logarithms_agree_with_the_exact_ones(exponent in -1_000.0f64..1_000.0) {
            let x = exponent.exp2();
            prop_assert!((log2(x) - x.log2()).abs() <= 1e-9, "log2 {x}: {}", log2(x));
        }

        #[test]
        fn logarithms_near_one_agree_with_the_exact_ones(x in 0.5f64..2.0) {
            prop_assert!((log2(x) - x.log2()).abs() <= 1e-9, "log2 {x}: {}", log2(x));
        }
    }

    #[test]
    fn powers_beyond_the_bounds_stay_finite_and_above_zero() {
        for x in [-1e300, f64::NEG_INFINITY, 1e300, f64::INFINITY, 0.0, -0.0] {
            assert!(exp2(x).is_normal(), "2^{x} is {}", exp2(x));
        }
        assert_eq!(exp2(0.0), 1.0);
        assert_eq!(log2(1.0), 0.0);
    }
}
