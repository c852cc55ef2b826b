//! The `routing` filter: `VirtualService` in a stock Envoy. Callbacks in, actions out; the decisions are
//! `sailcloth-routing`'s.

use sailcloth_core::config::{Node, Problem};
use sailcloth_core::decision::{Decision, Filter};
use sailcloth_core::facts::Facts;
use sailcloth_core::request::Request;
use sailcloth_host::metrics::{Counters, name};
use sailcloth_host::{Action, Http, Plugin, Status, export, random};
use sailcloth_routing::{Effects, Engine, Outcome};

/// Filter state with the decision, for access logs.
const STATE: &str = "sailcloth.routing";

struct Routing {
    engine: Engine,
    /// By rule, destination and reason.
    decisions: Counters<(Option<usize>, Option<usize>, &'static str)>,
}

impl Plugin for Routing {
    const FILTER: Filter = Filter::Routing;
    type Stream = ();

    fn configure(configuration: &Node) -> Result<(Self, Vec<Problem>), Vec<Problem>> {
        let (engine, warnings) = Engine::load_node(configuration)?;
        Ok((Self { engine, decisions: Counters::default() }, warnings))
    }

    fn resources(&self) -> Vec<(&'static str, usize)> {
        self.engine.resources()
    }

    fn request_headers(&mut self, (): &mut (), http: Http) -> Action {
        let headers = match http.request_headers() {
            Ok(headers) => headers,
            Err(status) => return http.fail_closed("the request's headers cannot be read", status),
        };
        let random = match random::next() {
            Ok(random) => random,
            Err(status) => return http.fail_closed("there is no randomness to draw with", status),
        };
        let request = Request { headers: &headers, facts: Facts::new(&http, self.engine.sources()) };
        let outcome = self.engine.decide(&request, random);
        count(&mut self.decisions, &outcome);
        if outcome.decision.refuses() {
            return http.reply(&outcome.decision.reply());
        }
        match carry_out(&outcome, http) {
            Ok(()) => Action::Continue,
            Err(status) => http.fail_closed("the choice cannot be carried out", status),
        }
    }
}

fn carry_out(outcome: &Outcome<'_>, http: Http) -> Result<(), Status> {
    http.set_state(STATE, outcome.decision.state().as_bytes())?;
    let Effects { remove, set } = &outcome.effects;
    remove.iter().try_for_each(|name| http.remove_request_header(name))?;
    set.iter().try_for_each(|(name, value)| http.set_request_header(name, value.as_bytes()))
}

fn count(decisions: &mut Counters<(Option<usize>, Option<usize>, &'static str)>, outcome: &Outcome<'_>) {
    let Decision { verdict, by, reason, .. } = &outcome.decision;
    let (arm, label) = outcome.arm().unzip();
    decisions.count((by.map(|by| by.id), arm, reason.code), || {
        let rule = by.map_or_else(|| "none".to_owned(), |by| by.rule.to_string());
        let labels = [
            ("policy", by.map_or("none", |by| by.policy)),
            ("rule", &rule),
            ("outcome", verdict.name()),
            ("reason", reason.code),
            ("arm", label.unwrap_or("none")),
        ];
        name("sailcloth_routing_decisions_total", &labels)
    });
}

export!(Routing: request_headers);
