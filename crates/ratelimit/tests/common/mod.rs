//! A store in memory, a generator of numbers and requests.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    reason = "shared by several test binaries, none of which uses all"
)]
#![allow(clippy::panic, clippy::expect_used, reason = "a test may")]

use std::collections::HashMap;

use sailcloth_core::facts::{Fact, Facts, NoProperties, Properties};
use sailcloth_core::headers::HeaderBlock;
use sailcloth_core::request::Request;
use sailcloth_ratelimit::{Engine, Moment, Outcome, RowKey, Seed, Step, Store, StoreError, Worker};

pub const SECOND: u64 = 1_000_000_000;

/// SplitMix64: the same numbers in every run.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

#[derive(Default)]
pub struct Memory {
    pub rows: HashMap<RowKey, (Vec<u8>, u32)>,
    versions: u32,
}

impl Store for Memory {
    fn read(&mut self, row: RowKey) -> Result<Option<(Vec<u8>, u32)>, StoreError> {
        Ok(self.rows.get(&row).cloned())
    }

    fn write(&mut self, row: RowKey, value: &[u8], expected: Option<u32>) -> Result<bool, StoreError> {
        if self.rows.get(&row).map(|(_, version)| *version) != expected {
            return Ok(false);
        }
        self.versions += 1;
        self.rows.insert(row, (value.to_vec(), self.versions));
        Ok(true)
    }
}

pub fn moment(now: u64) -> Moment {
    Moment { now, seed: Seed::new(1, 2) }
}

pub fn engine(rules: &str) -> Engine {
    engine_with(rules, "{}")
}

pub fn engine_with(rules: &str, settings: &str) -> Engine {
    let text = config(rules, settings);
    match Engine::load(text.as_bytes()) {
        Ok((engine, _)) => engine,
        Err(problems) => panic!("{problems:?}"),
    }
}

pub fn config(rules: &str, settings: &str) -> String {
    format!(
        r#"{{"resources": [{{"apiVersion": "sailcloth.dev/v1alpha1", "kind": "RateLimit",
            "metadata": {{"name": "limits", "namespace": "shop"}}, "spec": {{"rules": {rules}}}}}],
            "settings": {settings}}}"#
    )
}

pub fn ask<'e>(engine: &'e Engine, store: &mut dyn Store, pairs: &[(&str, &str)], now: u64) -> Outcome<'e> {
    ask_with(engine, store, pairs, now, &NoProperties)
}

pub fn ask_with<'e>(
    engine: &'e Engine,
    store: &mut dyn Store,
    pairs: &[(&str, &str)],
    now: u64,
    properties: &dyn Properties,
) -> Outcome<'e> {
    let step = step(engine, store, pairs, now, properties, &mut Worker::default());
    step.outcome.expect("nothing must be asked of a service")
}

pub fn step<'e>(
    engine: &'e Engine,
    store: &mut dyn Store,
    pairs: &[(&str, &str)],
    now: u64,
    properties: &dyn Properties,
    worker: &mut Worker,
) -> Step<'e> {
    let headers = HeaderBlock::from_pairs(pairs.iter().copied());
    let request = Request { headers: &headers, facts: Facts::new(properties, engine.sources()) };
    engine.decide(&request, moment(now), store, worker)
}

pub fn admits(engine: &Engine, store: &mut dyn Store, pairs: &[(&str, &str)], now: u64) -> bool {
    ask(engine, store, pairs, now).refusal.is_none()
}

pub struct Peer(pub String);

impl Properties for Peer {
    fn property(&self, path: &[&str]) -> Fact<Vec<u8>> {
        match path {
            ["filter_state", "sailcloth.source_ip"] => Fact::Known(self.0.clone().into_bytes()),
            _ => Fact::Absent,
        }
    }
}
