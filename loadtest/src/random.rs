//! Numbers that look random and follow from a seed, whatever library is updated. Pure.

/// SplitMix64 (Steele, Lea, Flood 2014): enough for choosing items.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The numbers of one thing among many, such as one buyer's; `kind` keeps two kinds of choices for it apart.
    pub(crate) fn of(seed: u64, kind: u64, index: u64) -> Self {
        [kind, index].into_iter().fold(Self(seed), |mut random, part| Self(random.next() ^ part))
    }

    /// Uniform in all of `u64`.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Uniform in `0..bound`, by the high half of a product; its bias is below 2^-32.
    pub(crate) fn below(&mut self, bound: u32) -> u32 {
        let product = u128::from(self.next()) * u128::from(bound);
        u32::try_from(product >> 64).expect("the high half of a u64 by a u32 is below the u32")
    }

    /// Uniform in (0, 1], by 53 bits: never zero, whose logarithm does not exist.
    #[allow(clippy::cast_precision_loss)]
    pub(crate) fn unit(&mut self) -> f64 {
        ((self.next() >> 11) + 1) as f64 / (1_u64 << 53) as f64
    }

    /// Exponential with mean 1: the gaps of a Poisson process.
    pub(crate) fn exponential(&mut self) -> f64 {
        -self.unit().ln()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_of_a_seed_are_these_for_ever_and_differ_by_kind_and_thing() {
        let mut random = Random::new(42);
        assert_eq!([random.next(), random.next()], [13_679_457_532_755_275_413, 2_949_826_092_126_892_291]);
        let first = |kind, index| Random::of(42, kind, index).next();
        let (one, others) = (first(1, 1), [first(1, 2), first(2, 1), first(2, 2), Random::of(43, 1, 1).next()]);
        assert!(one == first(1, 1) && !others.contains(&one) && others[0] != others[1]);
    }
}
