//! `ratelimit`: RateLimit.

use std::collections::HashMap;

use sailcloth_core::config::Node;
use sailcloth_core::decision::Decision;
use sailcloth_core::facts::Facts;
use sailcloth_core::request::Request;
use sailcloth_ratelimit::{
    self as ratelimit, Moment, Outcome, RowKey, Seed, Store, StoreError, Stored, Worker,
};

use super::{Engine, Exchange, Loaded, Subject};
use crate::judge::{Decided, Observed};

pub(super) const SUBJECT: Subject = Subject {
    name: "ratelimit",
    load,
    callbacks: &[
        "proxy_on_request_headers",
        "proxy_on_response_headers",
        "proxy_on_grpc_receive",
        "proxy_on_grpc_close",
        "proxy_on_tick",
    ],
};

fn load(configuration: &Node) -> Loaded {
    let (engine, warnings) = ratelimit::Engine::load_node(configuration)?;
    Ok((Box::new(RateLimit { engine, store: Memory::default(), worker: Worker::default() }), warnings))
}

struct RateLimit {
    engine: ratelimit::Engine,
    store: Memory,
    worker: Worker,
}

impl Engine for RateLimit {
    fn decide(&mut self, exchange: &Exchange<'_>) -> Observed {
        let facts = Facts::new(exchange.properties, self.engine.sources());
        let request = Request { headers: exchange.headers, facts };
        let moment = Moment { now: exchange.now_ns, seed: Seed::new(1, 2) };
        let step = self.engine.decide(&request, moment, &mut self.store, &mut self.worker);
        observed(&step.outcome.expect("rate limit services have a suite of their own"))
    }

    fn resources(&self) -> Vec<(&'static str, usize)> {
        self.engine.resources()
    }
}

fn decided(decision: &Decision<'_>) -> Decided {
    Decided::of_state(&decision.state()).expect("a decision's state reads back")
}

/// What the client sees of a decision.
fn observed(outcome: &Outcome<'_>) -> Observed {
    let mut observed = Observed {
        decided: Some(decided(&outcome.enforced)),
        shadow: outcome.shadow.as_ref().map(decided),
        status: Some(200),
        headers: Some(outcome.after.headers.clone()),
        ..Observed::default()
    };
    if let Some(refusal) = &outcome.refusal {
        let bytes = |text: &str| text.as_bytes().to_vec();
        let own = refusal.reply.headers.iter().map(|(name, value)| ((*name).to_owned(), bytes(value)));
        let more = refusal.headers.iter().map(|(name, value)| (name.clone(), bytes(value)));
        observed.status = Some(refusal.reply.status);
        observed.body = Some(bytes(&refusal.reply.body));
        observed.headers = Some(own.chain(more).collect());
    }
    observed
}

/// The shared store of one process.
#[derive(Default)]
struct Memory(HashMap<RowKey, (Vec<u8>, u32)>);

impl Store for Memory {
    fn read(&mut self, row: RowKey) -> Result<Stored, StoreError> {
        Ok(self.0.get(&row).cloned())
    }

    fn write(&mut self, row: RowKey, value: &[u8], expected: Option<u32>) -> Result<bool, StoreError> {
        let version = self.0.get(&row).map(|(_, version)| *version);
        if version != expected {
            return Ok(false);
        }
        self.0.insert(row, (value.to_vec(), version.unwrap_or(0) + 1));
        Ok(true)
    }
}
