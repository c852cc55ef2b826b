//! `authz`: AuthorizationPolicy.

use sailcloth_authz as authz;
use sailcloth_core::config::Node;
use sailcloth_core::facts::Facts;
use sailcloth_core::request::Request;

use super::{Engine, Exchange, Loaded, Subject, decided, observed, request};
use crate::judge::Observed;

pub(super) const SUBJECT: Subject = Subject { name: "authz", load, callbacks: &["proxy_on_request_headers"] };

fn load(configuration: &Node) -> Loaded {
    let (engine, warnings) = authz::Engine::load_node(configuration)?;
    Ok((Box::new(Authz(engine)), warnings))
}

struct Authz(authz::Engine);

impl Engine for Authz {
    fn decide(&mut self, exchange: &Exchange<'_>) -> Observed {
        let facts = Facts::new(exchange.properties, self.0.sources());
        let outcome = self.0.decide(Request { headers: exchange.headers, facts });
        let decision = &outcome.enforced;
        let reply = decision.refuses().then(|| decision.reply());
        Observed {
            shadow: outcome.shadow.as_ref().map(decided),
            ..observed(decision, reply.as_ref(), request(exchange.headers))
        }
    }

    fn resources(&self) -> Vec<(&'static str, usize)> {
        self.0.resources()
    }
}
