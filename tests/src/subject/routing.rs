//! `routing`: VirtualService.

use sailcloth_core::config::Node;
use sailcloth_core::facts::Facts;
use sailcloth_core::request::Request;

use super::{Engine, Exchange, Loaded, Subject, observed, remove, request, set};
use crate::judge::Observed;

pub(super) const SUBJECT: Subject =
    Subject { name: "routing", load, callbacks: &["proxy_on_request_headers"] };

fn load(configuration: &Node) -> Loaded {
    let (engine, warnings) = sailcloth_routing::Engine::load_node(configuration)?;
    Ok((Box::new(Routing { engine, random: 0 }), warnings))
}

struct Routing {
    engine: sailcloth_routing::Engine,
    random: u64,
}

impl Engine for Routing {
    fn decide(&mut self, exchange: &Exchange<'_>) -> Observed {
        // Any sequence that spreads: what a draw decides no case can expect.
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let facts = Facts::new(exchange.properties, self.engine.sources());
        let asked = Request { headers: exchange.headers, facts };
        let outcome = self.engine.decide(&asked, self.random);
        let mut upstream = request(exchange.headers);
        outcome.effects.remove.iter().for_each(|name| remove(&mut upstream, name));
        outcome.effects.set.iter().for_each(|(name, value)| set(&mut upstream, name, value.as_bytes()));
        // Shipped routes remove it.
        remove(&mut upstream, sailcloth_routing::CLUSTER_HEADER);
        let reply = outcome.decision.refuses().then(|| outcome.decision.reply());
        Observed {
            cluster: outcome.cluster().map(str::to_owned),
            arm: outcome.arm().map(|(_, label)| label.to_owned()),
            ..observed(&outcome.decision, reply.as_ref(), upstream)
        }
    }

    fn resources(&self) -> Vec<(&'static str, usize)> {
        self.engine.resources()
    }
}
