//! Why a request was decided as it was: every match that was tried, and for each that failed the condition and the value it
//! met. For tools and tests; no request pays for it.

use std::fmt;

use sailcloth_core::decision::{Decision, RuleRef};
use sailcloth_core::facts::Fact;
use sailcloth_core::identity::Claim;
use sailcloth_core::request::Request;
use sailcloth_resources::virtual_service::StringMatch;

use crate::condition::{Conditions, PathCondition, View, params};
use crate::engine::{Engine, Entry, Side};

/// A decision with all that led to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation<'e> {
    /// What was decided.
    pub decision: Decision<'e>,
    /// The chosen destination's name.
    pub arm: Option<&'e str>,
    /// Every match of the host's rules in the order in which they are tried, up to the one that matched; none where nobody
    /// has rules for the host.
    pub tried: Vec<Tried<'e>>,
    /// The same of documents in shadow mode, up to their match.
    pub shadow: Vec<Tried<'e>>,
}

/// A match that was tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tried<'e> {
    /// Its rule.
    pub by: RuleRef<'e>,
    /// Its place in the rule's `match`.
    pub place: u32,
    /// Why it failed; `None` for the one that matched.
    pub miss: Option<Miss>,
}

/// The first condition of a match that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Miss {
    /// Where it is written in the match: `uri`, `headers["x-user"]`.
    pub field: String,
    /// What it asks for.
    pub wanted: String,
    /// What the request has there; bytes that are no text are replaced.
    pub met: Option<String>,
}

impl fmt::Display for Miss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` asks for {}, ", self.field, self.wanted)?;
        match &self.met {
            Some(met) => write!(f, "met `{met}`"),
            None => f.write_str("met nothing"),
        }
    }
}

impl fmt::Display for Tried<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{} match[{}]: ", self.by.policy, self.by.rule, self.place)?;
        match &self.miss {
            Some(miss) => miss.fmt(f),
            None => f.write_str("matches"),
        }
    }
}

impl Engine {
    /// [`Engine::decide`] with every match that was tried on the way.
    #[must_use]
    pub fn explain<'e>(&'e self, request: &'e Request<'e>, random: u64) -> Explanation<'e> {
        let outcome = self.decide(request, random);
        Explanation {
            arm: outcome.arm.map(|(_, arm)| arm.label.as_str()),
            decision: outcome.decision,
            tried: self.tried(&self.enforced, request),
            shadow: self.tried(&self.shadow, request),
        }
    }

    fn tried<'e>(&'e self, side: &'e Side, request: &'e Request<'e>) -> Vec<Tried<'e>> {
        let table = side.hosts.find(request.authority()).and_then(|table| side.tables.get(table));
        let view = View::new(request);
        let mut tried = Vec::new();
        for entry in table.map(|table| table.entries.as_slice()).unwrap_or_default() {
            let Some(rule) = self.rules.get(entry.rule) else { continue };
            let by = RuleRef { id: entry.rule, policy: &rule.policy, rule: rule.number };
            let miss = miss(entry, &view);
            let matches = miss.is_none();
            tried.push(Tried { by, place: entry.place, miss });
            if matches {
                break;
            }
        }
        tried
    }
}

/// The conditions in the order in which they are asked.
pub(crate) fn miss(entry: &Entry, view: &View<'_>) -> Option<Miss> {
    let Conditions { path, headers, params: asked, claims, port } = &*entry.conditions;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if !path.matches(view.path) {
        return Some(Miss { field: "uri".to_owned(), wanted: wanted_path(path), met: Some(text(view.path)) });
    }
    let header = headers.iter().find(|condition| !condition.holds(&View::new(view.request)));
    if let Some(condition) = header {
        let met = view.request.headers.joined(&condition.name).map(|value| text(&value));
        let field = match (condition.name.as_str(), condition.negated) {
            (":method" | ":scheme" | ":authority", false) => {
                condition.name.trim_start_matches(':').to_owned()
            }
            (name, false) => format!("headers[\"{name}\"]"),
            (name, true) => format!("withoutHeaders[\"{name}\"]"),
        };
        return Some(Miss { field, wanted: negate(wanted(&condition.value), condition.negated), met });
    }
    for (name, value) in asked {
        let met =
            params(view.request.target()).find(|(key, _)| *key == name.as_bytes()).map(|(_, value)| value);
        if !met.is_some_and(|met| crate::condition::text_matches(value, met)) {
            let field = format!("queryParams[\"{name}\"]");
            return Some(Miss { field, wanted: wanted(value), met: met.map(text) });
        }
    }
    if let Some(port) = port {
        let met = match view.request.facts.destination_port() {
            Fact::Known(met) if met == *port => None,
            Fact::Known(met) => Some(met.to_string()),
            Fact::Absent => Some(String::new()),
            Fact::Unavailable(why) => Some(why.to_owned()),
        };
        if met.is_some() {
            return Some(Miss { field: "port".to_owned(), wanted: port.to_string(), met });
        }
    }
    let token = view.request.facts.token();
    claims.iter().find_map(|condition| {
        let path: Vec<&str> = condition.path.iter().map(String::as_str).collect();
        let (known, met) = match &token {
            Fact::Known(token) => (Some(token), token.claim(&path).map(shown)),
            Fact::Absent => (None, None),
            Fact::Unavailable(why) => (None, Some((*why).to_owned())),
        };
        let holds = !matches!(token, Fact::Unavailable(_)) && condition.holds(known);
        (!holds).then(|| Miss {
            field: format!("@request.auth.claims.{}", condition.path.join(".")),
            wanted: negate(wanted(&condition.value), condition.negated),
            met,
        })
    })
}

fn wanted_path(path: &PathCondition) -> String {
    match path {
        PathCondition::Exact(text) => format!("exact `{text}`"),
        PathCondition::Prefix(text) => format!("prefix `{text}`"),
        PathCondition::ExactAnyCase(text) => format!("exact `{text}` in any case"),
        PathCondition::PrefixAnyCase(text) => format!("prefix `{text}` in any case"),
        PathCondition::Regex(regex) => format!("regex `{}`", regex.as_str()),
    }
}

fn wanted(condition: &StringMatch) -> String {
    match condition {
        StringMatch::Present => "presence".to_owned(),
        StringMatch::Exact(text) => format!("exact `{text}`"),
        StringMatch::Prefix(text) => format!("prefix `{text}`"),
        StringMatch::Regex(regex) => format!("regex `{}`", regex.as_str()),
    }
}

fn negate(wanted: String, negated: bool) -> String {
    if negated { format!("no {wanted}") } else { wanted }
}

fn shown(claim: Claim<'_>) -> String {
    match claim {
        Claim::Text(text) => String::from_utf8_lossy(text).into_owned(),
        Claim::Integer(number) => number.to_string(),
        Claim::Bool(flag) => flag.to_string(),
        Claim::List(items) => items.map(shown).collect::<Vec<_>>().join(", "),
        Claim::Null => "null".to_owned(),
        Claim::Double(_) => "a number with a fraction".to_owned(),
        Claim::Object(_) => "an object".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use sailcloth_core::facts::{Facts, NoProperties};
    use sailcloth_core::headers::HeaderBlock;
    use sailcloth_core::request::Request;
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use crate::Engine;

    const CONFIG: &str = r#"{"resources":[
      {"apiVersion":"networking.istio.io/v1","kind":"VirtualService","metadata":{"name":"now","namespace":"n"},
       "spec":{"hosts":["*"],"gateways":["g"],"http":[
        {"match":[{"uri":{"exact":"/a"}},{"uri":{"prefix":"/b"},"method":{"exact":"GET"}}],"route":[{"destination":{"host":"a.x"}}]},
        {"match":[{"headers":{"x-user":{"exact":"me"}}},{"withoutHeaders":{"x-user":{}}},{"queryParams":{"q":{"regex":"[0-9]+"}}},
                  {"headers":{"@request.auth.claims.sub":{"prefix":"s"}}}],
         "route":[{"destination":{"host":"b.x"}}]},
        {"route":[{"destination":{"host":"c.x"}}]}]}},
      {"apiVersion":"networking.istio.io/v1","kind":"VirtualService",
       "metadata":{"name":"next","namespace":"n","annotations":{"sailcloth.dev/mode":"shadow"}},
       "spec":{"hosts":["*"],"gateways":["g"],"http":[{"match":[{"uri":{"regex":"/x.*"}}],"route":[{"destination":{"host":"a.x"}}]}]}}],
      "settings":{"cluster":"{host}","clusters":["a.x","b.x","c.x"],"requestIdentity":"none"}}"#;

    #[test]
    fn every_match_says_which_condition_failed_and_what_it_met() {
        let (engine, _) = Engine::load(CONFIG.as_bytes()).unwrap();
        let headers = HeaderBlock::from_pairs([
            (":method", "PUT"),
            (":path", "/b?q=x1"),
            (":authority", "h"),
            ("x-user", "you"),
            ("x-user", "they"),
        ]);
        let request = Request { headers: &headers, facts: Facts::new(&NoProperties, engine.sources()) };
        let explanation = engine.explain(&request, 0);
        assert_eq!(explanation.decision, engine.decide(&request, 0).decision);
        assert_eq!(explanation.arm, Some("c.x"));
        let tried: Vec<String> = explanation.tried.iter().map(ToString::to_string).collect();
        assert_eq!(
            tried,
            [
                "n/now#0 match[0]: `uri` asks for exact `/a`, met `/b`",
                "n/now#0 match[1]: `method` asks for exact `GET`, met `PUT`",
                "n/now#1 match[0]: `headers[\"x-user\"]` asks for exact `me`, met `you,they`",
                "n/now#1 match[1]: `withoutHeaders[\"x-user\"]` asks for no presence, met `you,they`",
                "n/now#1 match[2]: `queryParams[\"q\"]` asks for regex `[0-9]+`, met `x1`",
                "n/now#1 match[3]: `@request.auth.claims.sub` asks for prefix `s`, met nothing",
                "n/now#2 match[0]: matches",
            ]
        );
        let shadow: Vec<String> = explanation.shadow.iter().map(ToString::to_string).collect();
        assert_eq!(shadow, ["n/next#0 match[0]: `uri` asks for regex `/x.*`, met `/b`"]);
    }
}
