//! Seeded pseudo-random numbers, so that a run can be repeated call for call.

/// `SplitMix64` (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
/// Good enough to draw arrival gaps and tool choices; not for secrets.
#[derive(Clone, Debug)]
pub(crate) struct Random {
    state: u64,
}

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    pub(crate) fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A whole number in `0..bound`; 0 when `bound` is 0.
    /// The modulo's bias is below 2⁻⁴⁰ for the small bounds used here (weights, indices).
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        let Ok(bound) = u64::try_from(bound) else { return 0 };
        if bound == 0 {
            return 0;
        }
        usize::try_from(self.next_u64() % bound).unwrap_or(0)
    }

    /// A gap of a Poisson process of rate 1: exponentially distributed with mean 1, never negative, always finite.
    pub(crate) fn exponential(&mut self) -> f64 {
        let upper_bits = u32::try_from(self.next_u64() >> 32).unwrap_or(u32::MAX);
        let unit = (f64::from(upper_bits) + 1.0) / (f64::from(u32::MAX) + 1.0);
        -unit.ln()
    }
}
