//! `RateLimit` in Envoy: callbacks in, actions out; the decisions are `sailcloth-ratelimit`'s.

use sailcloth_core::config::{Node, Problem};
use sailcloth_core::decision::Filter;
use sailcloth_core::facts::Facts;
use sailcloth_core::request::Request;
use sailcloth_host::metrics::{Counters, DecisionCounters, name};
use sailcloth_host::shared::{self, Version, Write};
use sailcloth_host::{Action, Http, Plugin, Status, clock, random};
use sailcloth_ratelimit::{Engine, Moment, Outcome, RowKey, SEED_KEY, Seed, Store, StoreError};

/// The filter.
struct RateLimitFilter {
    engine: Engine,
    seed: Option<Seed>,
    decisions: DecisionCounters,
    retries: Counters<usize>,
}

impl Plugin for RateLimitFilter {
    const FILTER: Filter = Filter::RateLimit;
    type Stream = ();

    fn configure(configuration: &Node) -> Result<(Self, Vec<Problem>), Vec<Problem>> {
        let (engine, warnings) = Engine::load_node(configuration)?;
        let (decisions, retries) = (DecisionCounters::default(), Counters::default());
        Ok((Self { engine, seed: None, decisions, retries }, warnings))
    }

    fn resources(&self) -> Vec<(&'static str, usize)> {
        self.engine.resources()
    }

    fn request_headers(&mut self, (): &mut (), http: Http) -> Action {
        let headers = match http.request_headers() {
            Ok(headers) => headers,
            Err(status) => return http.fail_closed("request headers could not be read", status),
        };
        let moment = match self.moment() {
            Ok(moment) => moment,
            Err(status) => return http.fail_closed("no clock or no hash seed", status),
        };
        let request = Request { headers: &headers, facts: Facts::new(&http, self.engine.sources()) };
        let outcome = self.engine.decide(&request, moment, &mut Shared);
        count(&mut self.decisions, &mut self.retries, &outcome);
        if let Err(status) = http.set_state("sailcloth.ratelimit", outcome.enforced.state().as_bytes()) {
            return http.fail_closed("the decision could not be handed on", status);
        }
        match &outcome.refusal {
            Some(refusal) => http.reply_with(&refusal.reply, refusal.headers),
            None => Action::Continue,
        }
    }
}

impl RateLimitFilter {
    fn moment(&mut self) -> Result<Moment, Status> {
        let seed = match self.seed {
            Some(seed) => seed,
            None => common_seed()?,
        };
        self.seed = Some(seed);
        Ok(Moment { now: clock::monotonic_nanoseconds()?, seed })
    }
}

/// The seed that all workers use: the first one to need it writes it, the others read it.
fn common_seed() -> Result<Seed, Status> {
    if shared::read(SEED_KEY)?.is_none() {
        let seed = Seed::new(random::next()?, random::next()?);
        // Whoever loses this race reads the winner's.
        let _ = shared::write(SEED_KEY, &seed.to_bytes(), None)?;
    }
    let stored = shared::read(SEED_KEY)?.and_then(|(bytes, _)| Seed::from_bytes(&bytes));
    stored.ok_or(Status::SerializationFailure)
}

fn count(decisions: &mut DecisionCounters, retries: &mut Counters<usize>, outcome: &Outcome<'_>) {
    for decision in &outcome.said {
        decisions.count(decision);
    }
    for (rule, times) in &outcome.retries {
        retries.add(rule.id, *times, || {
            let labels = [("policy", rule.policy), ("rule", &rule.rule.to_string())];
            name("sailcloth_ratelimit_retries_total", &labels)
        });
    }
}

/// Envoy's shared data as the engine's store.
struct Shared;

impl Store for Shared {
    type Version = Version;

    fn read(&mut self, row: RowKey) -> Result<Option<(Vec<u8>, Version)>, StoreError> {
        shared::read(row.text().as_bytes()).map_err(failed)
    }

    fn write(&mut self, row: RowKey, value: &[u8], expected: Option<Version>) -> Result<bool, StoreError> {
        shared::write(row.text().as_bytes(), value, expected)
            .map(|write| write == Write::Done)
            .map_err(failed)
    }
}

fn failed(status: Status) -> StoreError {
    StoreError(status.name())
}

sailcloth_host::export!(RateLimitFilter: request_headers);
