//! The `routing` filter: `VirtualService` in a stock Envoy. Callbacks in, actions out; the decisions are
//! `sailcloth-routing`'s.

mod held;

use sailcloth_core::config::{Node, Problem};
use sailcloth_core::decision::{Decision, Filter};
use sailcloth_core::facts::Facts;
use sailcloth_core::request::Request;
use sailcloth_host::metrics::{self, Counters, name};
use sailcloth_host::{Action, Http, Plugin, Status, StreamId, Streams, export, random};
use sailcloth_routing::{Answer, Edit, Engine, Outcome};

use held::{Deadline, Held};

/// Filter state with the decision, for access logs.
const STATE: &str = "sailcloth.routing";

/// Filter state with the decision of documents in shadow mode.
const SHADOW_STATE: &str = "sailcloth.routing.shadow";

/// Filter state that native routes match, and the destination's name beside it.
const ROUTE_STATE: &str = "sailcloth.route";
const ARM_STATE: &str = "sailcloth.arm";

/// By rule, destination, reason and outcome.
type Decisions = Counters<(Option<usize>, Option<usize>, &'static str, &'static str)>;

struct Routing {
    engine: Engine,
    decisions: Decisions,
    held: Held,
}

/// What a stream still has to come.
#[derive(Default)]
struct Stream {
    response: Vec<Edit<'static>>,
    held: Option<Deadline>,
}

impl Plugin for Routing {
    const FILTER: Filter = Filter::Routing;
    type Stream = Stream;

    fn configure(configuration: &Node) -> Result<(Self, Vec<Problem>), Vec<Problem>> {
        let (engine, warnings) = Engine::load_node(configuration)?;
        Ok((Self { engine, decisions: Counters::default(), held: Held::default() }, warnings))
    }

    fn resources(&self) -> Vec<(&'static str, usize)> {
        self.engine.resources()
    }

    fn request_headers(&mut self, stream: &mut Stream, http: Http) -> Action {
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
        count(&mut self.decisions, &outcome.decision, outcome.arm());
        if let Some(shadow) = &outcome.shadow {
            count(&mut self.decisions, &shadow.decision, shadow.arm());
        }
        if outcome.decision.refuses() {
            return http.reply(&outcome.decision.reply());
        }
        if let Err(status) = prepare(&outcome, http) {
            return http.fail_closed("the choice cannot be carried out", status);
        }
        let Outcome { decision, response, delay, answer, .. } = outcome;
        stream.response = response.into_iter().map(Edit::into_owned).collect();
        let details = answer.as_ref().map(|_| decision.details()).unwrap_or_default();
        let Some(delay) = delay else {
            return match answer {
                Some(answer) => give(&answer, &details, http),
                None => Action::Continue,
            };
        };
        match self.held.hold(http.stream(), delay, answer.map(|answer| (answer.into_owned(), details))) {
            Ok(deadline) => {
                stream.held = Some(deadline);
                Action::Stop
            }
            Err(status) => http.fail_closed("there is no timer to delay with", status),
        }
    }

    fn response_headers(&mut self, stream: &mut Stream, http: Http) -> Action {
        for edit in std::mem::take(&mut stream.response) {
            if let Err(status) = edit_response(&edit, http) {
                return http.fail_closed("the response cannot be edited", status);
            }
        }
        Action::Continue
    }

    fn tick(&mut self, streams: &mut Streams<'_, Self>) {
        for (id, answer) in self.held.due() {
            let Some((stream, http)) = streams.get(id) else { continue };
            stream.held = None;
            match answer {
                Some((answer, details)) => drop(give(&answer, &details, http)),
                None => {
                    if let Err(status) = http.continue_request() {
                        http.fail_closed("the request cannot be continued", status);
                    }
                }
            }
        }
    }

    fn ended(&mut self, id: StreamId, stream: Stream) {
        if let Some(deadline) = stream.held {
            self.held.forget(deadline, id);
        }
    }
}

/// Writes the decision and edits the request.
fn prepare(outcome: &Outcome<'_>, http: Http) -> Result<(), Status> {
    http.set_state(STATE, outcome.decision.state().as_bytes())?;
    if let Some(route) = outcome.route {
        http.set_state(ROUTE_STATE, route.as_bytes())?;
        http.set_state(ARM_STATE, outcome.arm().map_or("none", |(_, label)| label).as_bytes())?;
    }
    if let Some(shadow) = &outcome.shadow {
        let arm = shadow.arm().map_or("none", |(_, label)| label);
        http.set_state(SHADOW_STATE, format!("{} {arm}", shadow.decision.state()).as_bytes())?;
    }
    outcome.request.iter().try_for_each(|edit| match edit {
        Edit::Remove(name) => http.remove_request_header(name),
        Edit::Set(name, value) => http.set_request_header(name, value),
        Edit::Add(name, value) => http.add_request_header(name, value),
    })
}

fn edit_response(edit: &Edit<'_>, http: Http) -> Result<(), Status> {
    match edit {
        Edit::Remove(name) => http.remove_response_header(name),
        Edit::Set(name, value) => http.set_response_header(name, value),
        Edit::Add(name, value) => http.add_response_header(name, value),
    }
}

fn give(answer: &Answer<'_>, details: &str, http: Http) -> Action {
    let headers: Vec<(&str, &[u8])> = answer.headers.iter().map(|(name, value)| (*name, &**value)).collect();
    http.answer(answer.status, answer.grpc_status, &headers, &answer.body, details)
}

fn count(decisions: &mut Decisions, decision: &Decision<'_>, arm: Option<(usize, &str)>) {
    let Decision { by, reason, .. } = decision;
    let (number, label) = arm.unzip();
    let outcome = metrics::outcome(decision);
    decisions.count((by.map(|by| by.id), number, reason.code, outcome), || {
        let rule = by.map_or_else(|| "none".to_owned(), |by| by.rule.to_string());
        let labels = [
            ("policy", by.map_or("none", |by| by.policy)),
            ("rule", &rule),
            ("outcome", outcome),
            ("reason", reason.code),
            ("arm", label.unwrap_or("none")),
        ];
        name("sailcloth_routing_decisions_total", &labels)
    });
}

export!(Routing: request_headers, response_headers, tick);
