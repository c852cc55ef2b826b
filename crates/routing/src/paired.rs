//! The choice, carried out by native routes: one for each rule, matched by what is written here.

use sailcloth_core::config::Severity;
use sailcloth_core::request::Request;
use sailcloth_resources::virtual_service::HttpRoute;

use crate::compile::{Compiler, Document};
use crate::edit::Edit;
use crate::effects::{CLUSTER_HEADER, forged};
use crate::engine::{Arm, Rule};
use crate::outcome::Outcome;

/// What the cluster's header says for a rule that has none: a redirect, a direct response. The header must change for
/// Envoy to choose its route anew; no cluster has this name.
const NO_CLUSTER: &str = "none";

impl Rule {
    /// Nothing but the choice: its route and its cluster. Whatever else the rule says is the native route's.
    pub(crate) fn pair<'e>(
        &'e self,
        id: usize,
        route: &'e str,
        request: &Request<'e>,
        arm: Option<(usize, &'e Arm)>,
    ) -> Outcome<'e> {
        let mut outcome = self.outcome(id, arm);
        outcome.route = Some(route);
        let cluster = arm.map_or(NO_CLUSTER, |(_, arm)| arm.cluster.as_str());
        let carried = [(CLUSTER_HEADER, cluster)];
        outcome.request = forged(request.headers, &carried);
        outcome.request.push(Edit::set(CLUSTER_HEADER, cluster));
        outcome
    }
}

impl Compiler<'_> {
    /// What a native route matches a rule by: `namespace/document/name`, or `namespace/document#2` for one without name.
    pub(crate) fn native_route(&self, document: &Document, number: usize, rule: &HttpRoute) -> String {
        let id = document.metadata.id();
        let Some(name) = &rule.name else { return format!("{id}#{number}") };
        let same = |other: &&HttpRoute| other.name.as_ref() == Some(name);
        if document.spec.http.iter().filter(same).count() > 1 {
            let message = format!("several rules are called `{name}`; no native route can tell them apart");
            self.report(Severity::Error, &rule.path, message);
        }
        format!("{id}/{name}")
    }
}

#[cfg(test)]
mod tests {
    use sailcloth_core::facts::{Facts, NoProperties};
    use sailcloth_core::headers::HeaderBlock;
    use sailcloth_core::request::Request;
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use crate::{Edit, Engine};

    fn load(carry_out: &str, http: &str) -> Result<Engine, Vec<String>> {
        let text = format!(
            r#"{{"resources":[{{"apiVersion":"networking.istio.io/v1","kind":"VirtualService","metadata":{{"name":"a","namespace":"n"}},
            "spec":{{"hosts":["a.example"],"http":[{http}]}}}}],
            "settings":{{"cluster":"{{host}}","clusters":["b.example"],"carryOut":"{carry_out}"}}}}"#
        );
        let loaded = Engine::load(text.as_bytes()).map(|(engine, _)| engine);
        loaded.map_err(|problems| problems.iter().map(ToString::to_string).collect())
    }

    const TO_B: &str =
        r#""route":[{"destination":{"host":"b.example"},"headers":{"request":{"set":{"x":"1"}}}}]"#;

    #[test]
    fn what_a_native_route_does_is_neither_refused_nor_done() {
        let rule = format!(
            r#"{{"name":"r",{TO_B},"timeout":"1s","retries":{{"attempts":2,"backoff":"1s"}},"mirror":{{"host":"c.example"}},
            "headers":{{"response":{{"set":{{"y":"2"}}}}}},"fault":{{"abort":{{"httpStatus":500,"percentage":{{"value":100}}}}}}}}"#
        );
        assert!(load("standalone", &rule).is_err(), "back-off and mirrors are native only");
        let engine = load("paired", &rule).unwrap();
        let headers = HeaderBlock::from_pairs([
            (":path", "/"),
            (":authority", "a.example"),
            ("x-envoy-max-retries", "9"),
            ("x-sailcloth-x", "1"),
        ]);
        let request = Request { headers: &headers, facts: Facts::new(&NoProperties, engine.sources()) };
        let outcome = engine.decide(&request, 0);
        assert_eq!((outcome.route, outcome.cluster()), (Some("n/a/r"), Some("b.example")));
        assert!(outcome.answer.is_none() && outcome.response.is_empty() && outcome.delay.is_none());
        let edits: Vec<String> = outcome
            .request
            .iter()
            .map(|edit| match edit {
                Edit::Remove(name) => format!("-{name}"),
                Edit::Set(name, value) => format!("{name}={}", String::from_utf8_lossy(value)),
                Edit::Add(name, _) => format!("+{name}"),
            })
            .collect();
        assert_eq!(edits, ["-x-envoy-max-retries", "-x-sailcloth-x", "x-sailcloth-cluster=b.example"]);
    }

    #[test]
    fn a_rule_without_name_is_known_by_its_place_and_two_of_one_name_are_refused() {
        let engine = load("paired", r#"{"redirect":{"uri":"/x"}}"#).unwrap();
        let headers = HeaderBlock::from_pairs([(":path", "/"), (":authority", "a.example")]);
        let request = Request { headers: &headers, facts: Facts::new(&NoProperties, engine.sources()) };
        let outcome = engine.decide(&request, 0);
        assert_eq!((outcome.route, outcome.cluster(), outcome.answer.is_none()), (Some("n/a#0"), None, true));
        let same =
            format!(r#"{{"name":"r","match":[{{"uri":{{"prefix":"/x"}}}}],{TO_B}}},{{"name":"r",{TO_B}}}"#);
        let problems = load("paired", &same).err().unwrap();
        assert!(problems[0].contains("several rules are called `r`"), "{problems:?}");
        assert!(load("standalone", &same).is_ok());
    }
}
