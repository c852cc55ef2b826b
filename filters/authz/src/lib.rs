//! AuthorizationPolicy as a proxy-wasm filter: builds the request view, asks the engine, carries out its decision.

use sailcloth_authz::Engine;
use sailcloth_core::config::{Node, Problem};
use sailcloth_core::decision::Filter;
use sailcloth_core::facts::Facts;
use sailcloth_core::request::Request;
use sailcloth_host::metrics::DecisionCounters;
use sailcloth_host::{Action, Http, Plugin};

/// Filter state that the guard at the end of the chain asks for, and that access logs show.
const STATE: &str = "sailcloth.authz";

struct AuthzFilter {
    engine: Engine,
    decisions: DecisionCounters,
}

impl Plugin for AuthzFilter {
    const FILTER: Filter = Filter::Authz;
    type Stream = ();

    fn configure(configuration: &Node) -> Result<(Self, Vec<Problem>), Vec<Problem>> {
        Engine::load_node(configuration)
            .map(|(engine, warnings)| (Self { engine, decisions: DecisionCounters::default() }, warnings))
    }

    fn resources(&self) -> Vec<(&'static str, usize)> {
        self.engine.resources()
    }

    fn request_headers(&mut self, (): &mut (), http: Http) -> Action {
        let headers = match http.request_headers() {
            Ok(headers) => headers,
            Err(status) => return http.fail_closed("request headers", status),
        };
        let request = Request { headers: &headers, facts: Facts::new(&http, self.engine.sources()) };
        let outcome = self.engine.decide(request);
        self.decisions.count(&outcome.enforced);
        if let Some(shadow) = &outcome.shadow {
            self.decisions.count(shadow);
        }
        if outcome.enforced.refuses() {
            return http.reply(&outcome.enforced.reply());
        }
        match http.set_state(STATE, outcome.enforced.state().as_bytes()) {
            Ok(()) => Action::Continue,
            Err(status) => http.fail_closed("filter state", status),
        }
    }
}

sailcloth_host::export!(AuthzFilter: request_headers);
