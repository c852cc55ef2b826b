//! Generated policies in a real Envoy: its own `rbac`, fed with Istio's translation, beside our filter.
//!
//! The plain evaluator is asked as well: so it is known to be right about Envoy, not only about us.

use std::net::IpAddr;
use std::path::Path;

use sailcloth_launch::envoy;
use sailcloth_tests::differential::authz::ask::Ask;
use sailcloth_tests::differential::authz::generate::{Generator, Language};
use sailcloth_tests::differential::authz::language;
use sailcloth_tests::differential::authz::words::{IDENTITIES, Words};
use sailcloth_tests::differential::authz::world::World;
use sailcloth_tests::differential::random::Random;
use sailcloth_tests::differential::side::Caller;
use sailcloth_tests::differential::{Tally, scaled, seed};

#[test]
fn our_filter_decides_as_envoys_own() {
    let Some(binary) = envoy::find_or_skip() else { return };
    let mut tally = Tally::new("authorization: native rbac and ours");
    let comparison = Comparison::new(seed(), false);
    // Envoy by Envoy: each listener costs memory.
    for batch in 0..scaled(1, 8) {
        tally.add(comparison.run(&binary, batch, scaled(36, 60), scaled(80, 250)));
    }
    tally.finish(scaled(2_500, 100_000));
}

#[test]
fn and_over_mutual_tls() {
    let Some(binary) = envoy::find_or_skip() else { return };
    let mut tally = Tally::new("authorization: native rbac and ours, over mutual TLS");
    let comparison = Comparison::new(seed() ^ 1, true);
    for batch in 0..scaled(1, 4) {
        tally.add(comparison.run(&binary, batch, scaled(16, 60), scaled(60, 250)));
    }
    tally.finish(scaled(900, 50_000));
}

struct Comparison {
    words: Words,
    /// What this version carries out, and all there is: turn about.
    languages: [Language; 2],
    seed: u64,
    tls: bool,
}

impl Comparison {
    fn new(seed: u64, tls: bool) -> Self {
        Self { words: Words::loopback(), languages: [language().0, Language::full()], seed, tls }
    }

    fn run(&self, binary: &Path, batch: usize, worlds: usize, asks: usize) -> Tally {
        let callers = if self.tls { callers() } else { Vec::new() };
        let worlds: Vec<World> =
            (0..worlds).map(|number| self.world(batch * 1_000 + number, asks, &callers)).collect();
        World::run(binary, &worlds, &callers)
    }

    fn world(&self, number: usize, asks: usize, callers: &[Caller]) -> World {
        let random = Random::new(self.seed).nth(number);
        let mut generator = Generator { words: &self.words, language: &self.languages[number % 2], random };
        let source = if self.tls { "certificate" } else { "peerPrincipal" };
        let configuration = generator.configuration(&[("peerIdentity", source)]);
        let make = |_| {
            let mut ask = generator.ask(&configuration);
            if self.tls {
                as_caller(&mut ask, callers, &mut generator.random);
            } else {
                // Plaintext asks for no server.
                ask.sni = None;
            }
            ask
        };
        let asks = (0..asks).map(make).collect();
        let mut world = World::translated(configuration, self.tls);
        (world.asks, world.normalizes) = (asks, number % 4 != 3);
        world
    }
}

/// Everybody with a certificate, and two without.
fn callers() -> Vec<Caller> {
    let peers = IDENTITIES.iter().map(|identity| Some(format!("spiffe://{identity}")));
    let names = [Some("api.example.com"), None, Some("outbound_.80_._.api.production.svc.cluster.local")];
    let sources = ["127.0.0.1", "127.0.0.2", "127.1.0.0"];
    let caller = |(index, peer): (usize, Option<String>)| Caller {
        peer,
        sni: names[index % 3].map(str::to_owned),
        source: sources[index / 2 % 3].parse::<IpAddr>().unwrap(),
    };
    peers.chain([None, None]).enumerate().map(caller).collect()
}

/// What belongs to the connection is the caller's: its peer if there is one with it, else any.
pub(super) fn as_caller(ask: &mut Ask, callers: &[Caller], random: &mut Random) {
    let caller = callers
        .iter()
        .find(|caller| caller.peer == ask.peer)
        .unwrap_or_else(|| &callers[random.below(callers.len())]);
    ask.peer = caller.peer.clone();
    ask.sni = caller.sni.clone();
    ask.source = caller.source;
    // The listener's own, which no policy names.
    (ask.destination, ask.port) = (IpAddr::from([127, 0, 0, 1]), 1);
}
