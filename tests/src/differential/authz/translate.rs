//! AuthorizationPolicy to Envoy's `rbac`, as Istio translates it (`istio-api.md` section 2; the forms are those of the
//! published translations in `../shared/conformance/istio`).

use sailcloth_core::config::Node;
use serde_json::{Map, Value, json};

use crate::yaml::{at, entries, items};

/// Where Envoy's `rbac` finds the peer's identity. Istio writes both forms, by its version and the kind of proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerForm {
    /// `authenticated`: the client certificate of the connection.
    Authenticated,
    /// Filter state `io.istio.peer_principal`.
    FilterState,
}

/// The `rbac` filters of a configuration's policies, in Istio's order. The policies are taken to apply, each of them.
#[must_use]
pub fn filters(policies: &[Node], trust_domains: &[String], form: PeerForm) -> Vec<Value> {
    let mut filters = Vec::new();
    for (action, word) in [("AUDIT", "LOG"), ("DENY", "DENY"), ("ALLOW", "ALLOW")] {
        let of_action = |policy: &&Node| {
            at(policy, &["spec", "action"]).and_then(Node::text).unwrap_or("ALLOW") == action
        };
        let chosen: Vec<&Node> = policies.iter().filter(of_action).collect();
        if chosen.is_empty() {
            continue;
        }
        let mut rules = Map::new();
        for policy in chosen {
            let word = |key| at(policy, &["metadata", key]).and_then(Node::text).unwrap_or_default();
            let (name, namespace) = (word("name"), word("namespace"));
            for (index, rule) in items(at(policy, &["spec", "rules"])).iter().enumerate() {
                let translation = Translation { trust_domains, form, namespace };
                rules.insert(format!("ns[{namespace}]-policy[{name}]-rule[{index}]"), translation.rule(rule));
            }
        }
        filters.push(json!({"name": "envoy.filters.http.rbac", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC",
            "rules": {"action": word, "policies": rules}}}));
    }
    filters
}

struct Translation<'t> {
    trust_domains: &'t [String],
    form: PeerForm,
    namespace: &'t str,
}

impl Translation<'_> {
    /// Conditions about the caller are principals, those about the call permissions.
    fn rule(&self, rule: &Node) -> Value {
        let (mut about_caller, mut about_call) = (Vec::new(), Vec::new());
        for condition in items(rule.field("when")) {
            let key = condition.field("key").and_then(Node::text).unwrap_or_default();
            let is_call = ["destination.ip", "destination.port", "connection.sni"].contains(&key);
            let (list, of) =
                if is_call { (&mut about_call, Of::Call) } else { (&mut about_caller, Of::Caller) };
            list.extend(self.both(key, condition.field("values"), condition.field("notValues"), of));
        }
        let alternatives = |list: &str, inner: &str, base: &[Value], of: Of| -> Vec<Value> {
            let alternative = |fields: Option<&Node>| {
                let mut all = base.to_vec();
                for (field, values) in entries(fields) {
                    let (positive, negative) = match field.strip_prefix("not") {
                        Some(_) => (None, Some(values)),
                        None => (Some(values), None),
                    };
                    all.extend(self.both(key_of(field), positive, negative, of));
                }
                if all.is_empty() {
                    all.push(json!({"any": true}));
                }
                of.all(all)
            };
            match items(rule.field(list)) {
                [] => vec![alternative(None)],
                entries => entries.iter().map(|entry| alternative(entry.field(inner))).collect(),
            }
        };
        json!({
            "permissions": alternatives("to", "operation", &about_call, Of::Call),
            "principals": alternatives("from", "source", &about_caller, Of::Caller),
        })
    }

    /// One of the values, none of the others.
    fn both(&self, key: &str, values: Option<&Node>, not_values: Option<&Node>, of: Of) -> Vec<Value> {
        let mut all = Vec::new();
        let any = |list: &Node| -> Option<Value> {
            let texts = items(Some(list)).iter().filter_map(Node::text);
            let rules: Vec<Value> = texts.flat_map(|value| self.value(key, value, of)).collect();
            (!rules.is_empty()).then(|| of.any(rules))
        };
        all.extend(values.and_then(any));
        all.extend(not_values.and_then(any).map(|rule| of.not(rule)));
        all
    }

    fn value(&self, key: &str, value: &str, of: Of) -> Vec<Value> {
        let one = |rule: Value| vec![rule];
        match key {
            "host" => one(header(":authority", value, true)),
            "method" => one(header(":method", value, false)),
            "path" if value.contains("{*}") || value.contains("{**}") => {
                let template = value.replace("{**}", "**").replace("{*}", "*");
                one(json!({"uri_template": {"name": "uri-template", "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig",
                    "path_template": template}}}))
            }
            "path" => one(json!({"url_path": {"path": string(value)}})),
            "destination.port" => one(json!({"destination_port": value.parse::<u32>().expect("a port")})),
            "destination.ip" => one(json!({"destination_ip": range(value)})),
            "connection.sni" => one(json!({"requested_server_name": string(value)})),
            "source.ip" => one(json!({"direct_remote_ip": range(value)})),
            "remote.ip" => one(json!({"remote_ip": range(value)})),
            "source.principal" => {
                expand(value, self.trust_domains).iter().map(|value| self.peer(principal(value))).collect()
            }
            "source.namespace" => one(self.peer(regex(&format!(".*/ns/{}/.*", glob(value))))),
            "source.trustDomain" => {
                let ours = self.trust_domains.iter().any(|own| own == value);
                let all = if ours { self.trust_domains } else { &[value.to_owned()] };
                all.iter().map(|one| self.peer(regex(&format!("spiffe://{}/.*", glob(one))))).collect()
            }
            "source.serviceAccount" => {
                let (namespace, name) = value.split_once('/').unwrap_or((self.namespace, value));
                let escaped = |text| regex::escape(text);
                one(self.peer(regex(&format!(
                    "spiffe://.+/ns/{}/(.+/|)sa/{}(/.+)?",
                    escaped(namespace),
                    escaped(name)
                ))))
            }
            "request.auth.principal" => one(request_principal(value, of)),
            "request.auth.audiences" => one(claim(&["aud"], value)),
            "request.auth.presenter" => one(claim(&["azp"], value)),
            _ => {
                let bracketed = |prefix: &str| key.strip_prefix(prefix)?.strip_suffix(']');
                if let Some(name) = bracketed("request.headers[") {
                    return one(header(name, value, false));
                }
                let path =
                    bracketed("request.auth.claims[").unwrap_or_else(|| panic!("no translation of `{key}`"));
                one(claim(&path.split("][").collect::<Vec<_>>(), value))
            }
        }
    }

    fn peer(&self, matcher: Value) -> Value {
        match self.form {
            PeerForm::Authenticated => json!({"authenticated": {"principal_name": matcher}}),
            PeerForm::FilterState => {
                json!({"filter_state": {"key": "io.istio.peer_principal", "string_match": matcher}})
            }
        }
    }
}

/// The two halves of an RBAC policy, which say the same with other words.
#[derive(Clone, Copy)]
enum Of {
    Call,
    Caller,
}

impl Of {
    fn all(self, rules: Vec<Value>) -> Value {
        match self {
            Self::Call => json!({"and_rules": {"rules": rules}}),
            Self::Caller => json!({"and_ids": {"ids": rules}}),
        }
    }

    fn any(self, rules: Vec<Value>) -> Value {
        match self {
            Self::Call => json!({"or_rules": {"rules": rules}}),
            Self::Caller => json!({"or_ids": {"ids": rules}}),
        }
    }

    fn not(self, rule: Value) -> Value {
        match self {
            Self::Call => json!({"not_rule": rule}),
            Self::Caller => json!({"not_id": rule}),
        }
    }
}

/// The `when` key that a field of `source` or `operation` is another name of.
fn key_of(field: &str) -> &'static str {
    match field {
        "principals" | "notPrincipals" => "source.principal",
        "requestPrincipals" | "notRequestPrincipals" => "request.auth.principal",
        "namespaces" | "notNamespaces" => "source.namespace",
        "serviceAccounts" | "notServiceAccounts" => "source.serviceAccount",
        "trustDomains" | "notTrustDomains" => "source.trustDomain",
        "ipBlocks" | "notIpBlocks" => "source.ip",
        "remoteIpBlocks" | "notRemoteIpBlocks" => "remote.ip",
        "hosts" | "notHosts" => "host",
        "ports" | "notPorts" => "destination.port",
        "methods" | "notMethods" => "method",
        "paths" | "notPaths" => "path",
        other => panic!("no translation of `{other}`"),
    }
}

fn regex(regex: &str) -> Value {
    json!({"safe_regex": {"regex": regex}})
}

/// `*` within a segment of an identity.
fn glob(pattern: &str) -> String {
    pattern.split('*').map(regex::escape).collect::<Vec<_>>().join("[^/]*")
}

fn string(pattern: &str) -> Value {
    if pattern == "*" {
        regex(".+")
    } else if let Some(suffix) = pattern.strip_prefix('*') {
        json!({"suffix": suffix})
    } else if let Some(prefix) = pattern.strip_suffix('*') {
        json!({"prefix": prefix})
    } else {
        json!({"exact": pattern})
    }
}

fn header(name: &str, pattern: &str, ignore_case: bool) -> Value {
    if pattern == "*" {
        return json!({"header": {"name": name, "present_match": true}});
    }
    let mut matcher = string(pattern);
    if ignore_case {
        matcher["ignore_case"] = json!(true);
    }
    json!({"header": {"name": name, "string_match": matcher}})
}

fn principal(pattern: &str) -> Value {
    if pattern == "*" {
        regex(".+")
    } else if let Some(suffix) = pattern.strip_prefix('*') {
        regex(&format!("spiffe://.*{}", regex::escape(suffix)))
    } else {
        string(&format!("spiffe://{pattern}"))
    }
}

/// A principal of a trust domain of ours, in each of ours.
fn expand(principal: &str, ours: &[String]) -> Vec<String> {
    let parts: Vec<&str> = principal.split('/').collect();
    let [domain, rest @ ..] = parts.as_slice() else { return vec![principal.to_owned()] };
    let covers = |own: &str| domain.strip_prefix('*').map_or(own == *domain, |ending| own.ends_with(ending));
    if parts.len() != 5 || *domain == "*" || *domain != "cluster.local" && !ours.iter().any(|own| covers(own))
    {
        return vec![principal.to_owned()];
    }
    let of = |own: &String| {
        if domain.starts_with('*') && covers(own) {
            principal.to_owned()
        } else {
            format!("{own}/{}", rest.join("/"))
        }
    };
    ours.iter().map(of).collect()
}

fn range(block: &str) -> Value {
    let (base, length) = match block.split_once('/') {
        Some((base, length)) => (base, length.parse::<u32>().expect("a prefix length")),
        None => (block, if block.contains(':') { 128 } else { 32 }),
    };
    json!({"address_prefix": base, "prefix_len": length})
}

fn metadata(path: &[&str], value: &Value) -> Value {
    let keys: Vec<Value> = std::iter::once(&"payload").chain(path).map(|key| json!({"key": key})).collect();
    json!({"metadata": {"filter": "envoy.filters.http.jwt_authn", "path": keys, "value": value}})
}

/// A claim that is a matching string, or a list with one in it.
fn claim(path: &[&str], pattern: &str) -> Value {
    let one = json!({"string_match": string(pattern)});
    metadata(path, &json!({"or_match": {"value_matchers": [{"list_match": {"one_of": one}}, one]}}))
}

fn request_principal(pattern: &str, of: Of) -> Value {
    let (issuer, subject) = match pattern.rsplit_once('/') {
        _ if pattern == "*" => (string("*"), string("*")),
        Some((issuer, subject)) => {
            // A star belongs to the half at whose end of the pattern it stands.
            let issuer = if pattern.starts_with('*') { string(issuer) } else { json!({"exact": issuer}) };
            let open = !pattern.starts_with('*') && subject.ends_with('*');
            (issuer, if open { string(subject) } else { json!({"exact": subject}) })
        }
        None if pattern.starts_with('*') => (string("*"), string(pattern)),
        None if pattern.ends_with('*') => (string(pattern), string("*")),
        None => (json!({"exact": pattern}), json!({"exact": ""})),
    };
    let claim = |name, matcher: Value| metadata(&[name], &json!({"string_match": matcher}));
    of.all(vec![claim("iss", issuer), claim("sub", subject)])
}
