//! Randomness: for choices that need no secrecy (weighted routes, sampling), and for keys. Engines take it as an argument.

use std::cell::Cell;

use crate::{Status, abi};

thread_local! {
    static STATE: Cell<Option<u64>> = const { Cell::new(None) };
}

/// A number uniform over all of `u64`. The first call of a VM seeds the generator from the host's random source.
///
/// # Errors
/// WASI's error number as [`Status::Other`] when the host has no randomness.
pub fn next() -> Result<u64, Status> {
    let state = match STATE.get() {
        Some(state) => state,
        None => abi::random()?,
    };
    let (state, number) = split_mix(state);
    STATE.set(Some(state));
    Ok(number)
}

/// A key of 128 bits from the host's random source.
///
/// # Errors
/// WASI's error number as [`Status::Other`] when the host has no randomness.
pub fn secret() -> Result<[u64; 2], Status> {
    Ok([abi::random()?, abi::random()?])
}

/// SplitMix64 (Steele, Lea, Flood 2014): one addition and a mixing function; passes BigCrush.
fn split_mix(state: u64) -> (u64, u64) {
    let state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (state, mixed ^ (mixed >> 31))
}
