//! DENY, then ALLOW.

use sailcloth_core::config::{Fields, Node, Problem, Problems};
use sailcloth_core::decision::{Decision, Filter, Mode, Reason, RuleRef, Verdict};
use sailcloth_core::facts::Sources;
use sailcloth_core::request::Request;
use sailcloth_resources::authorization_policy::{Action, AuthorizationPolicy, Rule};
use sailcloth_resources::{Config, Loaded};

use crate::caller::{Caller, Unknown};
use crate::matcher::RuleMatcher;

/// Istio's answer to a refused request.
const BODY: &str = "RBAC: access denied";

/// gRPC's PERMISSION_DENIED.
const PERMISSION_DENIED: u8 = 7;

const NO_POLICY: Reason = Reason::pass("no_policy");
const ALLOWED: Reason = Reason::pass("allowed");
const DENIED: Reason = refusal("denied");
const NO_RULE_MATCHED: Reason = refusal("no_rule_matched");

/// The filter's own settings.
#[derive(Debug, Clone, Default)]
pub(crate) struct Settings {
    /// Trust domains that mean the same as the workload's own (Istio's `meshConfig.trustDomainAliases`).
    trust_domain_aliases: Vec<String>,
}

impl Settings {
    fn read(fields: &Fields<'_>) -> Self {
        let aliases = fields.get("trustDomainAliases").and_then(|aliases| aliases.strings());
        Self { trust_domain_aliases: aliases.unwrap_or_default() }
    }
}

/// What was decided, and what policies in shadow mode would have decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome<'e> {
    /// The decision that acts.
    pub enforced: Decision<'e>,
    /// The decision of the shadow policies alone; none where there are none.
    pub shadow: Option<Decision<'e>>,
}

/// The policies of one workload, ready to decide.
pub struct Engine {
    policies: Vec<String>,
    enforced: Rules,
    shadow: Option<Rules>,
    sources: Sources,
}

#[derive(Default)]
struct Rules {
    deny: Vec<CompiledRule>,
    allow: Vec<CompiledRule>,
    /// An ALLOW policy turns the default to deny even when it has no rule.
    has_allow_policy: bool,
}

struct CompiledRule {
    id: usize,
    policy: usize,
    index: u32,
    matcher: RuleMatcher,
}

impl Engine {
    /// Makes an engine of a filter's configuration text.
    ///
    /// # Errors
    /// Every problem of the configuration.
    pub fn load(text: &[u8]) -> Result<(Self, Vec<Problem>), Vec<Problem>> {
        Config::load(text, Settings::read, |config, problems| Self::compile(&config, problems))
    }

    /// [`Engine::load`] from a tree that was parsed elsewhere.
    ///
    /// # Errors
    /// Every problem of the configuration.
    pub fn load_node(node: &Node) -> Result<(Self, Vec<Problem>), Vec<Problem>> {
        Config::load_node(node, Settings::read, |config, problems| Self::compile(&config, problems))
    }

    fn compile(config: &Config<AuthorizationPolicy, Settings>, problems: &Problems) -> Self {
        let trust_domain =
            config.workload.as_ref().map_or("cluster.local", |workload| &workload.trust_domain);
        let mut trust_domains = vec![trust_domain.to_owned()];
        trust_domains.extend(config.settings.trust_domain_aliases.iter().cloned());

        let mut engine = Self {
            policies: Vec::new(),
            enforced: Rules::default(),
            shadow: None,
            sources: config.common.sources,
        };
        let mut ids = 0..;
        for loaded in config.applicable() {
            check_identity_source(loaded, config, problems);
            let rules = if loaded.spec.shadow {
                engine.shadow.get_or_insert_with(Rules::default)
            } else {
                &mut engine.enforced
            };
            rules.add(&loaded.spec, engine.policies.len(), &trust_domains, &mut ids);
            engine.policies.push(loaded.metadata.id());
        }
        engine
    }

    /// Where the facts of a request are read.
    #[must_use]
    pub fn sources(&self) -> &Sources {
        &self.sources
    }

    /// Resources in force, by kind.
    #[must_use]
    pub fn resources(&self) -> Vec<(&'static str, usize)> {
        vec![("AuthorizationPolicy", self.policies.len())]
    }

    /// Decides one request.
    #[must_use]
    pub fn decide(&self, request: Request<'_>) -> Outcome<'_> {
        let caller = Caller::new(request);
        Outcome {
            enforced: self.evaluate(&self.enforced, &caller, Mode::Enforce),
            shadow: self.shadow.as_ref().map(|rules| self.evaluate(rules, &caller, Mode::Shadow)),
        }
    }

    fn evaluate<'e>(&'e self, rules: &'e Rules, caller: &Caller<'_>, mode: Mode) -> Decision<'e> {
        let decision = |verdict, rule: Option<&'e CompiledRule>, reason| Decision {
            filter: Filter::Authz,
            verdict,
            by: rule.map(|rule| self.rule_ref(rule)),
            reason,
            mode,
        };
        for rule in &rules.deny {
            match rule.matcher.matches(caller) {
                Ok(true) => return decision(Verdict::Deny, Some(rule), DENIED),
                Ok(false) => {}
                // What might be denied is denied.
                Err(unknown) => return decision(Verdict::Deny, Some(rule), unavailable(unknown)),
            }
        }
        if !rules.has_allow_policy {
            return decision(Verdict::Allow, None, NO_POLICY);
        }
        let mut doubt = None;
        for rule in &rules.allow {
            match rule.matcher.matches(caller) {
                Ok(true) => return decision(Verdict::Allow, Some(rule), ALLOWED),
                Ok(false) => {}
                Err(unknown) => doubt = doubt.or(Some((rule, unknown))),
            }
        }
        match doubt {
            Some((rule, unknown)) => decision(Verdict::Deny, Some(rule), unavailable(unknown)),
            None => decision(Verdict::Deny, None, NO_RULE_MATCHED),
        }
    }

    fn rule_ref(&self, rule: &CompiledRule) -> RuleRef<'_> {
        let policy = self.policies.get(rule.policy).map_or("", String::as_str);
        RuleRef { id: rule.id, policy, rule: rule.index }
    }
}

impl Rules {
    fn add(
        &mut self,
        policy: &AuthorizationPolicy,
        number: usize,
        trust_domains: &[String],
        ids: &mut impl Iterator<Item = usize>,
    ) {
        let list = match policy.action {
            Action::Deny => &mut self.deny,
            Action::Allow => {
                self.has_allow_policy = true;
                &mut self.allow
            }
        };
        for ((index, rule), id) in (0..).zip(&policy.rules).zip(ids) {
            list.push(CompiledRule {
                id,
                policy: number,
                index,
                matcher: RuleMatcher::new(rule, trust_domains),
            });
        }
    }
}

/// On a gateway or waypoint TLS may have ended elsewhere: "no identity here" would then make `notPrincipals` match
/// everybody. So a policy that asks for identities must be told where they are.
fn check_identity_source(
    loaded: &Loaded<AuthorizationPolicy>,
    config: &Config<AuthorizationPolicy, Settings>,
    problems: &Problems,
) {
    let on_gateway = config.workload.as_ref().is_some_and(sailcloth_resources::Workload::is_gateway);
    if on_gateway
        && !config.common.peer_identity_stated
        && loaded.spec.rules.iter().any(asks_for_peer_identity)
    {
        problems.report(Problem {
            severity: sailcloth_core::config::Severity::Error,
            path: loaded.path.to_string(),
            message: "asks for the peer's identity on a gateway or waypoint; say where it is by `settings.peerIdentity`: \
                      `certificate` (TLS ends at this proxy) or `peerPrincipal` (it ended before)"
                .to_owned(),
        });
    }
}

fn asks_for_peer_identity(rule: &Rule) -> bool {
    rule.from.iter().flatten().any(|source| {
        !(source.principals.is_empty() && source.namespaces.is_empty() && source.service_accounts.is_empty())
    })
}

const fn refusal(code: &'static str) -> Reason {
    Reason { code, status: 403, grpc_status: PERMISSION_DENIED, body: BODY }
}

const fn unavailable(unknown: Unknown) -> Reason {
    refusal(match unknown {
        Unknown::PeerIdentity => "peer_identity_unavailable",
        Unknown::PeerAddress => "peer_address_unavailable",
        Unknown::RemoteAddress => "remote_address_unavailable",
        Unknown::DestinationPort => "destination_port_unavailable",
        Unknown::RequestIdentity => "request_identity_unavailable",
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use sailcloth_core::facts::{Fact, Facts, Properties};
    use sailcloth_core::headers::HeaderBlock;
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    struct Peer(&'static str);

    impl Properties for Peer {
        fn property(&self, path: &[&str]) -> Fact<Vec<u8>> {
            match path {
                ["connection", "uri_san_peer_certificate"] if !self.0.is_empty() => {
                    Fact::Known(self.0.into())
                }
                _ => Fact::Absent,
            }
        }
    }

    fn load(policies: &[&str]) -> Engine {
        let documents: Vec<String> = policies
            .iter()
            .enumerate()
            .map(|(index, rest)| {
                format!(
                    r#"{{"apiVersion":"security.istio.io/v1","kind":"AuthorizationPolicy","metadata":{{"name":"p{index}","namespace":"n"}},{rest}}}"#
                )
            })
            .collect();
        let text = format!(r#"{{"resources":[{}]}}"#, documents.join(","));
        Engine::load(text.as_bytes()).map(|(engine, _)| engine).unwrap()
    }

    fn decide(engine: &Engine, peer: &'static str, method: &str, path: &str) -> String {
        let headers =
            HeaderBlock::from_pairs([(":method", method), (":path", path), (":authority", "api:80")]);
        let peer = Peer(peer);
        let request = Request { headers: &headers, facts: Facts::new(&peer, engine.sources()) };
        engine.decide(request).enforced.state()
    }

    const WEB: &str = "spiffe://cluster.local/ns/production/sa/web-service";
    const SEED: &str = r#""spec":{"action":"ALLOW","rules":[
        {"from":[{"source":{"principals":["cluster.local/ns/production/sa/web-service"]}}],
         "to":[{"operation":{"methods":["GET","POST"],"paths":["/api/v1/*"]}}]},
        {"to":[{"operation":{"methods":["GET"],"paths":["/health"]}}]}]}"#;

    #[test]
    fn the_seed_policy_decides_as_in_istio() {
        let engine = load(&[SEED]);
        for (peer, method, path, expected) in [
            (WEB, "GET", "/api/v1/orders", "allow n/p0#0 allowed"),
            (WEB, "POST", "/api/v1/orders?x=1", "allow n/p0#0 allowed"),
            (WEB, "DELETE", "/api/v1/orders", "deny none no_rule_matched"),
            (WEB, "GET", "/api/v1", "deny none no_rule_matched"),
            ("", "GET", "/api/v1/orders", "deny none no_rule_matched"),
            (
                "spiffe://cluster.local/ns/other/sa/web-service",
                "GET",
                "/api/v1/orders",
                "deny none no_rule_matched",
            ),
            ("", "GET", "/health", "allow n/p0#1 allowed"),
        ] {
            assert_eq!(decide(&engine, peer, method, path), expected, "{method} {path} by `{peer}`");
        }
    }

    #[test]
    fn empty_specs_deny_and_empty_rules_allow() {
        assert_eq!(decide(&load(&[r#""spec":{}"#]), "", "GET", "/"), "deny none no_rule_matched");
        assert_eq!(
            decide(&load(&[r#""metadataX":null"#.replace("metadataX", "status").as_str()]), "", "GET", "/"),
            "deny none no_rule_matched"
        );
        assert_eq!(decide(&load(&[r#""spec":{"rules":[{}]}"#]), "", "GET", "/"), "allow n/p0#0 allowed");
        assert_eq!(decide(&load(&[]), "", "GET", "/"), "allow none no_policy");
    }

    #[test]
    fn deny_wins_over_allow() {
        let engine = load(&[
            r#""spec":{"rules":[{}]}"#,
            r#""spec":{"action":"DENY","rules":[{"to":[{"operation":{"paths":["/admin*"]}}]}]}"#,
        ]);
        assert_eq!(decide(&engine, "", "GET", "/admin"), "deny n/p1#0 denied");
        assert_eq!(decide(&engine, "", "GET", "/"), "allow n/p0#0 allowed");
    }

    #[test]
    fn plaintext_satisfies_not_principals() {
        let engine =
            load(&[r#""spec":{"action":"DENY","rules":[{"from":[{"source":{"notPrincipals":["*"]}}]}]}"#]);
        assert_eq!(decide(&engine, "", "GET", "/"), "deny n/p0#0 denied");
        assert_eq!(decide(&engine, WEB, "GET", "/"), "allow none no_policy");
    }

    #[test]
    fn a_certificate_of_another_scheme_is_no_principal_of_the_mesh() {
        let source =
            |source: &str| load(&[&format!(r#""spec":{{"rules":[{{"from":[{{"source":{source}}}]}}]}}"#)]);
        for (written, allows) in [
            (r#"{"principals":["*"]}"#, true),
            (r#"{"principals":["cluster.local/ns/production/sa/web-service"]}"#, false),
            (r#"{"principals":["cluster.local/*"]}"#, false),
            (r#"{"principals":["*/sa/web-service"]}"#, false),
            (r#"{"serviceAccounts":["production/web-service"]}"#, false),
            (r#"{"notPrincipals":["*/sa/web-service"]}"#, true),
            // Istio asks for `/ns/<namespace>/` anywhere in the URI.
            (r#"{"namespaces":["production"]}"#, true),
        ] {
            let engine = source(written);
            for peer in [
                "cluster.local/ns/production/sa/web-service",
                "https://cluster.local/ns/production/sa/web-service",
            ] {
                let decided = decide(&engine, peer, "GET", "/");
                assert_eq!(decided.starts_with("allow"), allows, "{written} for `{peer}`: {decided}");
            }
        }
    }

    #[test]
    fn what_cannot_be_known_denies() {
        let deny = load(&[
            r#""spec":{"action":"DENY","rules":[{"from":[{"source":{"ipBlocks":["10.0.0.0/8"]}}]}]}"#,
        ]);
        assert_eq!(decide(&deny, "", "GET", "/"), "deny n/p0#0 peer_address_unavailable");
        let allow = load(&[r#""spec":{"rules":[{"from":[{"source":{"requestPrincipals":["*"]}}]}]}"#]);
        assert_eq!(decide(&allow, "", "GET", "/"), "deny n/p0#0 request_identity_unavailable");
    }

    #[test]
    fn shadow_policies_are_computed_and_never_act() {
        let text = r#"{"resources":[{"apiVersion":"security.istio.io/v1","kind":"AuthorizationPolicy",
            "metadata":{"name":"p","annotations":{"istio.io/dry-run":"true"}},"spec":{}}]}"#;
        let engine = Engine::load(text.as_bytes()).map(|(engine, _)| engine).unwrap();
        let headers = HeaderBlock::from_pairs([(":path", "/")]);
        let outcome =
            engine.decide(Request { headers: &headers, facts: Facts::new(&Peer(""), engine.sources()) });
        assert_eq!(outcome.enforced.verdict, Verdict::Allow);
        let shadow = outcome.shadow.unwrap();
        assert_eq!((shadow.verdict, shadow.refuses()), (Verdict::Deny, false));
    }

    #[test]
    fn hosts_keep_their_port_and_ignore_case() {
        let of = |host: &str| {
            load(&[&format!(r#""spec":{{"rules":[{{"to":[{{"operation":{{"hosts":["{host}"]}}}}]}}]}}"#)])
        };
        assert_eq!(decide(&of("API:80"), "", "GET", "/"), "allow n/p0#0 allowed");
        assert_eq!(decide(&of("api"), "", "GET", "/"), "deny none no_rule_matched");
        assert_eq!(decide(&of("api:*"), "", "GET", "/"), "allow n/p0#0 allowed");
    }

    #[test]
    fn a_gateway_must_say_where_identities_are() {
        let config = |settings: &str| {
            format!(
                r#"{{"resources":[{{"apiVersion":"security.istio.io/v1","kind":"AuthorizationPolicy","metadata":{{"name":"p","namespace":"n"}},
                "spec":{{"rules":[{{"from":[{{"source":{{"principals":["a"]}}}}]}}]}}}}],
                "workload":{{"namespace":"n","gateway":"edge"}},"settings":{settings}}}"#
            )
        };
        let problems = Engine::load(config("{}").as_bytes()).err().unwrap();
        assert!(
            problems[0].to_string().starts_with("resources[0]: asks for the peer's identity on a gateway")
        );
        assert!(Engine::load(config(r#"{"peerIdentity":"peerPrincipal"}"#).as_bytes()).is_ok());
    }

    #[test]
    fn a_source_whose_lists_are_all_empty_is_refused() {
        for source in
            ["{}", r#"{"principals":[]}"#, r#"{"principals":null}"#, r#"{"ipBlocks":[],"namespaces":[]}"#]
        {
            let text = format!(
                r#"{{"resources":[{{"apiVersion":"security.istio.io/v1","kind":"AuthorizationPolicy","metadata":{{"name":"p"}},
                "spec":{{"rules":[{{"from":[{{"source":{source}}}]}}]}}}}]}}"#
            );
            let problems = Engine::load(text.as_bytes()).err().unwrap_or_default();
            let texts: Vec<String> = problems.iter().map(ToString::to_string).collect();
            let expected = "resources[0].spec.rules[0].from[0].source: an empty source says nothing; name at least one field";
            assert_eq!(texts, [expected], "{source}");
        }
    }

    #[test]
    fn fields_that_cannot_take_effect_are_refused_with_every_problem() {
        let text = r#"{"resources":[{"apiVersion":"security.istio.io/v1","kind":"AuthorizationPolicy","metadata":{"name":"p"},
            "spec":{"action":"AUDIT","rules":[{"when":[]},{"from":[{"source":{"ipBlocks":["x"]}}]},{"to":[{"operation":{"method":["GET"]}}]}]}}]}"#;
        let problems: Vec<String> =
            Engine::load(text.as_bytes()).err().unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(problems.len(), 5, "{problems:#?}");
        assert!(
            problems[4].ends_with("operation.method: unknown field; did you mean `methods`?"),
            "{problems:#?}"
        );
    }
}
