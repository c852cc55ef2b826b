//! Generated policies in a real Envoy: its own `rbac`, fed with Istio's translation, beside our filter.
//!
//! The plain evaluator is asked as well: so it is known to be right about Envoy, not only about us.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use sailcloth_core::config::Node;
use sailcloth_launch::envoy;
use sailcloth_launch::http::{Request, Response};
use sailcloth_tests::certificates;
use sailcloth_tests::conformance::{Verdict, load};
use sailcloth_tests::differential::authz::ask::Ask;
use sailcloth_tests::differential::authz::generate::{Generator, Language};
use sailcloth_tests::differential::authz::translate::{self, PeerForm};
use sailcloth_tests::differential::authz::words::{IDENTITIES, Words};
use sailcloth_tests::differential::authz::{language, plain, shown};
use sailcloth_tests::differential::client::{Runner, Way};
use sailcloth_tests::differential::random::Random;
use sailcloth_tests::differential::side::{Bench, Caller, DETAILS, Plan, Side, TO, always_ok, facts, wasm};
use sailcloth_tests::differential::{Tally, scaled, seed, token};
use sailcloth_tests::subject::Subject;
use sailcloth_tests::yaml;
use serde_json::{Value, json};

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

/// A configuration on both sides, with the requests for it.
struct World {
    configuration: Node,
    /// Why our side is not there, where this version cannot carry something out.
    without_ours: Option<String>,
    /// Whether Envoy normalizes paths before any filter.
    normalizes: bool,
    asks: Vec<Ask>,
}

impl Comparison {
    fn new(seed: u64, tls: bool) -> Self {
        Self { words: Words::loopback(), languages: [language().0, Language::full()], seed, tls }
    }

    fn run(&self, binary: &Path, batch: usize, worlds: usize, asks: usize) -> Tally {
        let callers = if self.tls { callers() } else { Vec::new() };
        let made: Vec<World> =
            (0..worlds).map(|number| self.world(batch * 1_000 + number, asks, &callers)).collect();
        let certificates = certificates::authority();
        let sides = made.iter().flat_map(|world| self.sides(world)).collect();
        let bench = Bench::start(
            binary,
            &Plan { sides, callers, certificates: self.tls.then_some(&certificates), ..Plan::default() },
        );
        let (next, all) = (AtomicUsize::new(0), Mutex::new(Tally::default()));
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut runner = Runner::default();
                    loop {
                        let number = next.fetch_add(1, Ordering::SeqCst);
                        let Some(world) = made.get(number) else { return };
                        let ports = [bench.ports[2 * number], bench.ports[2 * number + 1]];
                        let tally = self.compare(world, ports, &bench, &mut runner);
                        all.lock().unwrap().add(tally);
                    }
                });
            }
        });
        all.into_inner().unwrap()
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
        let without_ours = match load(Subject::named("authz"), &configuration) {
            Verdict::Accepted(_) => None,
            Verdict::Unsupported(reason) | Verdict::NoFilter(reason) => Some(reason),
            Verdict::Refused(problems) => panic!("{problems:?}\n{}", shown(&configuration)),
        };
        World { configuration, without_ours, normalizes: number % 4 != 3, asks }
    }

    fn sides(&self, world: &World) -> [Side; 2] {
        let configuration = &world.configuration;
        let form = if self.tls { PeerForm::Authenticated } else { PeerForm::FilterState };
        let policies: Vec<Node> = plain::in_force(configuration).into_iter().cloned().collect();
        let domains: Vec<String> =
            plain::trust_domains(configuration).into_iter().map(str::to_owned).collect();
        let mut native = vec![facts(), token::native()];
        native.extend(translate::filters(&policies, &domains, form));
        let json: Value = serde_json::from_str(&yaml::json(configuration)).unwrap();
        let ours = match world.without_ours {
            None => vec![facts(), wasm("jwt", &token::ours()), wasm("authz", &json)],
            Some(_) => Vec::new(),
        };
        let manager = json!({"normalize_path": world.normalizes});
        [native, ours].map(|filters| Side {
            tls: self.tls,
            manager: manager.clone(),
            ..Side::new(filters, always_ok())
        })
    }

    fn compare(&self, world: &World, ports: [u16; 2], bench: &Bench, runner: &mut Runner) -> Tally {
        let mut tally = Tally::default();
        if let Some(reason) = &world.without_ours {
            tally.skip(format!("a configuration, on our side: {reason}"));
        }
        for ask in &world.asks {
            let mut send = |port| {
                let (way, request) = self.request(ask, port, bench);
                Outcome::of(&runner.send(way, &request))
            };
            let native = send(ports[0]);
            let ours = if world.without_ours.is_none() { send(ports[1]) } else { native.clone() };
            let told = |what: &str| {
                format!(
                    "{what}: native {native:?}, ours {ours:?}\n  {ask:?}\n  {}",
                    shown(&world.configuration)
                )
            };
            if (native.status, &native.grpc_status) != (ours.status, &ours.grpc_status) {
                tally.differed(|| told("status"));
                continue;
            }
            if ![200, 403].contains(&native.status) {
                if native == ours {
                    tally.agreed(format!("answered {} before the filters", native.status));
                } else {
                    tally.differed(|| told("before the filters"));
                }
                continue;
            }
            if native.is_by_rule() != ours.is_by_rule() {
                tally.differed(|| told("denied for another reason"));
                continue;
            }
            if is_normal(&ask.target) || !world.normalizes && !ask.target.contains('#') {
                let plain = plain::decide(&world.configuration, ask);
                if plain.allowed == native.is_denied() {
                    tally.differed(|| told(&format!("the plain evaluator says {plain:?}")));
                    continue;
                }
                for named in [native.rule(), ours.rule()].into_iter().flatten() {
                    if !plain.by.contains(&named) {
                        tally.differed(|| told(&format!("{named} is named, but {plain:?}")));
                    }
                }
            }
            tally.agreed(match (native.is_denied(), native.is_by_rule()) {
                _ if world.without_ours.is_some() => "native and the plain evaluator alone",
                (false, _) => "allowed",
                (_, true) => "denied by a rule",
                (_, false) => "denied, no rule matched",
            });
        }
        tally
    }

    fn request(&self, ask: &Ask, port: u16, bench: &Bench) -> (Way, Request) {
        let mut request = Request::new(&ask.method, &ask.target).header("host", &ask.host);
        for (name, value) in &ask.headers {
            request = request.header(name, value);
        }
        if let Some(address) = ask.forwarded {
            request = request.header("x-forwarded-for", address.to_string());
        }
        if let Some(claims) = &ask.token {
            request = request.bearer(&signed(claims));
        }
        if self.tls {
            let caller = Caller { peer: ask.peer.clone(), sni: ask.sni.clone(), source: ask.source };
            return (
                Way::Direct { port: bench.callers[&caller] },
                request.header(TO, format!("127.0.0.1:{port}")),
            );
        }
        if let Some(peer) = &ask.peer {
            request = request.header("x-test-peer", peer);
        }
        let destination = SocketAddr::new(ask.destination, ask.port);
        (Way::Proxied { port, source: ask.source, destination }, request)
    }
}

/// What a side answered.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Outcome {
    status: u16,
    grpc_status: Option<String>,
    details: String,
}

impl Outcome {
    fn of(response: &Response) -> Self {
        let details = response.header(DETAILS).unwrap_or_default().into_owned();
        let grpc_status = response.header("grpc-status").map(std::borrow::Cow::into_owned);
        Self { status: response.status, grpc_status, details }
    }

    /// A gRPC call is refused with status 200.
    fn is_denied(&self) -> bool {
        self.details != "direct_response"
    }

    /// Whether a rule denied, rather than that none allowed.
    fn is_by_rule(&self) -> bool {
        self.is_denied() && !self.details.ends_with("[none]")
    }

    /// The rule that is named, as `ns/name#rule`.
    fn rule(&self) -> Option<String> {
        if !self.is_by_rule() {
            return None;
        }
        let (_, named) = self.details.split_once('[')?;
        let named = named.strip_suffix(']')?;
        // ns[production]-policy[p0]-rule[1]
        let parts: Vec<&str> = named.split(['[', ']']).collect();
        match parts.as_slice() {
            ["ns", namespace, "-policy", name, "-rule", index, ..] => {
                Some(format!("{namespace}/{name}#{index}"))
            }
            _ => Some(named.to_owned()),
        }
    }
}

/// Whether Envoy hands the path to filters as it was sent.
fn is_normal(target: &str) -> bool {
    let path = target.split('?').next().unwrap_or_default();
    path.chars().all(|c| c.is_ascii_alphanumeric() || "/-_~!$&'()*+,;=:@".contains(c))
}

/// Tokens are signed once.
fn signed(claims: &Node) -> String {
    static SIGNED: Mutex<Vec<(String, String)>> = Mutex::new(Vec::new());
    let mut all = SIGNED.lock().unwrap();
    let key = yaml::json(claims);
    if let Some((_, token)) = all.iter().find(|(known, _)| *known == key) {
        return token.clone();
    }
    let token = token::signed(claims);
    all.push((key, token.clone()));
    token
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
fn as_caller(ask: &mut Ask, callers: &[Caller], random: &mut Random) {
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
