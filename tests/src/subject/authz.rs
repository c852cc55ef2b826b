//! `authz`: AuthorizationPolicy.

use sailcloth_authz::{self as authz, Answer, Ask, Ruling};
use sailcloth_core::config::Node;
use sailcloth_core::decision::Decision;
use sailcloth_core::facts::Facts;
use sailcloth_core::headers::HeaderBlock;
use sailcloth_core::request::Request;

use super::{Engine, Exchange, Loaded, Subject, decided, observed, remove, request, set};
use crate::judge::Observed;
use crate::provider;

pub(super) const SUBJECT: Subject =
    Subject { name: "authz", load, callbacks: &["proxy_on_request_headers", "proxy_on_http_call_response"] };

fn load(configuration: &Node) -> Loaded {
    let (engine, warnings) = authz::Engine::load_node(configuration)?;
    Ok((Box::new(Authz(engine)), warnings))
}

struct Authz(authz::Engine);

impl Engine for Authz {
    fn decide(&mut self, exchange: &Exchange<'_>) -> Observed {
        let now = || exchange.now_ns / 1_000_000_000;
        let facts = Facts::new(exchange.properties, self.0.sources());
        let mut headers = without(exchange.headers, &self.0.forged(exchange.headers));
        let mut from = 0;
        loop {
            match self.0.ask(Request { headers: &headers, facts }, &now, from) {
                Ok(None) => break,
                Ok(Some(ask)) => {
                    let ruling = ruling(&ask, &headers);
                    if let Some(decision) = self.0.ruled(&ruling, ask.by).filter(Decision::refuses) {
                        return refused(&decision, ruling);
                    }
                    headers = edited(&headers, &ruling);
                    from = ask.number + 1;
                }
                Err(decision) => return observed(&decision, Some(&decision.reply()), request(&headers)),
            }
        }
        let view = Request { headers: &headers, facts };
        let outcome = self.0.decide(view, &now);
        let decision = &outcome.enforced;
        let refusal = decision.refuses().then(|| self.0.refusal(&outcome, &view));
        let mut seen = observed(decision, refusal.as_ref().map(|r| &r.reply), request(&headers));
        if let Some(refusal) = refusal {
            let written = refusal.headers.into_iter().map(|(name, value)| (name, value.into_bytes()));
            seen.headers.get_or_insert_default().extend(written);
        }
        Observed { shadow: outcome.shadow.as_ref().map(decided), ..seen }
    }

    fn resources(&self) -> Vec<(&'static str, usize)> {
        self.0.resources()
    }
}

/// What the tests' provider says.
fn ruling(ask: &Ask<'_>, headers: &HeaderBlock) -> Ruling {
    if ask.provider.cluster.starts_with("missing") {
        return ask.provider.rule(Answer::Failed);
    }
    match provider::answer(&ask.provider.question(headers)) {
        provider::Reply::Silence => ask.provider.rule(Answer::Failed),
        provider::Reply::Response(status, headers, body) => {
            let headers = HeaderBlock::from_pairs(headers);
            ask.provider.rule(Answer::Response { status, headers: &headers, body: body.as_bytes() })
        }
    }
}

fn refused(decision: &Decision<'_>, ruling: Ruling) -> Observed {
    let mut seen = observed(decision, Some(&decision.reply()), Vec::new());
    if let Ruling::Refuse { headers, body, .. } = ruling {
        seen.headers = Some(headers);
        seen.body = Some(body);
    }
    seen
}

fn without(headers: &HeaderBlock, names: &[&[u8]]) -> HeaderBlock {
    HeaderBlock::from_pairs(headers.iter().filter(|(name, _)| !names.contains(name)))
}

fn edited(headers: &HeaderBlock, ruling: &Ruling) -> HeaderBlock {
    let mut all = request(headers);
    if let Ruling::Allow { set: written, remove: removed } = ruling {
        removed.iter().for_each(|name| remove(&mut all, name));
        written.iter().for_each(|(name, value)| set(&mut all, name, value));
    }
    HeaderBlock::from_pairs(all)
}
