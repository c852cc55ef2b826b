//! `RateLimit` in Envoy: callbacks in, actions out; the decisions are `sailcloth-ratelimit`'s.

mod counters;
mod shared_rows;

use std::collections::HashMap;
use std::time::Duration;

use sailcloth_core::config::{Node, Problem};
use sailcloth_core::decision::Filter;
use sailcloth_core::facts::Facts;
use sailcloth_core::headers::HeaderBlock;
use sailcloth_core::request::Request;
use sailcloth_host::callout::{GrpcAnswer, GrpcService, GrpcToken};
use sailcloth_host::{Action, Http, Plugin, Status, StreamId, Streams, clock, log, timer};
use sailcloth_ratelimit::{
    After, Asking, Engine, Failure, Moment, Outcome, RLS_METHOD, RLS_SERVICE, Seed, Step, Worker,
};

use counters::{CallResult, Counts};
use shared_rows::{SharedRows, common_seed};

/// How long after its own deadline a call is given up that Envoy has never answered.
const PATIENCE: Duration = Duration::from_secs(1);

/// The filter.
struct RateLimitFilter {
    engine: Engine,
    seed: Option<Seed>,
    worker: Worker,
    counts: Counts,
    /// Of each service of the engine.
    services: Vec<GrpcService>,
    /// Calls under way: bounded by what Envoy answers, which is every call once.
    calls: HashMap<GrpcToken, Waiting>,
}

/// Who waits for a call.
struct Waiting {
    service: usize,
    deadline: u64,
    who: Who,
}

enum Who {
    /// A request; which of its calls it is.
    Request { stream: StreamId, call: usize },
    /// Nobody: a rule in shadow mode.
    Shadow(Box<Asking>),
}

/// What is kept for a stream.
#[derive(Default)]
struct Stream {
    asking: Option<Box<Asking>>,
    after: Option<Box<After>>,
}

impl Plugin for RateLimitFilter {
    const FILTER: Filter = Filter::RateLimit;
    type Stream = Stream;

    fn configure(configuration: &Node) -> Result<(Self, Vec<Problem>), Vec<Problem>> {
        let (engine, warnings) = Engine::load_node(configuration)?;
        let services =
            engine.services().iter().map(|service| GrpcService::in_cluster(&service.cluster)).collect();
        let filter = Self {
            engine,
            seed: None,
            worker: Worker::default(),
            counts: Counts::default(),
            services,
            calls: HashMap::new(),
        };
        Ok((filter, warnings))
    }

    fn resources(&self) -> Vec<(&'static str, usize)> {
        self.engine.resources()
    }

    fn start(&mut self) {
        // Envoy answers every call; the tick is for the day it does not. Without it such a request would hang.
        if !self.services.is_empty()
            && let Err(status) = timer::set_period(Some(PATIENCE))
        {
            log::error(&format!("ratelimit: no timer: {}", status.name()));
        }
    }

    fn request_headers(&mut self, stream: &mut Stream, http: Http) -> Action {
        let headers = match self.headers(http) {
            Ok(headers) => headers,
            Err(status) => return http.fail_closed("request headers could not be read", status),
        };
        let moment = match self.moment() {
            Ok(moment) => moment,
            Err(status) => return http.fail_closed("no clock or no hash seed", status),
        };
        let request = Request { headers: &headers, facts: Facts::new(&http, self.engine.sources()) };
        let Step { outcome, asking, shadows } =
            self.engine.decide(&request, moment, &mut SharedRows, &mut self.worker);
        if let Some(outcome) = outcome {
            let action = carry_out(&mut self.counts, stream, &outcome, http);
            self.ask_for_shadows(shadows, moment);
            return action;
        }
        let Some(mut asking) = asking else { return Action::Continue };
        for call in 0..asking.calls.len() {
            self.ask(&mut asking, call, http.stream(), moment);
        }
        self.ask_for_shadows(shadows, moment);
        if let Some(outcome) = self.engine.finish(&mut asking, moment, &mut SharedRows, &mut self.worker) {
            return carry_out(&mut self.counts, stream, &outcome, http);
        }
        stream.asking = Some(Box::new(asking));
        Action::Stop
    }

    fn response_headers(&mut self, stream: &mut Stream, http: Http) -> Action {
        if let Some(after) = stream.after.take() {
            self.finish_response(&after, http);
        }
        Action::Continue
    }

    fn grpc_answer(
        &mut self,
        streams: &mut Streams<'_, Self>,
        _: Option<StreamId>,
        token: GrpcToken,
        answer: GrpcAnswer,
    ) {
        let Some(waiting) = self.calls.remove(&token) else { return };
        self.take_in(streams, waiting, &answer);
    }

    fn tick(&mut self, streams: &mut Streams<'_, Self>) {
        if self.calls.is_empty() {
            return;
        }
        let Ok(now) = clock::monotonic_nanoseconds() else { return };
        let late = self.calls.iter().filter(|(_, waiting)| waiting.deadline <= now);
        let tokens: Vec<GrpcToken> = late.map(|(token, _)| *token).collect();
        for token in tokens {
            if let Some(waiting) = self.calls.remove(&token) {
                // 4: DEADLINE_EXCEEDED.
                self.take_in(streams, waiting, &GrpcAnswer::Closed(4));
            }
        }
    }
}

impl RateLimitFilter {
    /// The request headers; where no rule looks at any, they are not fetched.
    fn headers(&self, http: Http) -> Result<HeaderBlock, Status> {
        if self.engine.reads_headers() { http.request_headers() } else { Ok(HeaderBlock::default()) }
    }

    fn moment(&mut self) -> Result<Moment, Status> {
        let seed = match self.seed {
            Some(seed) => seed,
            None => common_seed()?,
        };
        self.seed = Some(seed);
        Ok(Moment { now: clock::monotonic_nanoseconds()?, seed })
    }

    /// Makes one of the calls of a request, or takes in at once that it cannot be made.
    fn ask(&mut self, asking: &mut Asking, call: usize, stream: StreamId, moment: Moment) {
        match self.send(asking, call, moment) {
            Some((token, service, deadline)) => {
                let who = Who::Request { stream, call };
                self.calls.insert(token, Waiting { service, deadline, who });
            }
            None => {
                self.engine.answer(asking, call, Err(Failure), moment, &mut SharedRows, &mut self.worker);
            }
        }
    }

    fn ask_for_shadows(&mut self, shadows: Vec<Asking>, moment: Moment) {
        for asking in shadows {
            let mut asking = Box::new(asking);
            match self.send(&asking, 0, moment) {
                Some((token, service, deadline)) => {
                    self.calls.insert(token, Waiting { service, deadline, who: Who::Shadow(asking) });
                }
                None => {
                    self.answer_shadow(&mut asking, Err(Failure), moment);
                }
            }
        }
    }

    /// Makes a call: its token, its service, and when to give it up.
    fn send(&mut self, asking: &Asking, call: usize, moment: Moment) -> Option<(GrpcToken, usize, u64)> {
        let call = asking.calls.get(call)?;
        let service = self.services.get(call.service)?;
        if !self.engine.may_call(call, moment.now, &mut self.worker) {
            self.counts.call(call.service, &self.engine, CallResult::BreakerOpen);
            return None;
        }
        let Ok(token) = service.call(RLS_SERVICE, RLS_METHOD, &call.message, call.timeout) else {
            self.engine.note_call(call.service, false, moment.now, &mut self.worker);
            self.counts.call(call.service, &self.engine, CallResult::Refused);
            return None;
        };
        let patience = call.timeout.saturating_add(PATIENCE).as_nanos();
        let deadline = moment.now.saturating_add(u64::try_from(patience).unwrap_or(u64::MAX));
        Some((token, call.service, deadline))
    }

    /// Takes in an answer, and decides the request that waited for it.
    fn take_in(&mut self, streams: &mut Streams<'_, Self>, waiting: Waiting, answer: &GrpcAnswer) {
        let Waiting { service, who, .. } = waiting;
        let moment = self.moment();
        let message = match answer {
            GrpcAnswer::Message(message) => Ok(message.as_slice()),
            GrpcAnswer::Closed(_) => Err(Failure),
        };
        let readable = message.is_ok_and(Engine::is_answer);
        let now = moment.map_or(0, |moment| moment.now);
        self.engine.note_call(service, readable, now, &mut self.worker);
        self.counts.call(service, &self.engine, CallResult::of(answer, readable));
        match (who, moment) {
            (Who::Request { stream, call }, moment) => {
                if let Some((state, http)) = streams.get(stream) {
                    self.answer_request(state, http, call, message, moment);
                }
            }
            (Who::Shadow(mut asking), Ok(moment)) => self.answer_shadow(&mut asking, message, moment),
            (Who::Shadow(_), Err(_)) => {}
        }
    }

    fn answer_request(
        &mut self,
        stream: &mut Stream,
        http: Http,
        call: usize,
        message: Result<&[u8], Failure>,
        moment: Result<Moment, Status>,
    ) {
        let Some(mut asking) = stream.asking.take() else { return };
        let moment = match moment {
            Ok(moment) => moment,
            Err(status) => {
                http.fail_closed("no clock or no hash seed", status);
                return;
            }
        };
        self.engine.answer(&mut asking, call, message, moment, &mut SharedRows, &mut self.worker);
        let outcome = self.engine.finish(&mut asking, moment, &mut SharedRows, &mut self.worker);
        let Some(outcome) = outcome else {
            stream.asking = Some(asking);
            return;
        };
        let action = carry_out(&mut self.counts, stream, &outcome, http);
        if action == Action::Continue
            && let Err(status) = http.continue_request()
        {
            log::error(&format!("ratelimit: a request could not be continued: {}", status.name()));
        }
    }

    fn answer_shadow(&mut self, asking: &mut Asking, message: Result<&[u8], Failure>, moment: Moment) {
        self.engine.answer(asking, 0, message, moment, &mut SharedRows, &mut self.worker);
        if let Some(outcome) = self.engine.finish(asking, moment, &mut SharedRows, &mut self.worker) {
            self.counts.outcome(&outcome);
        }
    }

    fn finish_response(&mut self, after: &After, http: Http) {
        if after.settles()
            && let (Ok(headers), Ok(moment)) = (http.response_headers(), self.moment())
        {
            self.counts.slots(&self.engine.settle(after, &headers, moment, &mut SharedRows));
        }
        for (name, value) in &after.headers {
            // The response is there; a header that tells of a quota is no reason to take it away.
            let _ = http.set_response_header(name, value);
        }
    }
}

/// Counts a decision, hands it on, and does what it says.
fn carry_out(counts: &mut Counts, stream: &mut Stream, outcome: &Outcome<'_>, http: Http) -> Action {
    counts.outcome(outcome);
    if let Err(status) = http.set_state("sailcloth.ratelimit", outcome.enforced.state().as_bytes()) {
        return http.fail_closed("the decision could not be handed on", status);
    }
    if let Some(refusal) = &outcome.refusal {
        let written = refusal.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
        let service = refusal.service.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
        return http.reply_with_headers(&refusal.reply, written.chain(service));
    }
    for (name, value) in &outcome.upstream {
        if let Err(status) = http.set_request_header(name, value) {
            return http.fail_closed("a header of the rate limit service could not be set", status);
        }
    }
    if !outcome.after.is_empty() {
        stream.after = Some(Box::new(outcome.after.clone()));
    }
    Action::Continue
}

sailcloth_host::export!(RateLimitFilter: request_headers, response_headers, grpc_answer, tick);
