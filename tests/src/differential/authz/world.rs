//! A configuration with both its forms in one Envoy, and the comparison of what they answer.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use sailcloth_core::config::Node;
use sailcloth_launch::http::{Request, Response};
use serde_json::{Value, json};

use super::ask::Ask;
use super::translate::{self, PeerForm};
use super::{plain, shown};
use crate::certificates;
use crate::conformance::{Verdict, load};
use crate::differential::client::{Runner, Way};
use crate::differential::side::{Bench, Caller, DETAILS, Plan, Side, TO, always_ok, facts, wasm};
use crate::differential::{Tally, token};
use crate::subject::Subject;
use crate::yaml;

/// A configuration, as our filter has it and as Envoy's own has it, with the requests for it.
#[derive(Debug)]
pub struct World {
    configuration: Node,
    native: Vec<Value>,
    /// Why our side is not there, where this version cannot carry something out.
    without_ours: Option<String>,
    /// Whether Envoy normalizes paths before any filter.
    pub normalizes: bool,
    /// Whether clients come with certificates.
    pub tls: bool,
    /// The requests.
    pub asks: Vec<Ask>,
}

impl World {
    /// A configuration beside these filters of Envoy's own.
    ///
    /// # Panics
    /// When our filter finds the configuration invalid.
    #[must_use]
    pub fn new(configuration: Node, native: Vec<Value>) -> Self {
        let without_ours = match load(Subject::named("authz"), &configuration) {
            Verdict::Accepted(_) => None,
            Verdict::Unsupported(reason) | Verdict::NoFilter(reason) => Some(reason),
            Verdict::Refused(problems) => panic!("{problems:?}\n{}", shown(&configuration)),
        };
        Self { configuration, native, without_ours, normalizes: true, tls: false, asks: Vec::new() }
    }

    /// A configuration beside our own translation of it.
    #[must_use]
    pub fn translated(configuration: Node, tls: bool) -> Self {
        let form = if tls { PeerForm::Authenticated } else { PeerForm::FilterState };
        let policies: Vec<Node> = plain::in_force(&configuration).into_iter().cloned().collect();
        let domains: Vec<String> =
            plain::trust_domains(&configuration).into_iter().map(str::to_owned).collect();
        let native = translate::filters(&policies, &domains, form);
        Self { tls, ..Self::new(configuration, native) }
    }

    /// Runs all worlds in one Envoy.
    ///
    /// # Panics
    /// When Envoy does not start or stops answering.
    #[must_use]
    pub fn run(binary: &Path, worlds: &[Self], callers: &[Caller]) -> Tally {
        let certificates = certificates::authority();
        let bench = Bench::start(
            binary,
            &Plan {
                sides: worlds.iter().flat_map(Self::sides).collect(),
                callers: callers.to_vec(),
                certificates: (!callers.is_empty()).then_some(&certificates),
                ..Plan::default()
            },
        );
        let (next, all) = (AtomicUsize::new(0), Mutex::new(Tally::default()));
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut runner = Runner::default();
                    loop {
                        let number = next.fetch_add(1, Ordering::SeqCst);
                        let Some(world) = worlds.get(number) else { return };
                        let ports = [bench.ports[2 * number], bench.ports[2 * number + 1]];
                        let tally = world.compare(ports, &bench, &mut runner);
                        all.lock().expect("no thread has panicked").add(tally);
                    }
                });
            }
        });
        all.into_inner().expect("no thread has panicked")
    }

    fn sides(&self) -> [Side; 2] {
        let native = [vec![facts(), token::native()], self.native.clone()].concat();
        let json: Value = serde_json::from_str(&yaml::json(&self.configuration)).expect("valid JSON");
        let ours = match self.without_ours {
            None => vec![facts(), wasm("jwt", &token::ours()), wasm("authz", &json)],
            Some(_) => Vec::new(),
        };
        let manager = json!({"normalize_path": self.normalizes});
        [native, ours].map(|filters| Side {
            tls: self.tls,
            manager: manager.clone(),
            ..Side::new(filters, always_ok())
        })
    }

    fn compare(&self, ports: [u16; 2], bench: &Bench, runner: &mut Runner) -> Tally {
        let mut tally = Tally::default();
        if let Some(reason) = &self.without_ours {
            tally.skip(format!("a configuration, on our side: {reason}"));
        }
        for ask in &self.asks {
            let mut send = |port| {
                let (way, request) = self.request(ask, port, bench);
                Outcome::of(&runner.send(way, &request))
            };
            let native = send(ports[0]);
            let ours = if self.without_ours.is_none() { send(ports[1]) } else { native.clone() };
            let told = |what: &str| {
                format!(
                    "{what}: native {native:?}, ours {ours:?}\n  {ask:?}\n  {}",
                    shown(&self.configuration)
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
            if is_normal(&ask.target) || !self.normalizes && !ask.target.contains('#') {
                let plain = plain::decide(&self.configuration, ask);
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
                _ if self.without_ours.is_some() => "native and the plain evaluator alone",
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
        // Ours may say in brackets behind it what nearly matched.
        let details = details.split_once("](").map_or(details.clone(), |(named, _)| format!("{named}]"));
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
    let mut all = SIGNED.lock().expect("no thread has panicked");
    let key = yaml::json(claims);
    if let Some((_, token)) = all.iter().find(|(known, _)| *known == key) {
        return token.clone();
    }
    let token = token::signed(claims);
    all.push((key, token.clone()));
    token
}
