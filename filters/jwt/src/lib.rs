//! `jwt.wasm`: RequestAuthentication in stock Envoy. Callbacks in, actions out; the decisions are `sailcloth-jwt`'s.

mod keys;

use std::time::Duration;

use sailcloth_core::config::{Node, Problem};
use sailcloth_core::decision::Filter;
use sailcloth_core::facts::{Facts, TOKEN_STATE};
use sailcloth_core::request::Request;
use sailcloth_host::callout::{Answer, Token};
use sailcloth_host::metrics::DecisionCounters;
use sailcloth_host::{
    Action, Http, Plugin, Status, StreamId, Streams, clock, export, foreign, log, random, timer,
};
use sailcloth_jwt::{
    Algorithm, Algorithms, CannotVerify, Edit, Engine, Environment, FetchSettings, KeyStore, Outcome, Scheme,
    TokenCache, Verifier, Wait, Want,
};

use crate::keys::Fetches;

/// Filter state with the caller as text, for access logs, route matchers and native filters.
const PRINCIPAL_STATE: &str = "sailcloth.jwt.principal";

/// When keys are fetched for the first time: as soon as Envoy runs timers.
const AT_ONCE: Duration = Duration::from_millis(1);

/// The configured filter.
struct JwtFilter {
    engine: Engine,
    /// Made with the first request: its key is random, and configuring must not depend on chance.
    cache: Option<TokenCache>,
    keys: KeyStore<StreamId>,
    fetches: Fetches,
    decisions: DecisionCounters,
    period: Duration,
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

/// What becomes of a request.
enum Next {
    /// The second says what its wait came to, if it has waited.
    Act(Action, &'static str),
    /// It stops until the keys of this source have been fetched.
    Wait(usize),
}

impl Plugin for JwtFilter {
    const FILTER: Filter = Filter::Jwt;
    const MAX_ANSWER: usize = FetchSettings::MAX_BYTES;

    /// The source whose keys the request has waited for.
    type Stream = Option<usize>;

    fn configure(configuration: &Node) -> Result<(Self, Vec<Problem>), Vec<Problem>> {
        let (engine, warnings) = Engine::load_node(configuration, &ENVIRONMENT)?;
        let keys = engine.key_store();
        let (fetches, decisions) = (Fetches::default(), DecisionCounters::default());
        Ok((Self { engine, cache: None, keys, fetches, decisions, period: Duration::ZERO }, warnings))
    }

    fn resources(&self) -> Vec<(&'static str, usize)> {
        self.engine.resources()
    }

    fn start(&mut self) {
        if !self.keys.is_empty()
            && let Err(status) = self.set_period(AT_ONCE)
        {
            log::error(&format!("sailcloth jwt: no timer, keys are not refreshed: {}", status.name()));
        }
    }

    fn request_headers(&mut self, waits: &mut Option<usize>, http: Http) -> Action {
        let source = match self.decide(None, http) {
            Next::Act(action, _) => return action,
            Next::Wait(source) => source,
        };
        *waits = Some(source);
        if let Err(status) = self.set_period(self.keys.period()) {
            self.keys.forget(http.stream());
            return http.fail_closed("there is no timer to wait for keys by", status);
        }
        Action::Stop
    }

    fn ended(&mut self, id: StreamId, waits: Option<usize>) {
        if waits.is_some() {
            self.keys.forget(id);
        }
    }

    fn callout(
        &mut self,
        streams: &mut Streams<'_, Self>,
        _: Option<StreamId>,
        token: Token,
        answer: Answer,
    ) {
        let (Some(source), Ok(now)) = (self.fetches.answered(token), clock::monotonic_nanoseconds()) else {
            return;
        };
        let answer = match &answer {
            Answer::Response { status, headers, body } => sailcloth_jwt::Answer::Response {
                status: *status,
                cache_control: headers.first("cache-control"),
                body,
            },
            Answer::TooLarge => sailcloth_jwt::Answer::TooLarge,
            Answer::Failed => sailcloth_jwt::Answer::Failed,
        };
        self.keys.answer(source, &answer, now, &mut self.fetches);
        self.wake(now, streams);
    }

    fn tick(&mut self, streams: &mut Streams<'_, Self>) {
        // Without a clock every wait is over.
        let now = clock::monotonic_nanoseconds().unwrap_or(u64::MAX);
        if now < u64::MAX {
            self.keys.poll(now, &mut self.fetches);
            for (number, (source, note)) in self.keys.sources().enumerate() {
                self.fetches.show_age(number, source, note, now);
            }
        }
        self.wake(now, streams);
        // Refused: the ticks go on as they are.
        let _ = self.set_period(self.keys.period());
    }
}

impl JwtFilter {
    /// Decides about a request, or lets it wait; `since` is when it came, of one that has waited.
    fn decide(&mut self, since: Option<u64>, http: Http) -> Next {
        let headers = match http.request_headers() {
            Ok(headers) => headers,
            Err(status) => {
                return refused(http.fail_closed("the request headers could not be read", status));
            }
        };
        let now = match clock::system_time() {
            Ok(now) => now,
            Err(status) => return refused(http.fail_closed("the time could not be read", status)),
        };
        let cache = match &mut self.cache {
            Some(cache) => cache,
            none => match random::secret() {
                Ok(key) => none.insert(self.engine.cache(key)),
                Err(status) => return refused(http.fail_closed("there is no randomness", status)),
            },
        };
        let request = Request { headers: &headers, facts: Facts::new(&http, self.engine.sources()) };
        let mut again = true;
        loop {
            let outcome = self.engine.decide(&request, now, &self.keys, &Host, cache);
            let Some(source) = outcome.wants.first().map(Want::source) else {
                return act(&outcome, &mut self.decisions, http);
            };
            let Ok(moment) = clock::monotonic_nanoseconds() else {
                return act(&outcome, &mut self.decisions, http);
            };
            let since = since.unwrap_or(moment);
            let (id, report_only) = (http.stream(), !outcome.decision.refuses());
            match self.keys.wait(id, since, &outcome.wants, report_only, moment, &mut self.fetches) {
                // Once: two sets in one moment are for the next request.
                Wait::Again if again => again = false,
                Wait::Until => return Next::Wait(source),
                decided => {
                    let next = act(&outcome, &mut self.decisions, http);
                    if decided == Wait::Full {
                        self.count_wait(source, "full");
                    }
                    return next;
                }
            }
        }
    }

    /// Goes on with the requests that wait no longer.
    fn wake(&mut self, now: u64, streams: &mut Streams<'_, Self>) {
        for (id, since) in self.keys.ready(now) {
            let Some((waits, http)) = streams.get(id) else { continue };
            let Next::Act(action, outcome) = self.decide(Some(since), http) else { continue };
            if let Some(source) = waits.take() {
                self.count_wait(source, outcome);
            }
            if action == Action::Continue
                && let Err(status) = http.continue_request()
            {
                http.fail_closed("the request could not go on", status);
            }
        }
    }

    fn count_wait(&mut self, number: usize, outcome: &'static str) {
        if let Some(source) = self.keys.source(number) {
            self.fetches.count_wait(number, source, outcome);
        }
    }

    fn set_period(&mut self, period: Duration) -> Result<(), Status> {
        if period != self.period {
            timer::set_period(Some(period))?;
            self.period = period;
        }
        Ok(())
    }
}

fn act(outcome: &Outcome<'_>, decisions: &mut DecisionCounters, http: Http) -> Next {
    decisions.count(&outcome.decision);
    if let Err(status) = edit(outcome, http) {
        return refused(http.fail_closed("the request headers could not be changed", status));
    }
    if outcome.decision.refuses() {
        return refused(http.reply(&outcome.reply()));
    }
    match hand_on(outcome, http) {
        // In shadow a token that is refused passes, too.
        Ok(()) => Next::Act(Action::Continue, if outcome.token().is_some() { "found" } else { "refused" }),
        Err(status) => refused(http.fail_closed("the identity could not be handed on", status)),
    }
}

fn refused(action: Action) -> Next {
    Next::Act(action, "refused")
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

export!(JwtFilter: request_headers, callout, tick);
