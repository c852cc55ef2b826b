//! Deterministic choices: the same seed makes the same policies and requests on every machine.

/// SplitMix64 (Steele, Lea, Flood 2014): small, and good enough to choose test inputs.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// Choices of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Other choices for each number, so that one world can be made again alone.
    #[must_use]
    pub fn nth(&self, number: usize) -> Self {
        Self(Self(self.0 ^ (number as u64).wrapping_mul(0xa076_1d64_78bd_642f)).next())
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// A number from 0 to `bound - 1`.
    pub fn below(&mut self, bound: usize) -> usize {
        let wide = u128::from(self.next()) * bound as u128;
        usize::try_from(wide >> 64).unwrap_or(0)
    }

    /// True in that many of a hundred.
    pub fn percent(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// One of them.
    pub fn pick<'t, T>(&mut self, of: &'t [T]) -> &'t T {
        &of[self.below(of.len())]
    }

    /// `from` to `to` of what `make` makes.
    pub fn several<T>(&mut self, from: usize, to: usize, mut make: impl FnMut(&mut Self) -> T) -> Vec<T> {
        let count = from + self.below(to - from + 1);
        (0..count).map(|_| make(self)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_the_same_for_a_seed_and_cover_what_there_is() {
        let of = |seed| {
            let mut random = Random::new(seed);
            random.several(200, 200, |random| random.below(7))
        };
        assert_eq!(of(1), of(1));
        assert_ne!(of(1), of(2));
        assert!((0..7).all(|number| of(1).contains(&number)));
        assert_ne!(Random::new(1).nth(1).next(), Random::new(1).nth(2).next());
    }
}
