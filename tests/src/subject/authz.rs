//! `authz`: AuthorizationPolicy.

use sailcloth_authz as authz;
use sailcloth_core::config::Node;
use sailcloth_core::decision::Decision;
use sailcloth_core::facts::Facts;
use sailcloth_core::request::Request;

use super::{Engine, Exchange, Loaded, Subject};
use crate::judge::{Decided, Observed};

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
        Observed { shadow: outcome.shadow.as_ref().map(decided), ..refusal_or_pass(&outcome.enforced) }
    }

    fn resources(&self) -> Vec<(&'static str, usize)> {
        self.0.resources()
    }
}

fn decided(decision: &Decision<'_>) -> Decided {
    Decided::of_state(&decision.state()).expect("a decision's state reads back")
}

/// What the client sees of a decision.
fn refusal_or_pass(decision: &Decision<'_>) -> Observed {
    let mut observed = Observed { decided: Some(decided(decision)), ..Observed::default() };
    if decision.refuses() {
        let reply = decision.reply();
        observed.status = Some(reply.status);
        observed.body = Some(reply.body.as_bytes().to_vec());
        observed.headers = Some(
            reply
                .headers
                .iter()
                .map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec()))
                .collect(),
        );
    } else {
        observed.status = Some(200);
        observed.headers = Some(Vec::new());
    }
    observed
}
