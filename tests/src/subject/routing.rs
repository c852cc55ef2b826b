//! `routing`: VirtualService.

use sailcloth_core::config::Node;
use sailcloth_core::facts::Facts;
use sailcloth_core::request::Request;
use sailcloth_routing::Edit;

use super::{Engine, Exchange, Loaded, Subject, decided, observed, remove, request, set};
use crate::case::Headers;
use crate::judge::Observed;

pub(super) const SUBJECT: Subject = Subject {
    name: "routing",
    load,
    callbacks: &["proxy_on_request_headers", "proxy_on_response_headers", "proxy_on_tick"],
};

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
        outcome.request.iter().for_each(|edit| apply(edit, &mut upstream));
        // Shipped routes remove it.
        remove(&mut upstream, sailcloth_routing::CLUSTER_HEADER);
        let (arm, cluster) = (outcome.arm(), outcome.cluster().map(str::to_owned));
        let reply = outcome.decision.refuses().then(|| outcome.decision.reply());
        let mut seen = Observed {
            shadow: outcome.shadow.as_ref().map(|shadow| decided(&shadow.decision)),
            cluster,
            arm: arm.map(|(_, label)| label.to_owned()),
            ..observed(&outcome.decision, reply.as_ref(), upstream)
        };
        if let Some(answer) = &outcome.answer {
            seen.status = Some(answer.status);
            seen.body = Some(answer.body.to_vec());
            seen.upstream = None;
            seen.cluster = None;
            seen.headers = Some(
                answer.headers.iter().map(|(name, value)| ((*name).to_owned(), value.to_vec())).collect(),
            );
        }
        if let Some(headers) = &mut seen.headers {
            outcome.response.iter().for_each(|edit| apply(edit, headers));
        }
        seen
    }

    fn resources(&self) -> Vec<(&'static str, usize)> {
        self.engine.resources()
    }
}

fn apply(edit: &Edit<'_>, headers: &mut Headers) {
    match edit {
        Edit::Remove(name) => remove(headers, name),
        Edit::Set(name, value) => set(headers, name, value),
        Edit::Add(name, value) => headers.push((name.to_string(), value.to_vec())),
    }
}
