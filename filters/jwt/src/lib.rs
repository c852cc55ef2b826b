//! `jwt.wasm`: RequestAuthentication in stock Envoy. Callbacks in, actions out; the decisions are `sailcloth-jwt`'s.

use sailcloth_core::config::{Node, Problem};
use sailcloth_core::decision::Filter;
use sailcloth_core::facts::{Facts, TOKEN_STATE};
use sailcloth_core::request::Request;
use sailcloth_host::metrics::DecisionCounters;
use sailcloth_host::{Action, Http, Plugin, Status, clock, export, foreign};
use sailcloth_jwt::{
    Algorithm, Algorithms, CannotVerify, Edit, Engine, Environment, Outcome, Scheme, TokenCache, Verifier,
};

/// Filter state with the caller as text, for access logs, route matchers and native filters.
const PRINCIPAL_STATE: &str = "sailcloth.jwt.principal";

/// The configured filter.
struct JwtFilter {
    engine: Engine,
    cache: TokenCache,
    decisions: DecisionCounters,
}

/// What this build verifies, and where `${env:NAME}` is read: the VM's environment.
const ENVIRONMENT: Environment = Environment {
    algorithms: if cfg!(feature = "full") { Algorithms::ALL } else { Algorithms::USUAL },
    variable: |name| std::env::var(name).ok(),
};

/// Envoy's own signature verification; in the full build Rust does what Envoy cannot.
struct Host;

impl Verifier for Host {
    fn verify(
        &self,
        algorithm: Algorithm,
        public_key: &[u8],
        signature: &[u8],
        signed: &[u8],
    ) -> Result<bool, CannotVerify> {
        let verified = match algorithm.scheme {
            Scheme::Pss => Err(CannotVerify),
            _ => foreign::verify_signature(algorithm.hash.name(), public_key, signature, signed)
                .map_err(|_| CannotVerify),
        };
        #[cfg(feature = "full")]
        let verified =
            verified.or_else(|_| sailcloth_signatures::Rust.verify(algorithm, public_key, signature, signed));
        verified
    }
}

impl Plugin for JwtFilter {
    const FILTER: Filter = Filter::Jwt;

    type Stream = ();

    fn configure(configuration: &Node) -> Result<(Self, Vec<Problem>), Vec<Problem>> {
        let (engine, warnings) = Engine::load_node(configuration, &ENVIRONMENT)?;
        let cache = engine.cache();
        Ok((Self { engine, cache, decisions: DecisionCounters::default() }, warnings))
    }

    fn resources(&self) -> Vec<(&'static str, usize)> {
        self.engine.resources()
    }

    fn request_headers(&mut self, (): &mut (), http: Http) -> Action {
        let headers = match http.request_headers() {
            Ok(headers) => headers,
            Err(status) => return http.fail_closed("the request headers could not be read", status),
        };
        let now = match clock::system_time() {
            Ok(now) => now,
            Err(status) => return http.fail_closed("the time could not be read", status),
        };
        let request = Request { headers: &headers, facts: Facts::new(&http, self.engine.sources()) };
        let outcome = self.engine.decide(&request, now, &Host, &mut self.cache);
        self.decisions.count(&outcome.decision);
        if let Err(status) = edit(&outcome, http) {
            return http.fail_closed("the request headers could not be changed", status);
        }
        if outcome.decision.refuses() {
            return http.reply(&outcome.reply());
        }
        match hand_on(&outcome, http) {
            Ok(()) => Action::Continue,
            Err(status) => http.fail_closed("the identity could not be handed on", status),
        }
    }
}

fn edit(outcome: &Outcome<'_>, http: Http) -> Result<(), Status> {
    outcome.edits.iter().try_for_each(|edit| match edit {
        Edit::Remove(name) => http.remove_request_header(name),
        Edit::Set(name, value) => http.set_request_header(name, value),
    })
}

/// On every request that passes: the filters after this one must see that it ran.
fn hand_on(outcome: &Outcome<'_>, http: Http) -> Result<(), Status> {
    if let Some(principal) = outcome.principal() {
        http.set_state(PRINCIPAL_STATE, principal)?;
    }
    http.set_state(TOKEN_STATE, outcome.state())
}

export!(JwtFilter: request_headers);
