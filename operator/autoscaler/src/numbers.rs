//! Small helpers around numbers that every part needs.

/// The least whole number of pods that is at least `value`. A trifle above a whole number, as arithmetic leaves it,
/// does not buy another pod.
pub(crate) fn whole_pods(value: f64) -> u32 {
    const TRIFLE: f64 = 1e-9;
    saturating_u32((value - TRIFLE).ceil())
}

/// `value` without its fraction; NaN and negative values give 0, values above the range its end.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "float-to-integer casts saturate"
)]
fn saturating_u32(value: f64) -> u32 {
    value as u32
}

/// `value` rounded to two significant digits.
pub(crate) fn two_digits(value: f64) -> f64 {
    // By way of text, since that gives the float that is nearest to the decimal number.
    format!("{value:.1e}").parse().unwrap_or(value)
}

/// How much of a running mean the newest value makes up, `elapsed` seconds after the last one, when a value's influence
/// halves every `half_life` seconds.
pub(crate) fn newest_share(elapsed: f64, half_life: f64) -> f64 {
    1.0 - (-elapsed.max(0.0) / half_life).exp2()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_to_two_significant_digits() {
        let cases = [
            (0.0, 0.0),
            (0.083_4, 0.083),
            (0.104_9, 0.10),
            (199.6, 200.0),
            (1_249.0, 1_200.0),
            (7.0, 7.0),
        ];
        for (value, expected) in cases {
            assert!(
                (two_digits(value) - expected).abs() < 1e-12,
                "{value} gave {}",
                two_digits(value)
            );
        }
    }

    #[test]
    fn pods_are_counted_in_whole_numbers() {
        assert_eq!([whole_pods(2.0), whole_pods(2.0 + 1e-12), whole_pods(2.01)], [2, 2, 3]);
        assert_eq!(
            [whole_pods(f64::NAN), whole_pods(-1.0), whole_pods(f64::INFINITY)],
            [0, 0, u32::MAX]
        );
    }

    #[test]
    fn a_running_mean_forgets_half_per_half_life() {
        assert!((newest_share(60.0, 60.0) - 0.5).abs() < 1e-12);
        assert!(newest_share(-5.0, 60.0).abs() < 1e-12);
    }
}
