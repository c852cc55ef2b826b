//! Independent draws from one random number.

use sailcloth_resources::virtual_service::Share;

/// SplitMix64 from a seed that is random per request.
#[derive(Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Whether a request is among a share of all.
    pub(crate) fn hits(&mut self, share: Share) -> bool {
        scale(self.next(), 1_000_000) < u64::from(share.per_million())
    }
}

/// `random` of 2^64 to a number below `total`.
pub(crate) fn scale(random: u64, total: u64) -> u64 {
    let product = u128::from(random) * u128::from(total);
    u64::try_from(product >> 64).unwrap_or_default()
}
