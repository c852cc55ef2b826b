//! `jwt`: RequestAuthentication.

use std::time::Duration;

use sailcloth_core::config::Node;
use sailcloth_core::decision::Mode;
use sailcloth_core::facts::Facts;
use sailcloth_core::request::Request;
use sailcloth_jwt::{Algorithm, Algorithms, CannotVerify, Edit, Environment, Scheme, TokenCache, Verifier};

use super::{Engine, Exchange, Loaded, Subject, observed, remove, request, set};
use crate::judge::Observed;

const CALLBACKS: &[&str] = &["proxy_on_request_headers", "proxy_on_http_call_response", "proxy_on_tick"];

pub(super) const SUBJECT: Subject = Subject { name: "jwt", load: load_usual, callbacks: CALLBACKS };

/// The full build.
pub(super) const FULL: Subject = Subject { name: "jwt-full", load: load_full, callbacks: CALLBACKS };

fn load_usual(configuration: &Node) -> Loaded {
    load(configuration, Algorithms::USUAL)
}

fn load_full(configuration: &Node) -> Loaded {
    load(configuration, Algorithms::ALL)
}

fn load(configuration: &Node, algorithms: Algorithms) -> Loaded {
    let environment = Environment { algorithms, variable: |_| None };
    let (engine, warnings) = sailcloth_jwt::Engine::load_node(configuration, &environment)?;
    let cache = engine.cache([1, 2]);
    Ok((Box::new(Jwt { engine, cache, handed_on: Vec::new() }), warnings))
}

struct Jwt {
    engine: sailcloth_jwt::Engine,
    cache: TokenCache,
    handed_on: Vec<u8>,
}

impl Engine for Jwt {
    fn decide(&mut self, exchange: &Exchange<'_>) -> Observed {
        let facts = Facts::new(exchange.properties, self.engine.sources());
        let asked = Request { headers: exchange.headers, facts };
        let now = Duration::from_nanos(exchange.now_ns);
        let outcome =
            self.engine.decide(&asked, now, &self.engine.key_store::<u32>(), &Host, &mut self.cache);
        let mut upstream = request(exchange.headers);
        for edit in &outcome.edits {
            match edit {
                Edit::Remove(name) => remove(&mut upstream, name),
                Edit::Set(name, value) => set(&mut upstream, name, value),
            }
        }
        let reply = outcome.decision.refuses().then(|| outcome.reply());
        self.handed_on = outcome.state().to_vec();
        let observed = observed(&outcome.decision, reply.as_ref(), upstream);
        match outcome.decision.mode {
            Mode::Enforce | Mode::Audit => observed,
            Mode::Shadow => Observed { shadow: observed.decided, decided: None, ..observed },
        }
    }

    fn resources(&self) -> Vec<(&'static str, usize)> {
        self.engine.resources()
    }

    fn handed_on(&self) -> &[u8] {
        &self.handed_on
    }
}

/// `verify_signature` as the emulator has it, which is as Envoy has it; PS* as the full build has them.
struct Host;

impl Verifier for Host {
    fn verify(
        &self,
        algorithm: Algorithm,
        key: &[u8],
        signature: &[u8],
        signed: &[u8],
    ) -> Result<bool, CannotVerify> {
        if algorithm.scheme == Scheme::Pss {
            return sailcloth_signatures::Rust.verify(algorithm, key, signature, signed);
        }
        let mut message = Vec::new();
        for (field, bytes) in
            [(1_u8, algorithm.hash.name().as_bytes()), (2, key), (3, signature), (4, signed)]
        {
            message.push(field << 3 | 2);
            let mut length = bytes.len();
            while length > 0x7f {
                message.push(u8::try_from(length & 0x7f).unwrap_or(0) | 0x80);
                length >>= 7;
            }
            message.push(u8::try_from(length).unwrap_or(0));
            message.extend_from_slice(bytes);
        }
        match sailcloth_emulator::crypto::verify_signature(&message) {
            (sailcloth_emulator::Status::Ok, answer) => Ok(answer == [0x08, 0x01]),
            _ => Err(CannotVerify),
        }
    }
}
