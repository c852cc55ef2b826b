//! The policies that are measured, each written twice: as the Istio resource that our filter reads, and as the
//! configuration of Envoy's native filter that does the same job. Limits are so high that nothing is ever limited.

use serde_json::{Value, json};

/// The issuer and the audience of the tokens.
pub(crate) const ISSUER: &str = "https://auth.mycompany.com";
pub(crate) const AUDIENCE: &str = "api-service";

/// The clusters of the two versions, by Istio's names.
pub(crate) const V1: &str = "outbound|80|v1|api-service.production.svc.cluster.local";
pub(crate) const V2: &str = "outbound|80|v2|api-service.production.svc.cluster.local";

/// Tokens kept by either side's cache; one is enough for the one token of the run.
const CACHED_TOKENS: u32 = 1000;

/// Requests per second: of one bucket and of each key.
const LIMIT: u32 = 1_000_000;

/// How a token is treated.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Jwt {
    /// Verified tokens are remembered.
    pub(crate) cached: bool,
    /// The token goes on to the upstream (Istio's default is that it does not).
    pub(crate) forwarded: bool,
}

/// Whose tokens are accepted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trusted<'t> {
    /// `iss`.
    pub(crate) issuer: &'t str,
    /// `aud`.
    pub(crate) audience: &'t str,
    /// The key set.
    pub(crate) jwks: &'t str,
}

impl<'t> Trusted<'t> {
    /// The example issuer's, with these keys.
    pub(crate) fn issuer(jwks: &'t str) -> Self {
        Self { issuer: ISSUER, audience: AUDIENCE, jwks }
    }
}

/// Our three top-level keys.
fn configuration(resources: Value, settings: Value) -> Value {
    let workload =
        json!({"namespace": "production", "labels": {"app": "api-service"}, "serviceAccount": "api-service"});
    json!({"resources": resources, "workload": workload, "settings": settings})
}

fn resource(api_version: &str, kind: &str, spec: Value) -> Value {
    json!({
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {"name": "bench", "namespace": "production"},
        "spec": spec,
    })
}

/// RequestAuthentication.
pub(crate) fn jwt(trusted: Trusted<'_>, jwt: Jwt) -> Value {
    let Trusted { issuer, audience, jwks } = trusted;
    let rule = json!({
        "issuer": issuer,
        "audiences": [audience],
        "jwks": jwks,
        "forwardOriginalToken": jwt.forwarded,
    });
    let settings = if jwt.cached { json!({}) } else { json!({"tokenCache": {"bytes": 0}}) };
    let spec = json!({"jwtRules": [rule]});
    configuration(json!([resource("security.istio.io/v1", "RequestAuthentication", spec)]), settings)
}

/// The same as `jwt_authn`, in the form that Istio gives it: a token is optional, a bad one is refused.
pub(crate) fn native_jwt(trusted: Trusted<'_>, jwt: Jwt) -> Value {
    let Trusted { issuer, audience, jwks } = trusted;
    let mut provider = json!({
        "issuer": issuer,
        "audiences": [audience],
        "local_jwks": {"inline_string": jwks},
        "forward": jwt.forwarded,
        "payload_in_metadata": "payload",
    });
    if let (true, Some(fields)) = (jwt.cached, provider.as_object_mut()) {
        fields.insert("jwt_cache_config".to_owned(), json!({"jwt_cache_size": CACHED_TOKENS}));
    }
    let optional = json!([{"provider_name": "bench"}, {"allow_missing": {}}]);
    json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
        "providers": {"bench": provider},
        "rules": [{"match": {"prefix": "/"}, "requires": {"requires_any": {"requirements": optional}}}],
    })
}

/// The path that rule `index` of `rules` allows: the last is the one that the requests match.
fn allowed_path(index: usize, rules: usize) -> String {
    if index + 1 == rules { "/api/v1/".to_owned() } else { format!("/service-{index:03}/") }
}

/// The caller of the policies that ask who calls: what an mTLS peer and a verified token would say.
const PEER: &str = "spiffe://cluster.local/ns/production/sa/web-service";
const GROUP: &str = "team-7";

/// What the rules of an authorization policy ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// Method and path.
    Operation,
    /// Also who calls: principal and a claim.
    Caller,
}

/// Istio's schema takes this many rules in one policy.
const RULES_OF_A_POLICY: usize = 500;

/// AuthorizationPolicies with `rules` rules, of which the last matches.
pub(crate) fn authz(rules: usize, asked: Asked) -> Value {
    let rule = |index| {
        let mut rule =
            json!({"to": [{"operation": {"methods": ["GET"], "paths": [allowed_path(index, rules) + "*"]}}]});
        if let (Asked::Caller, Some(fields)) = (asked, rule.as_object_mut()) {
            let principal = PEER.trim_start_matches("spiffe://");
            fields.insert("from".to_owned(), json!([{"source": {"principals": [principal]}}]));
            let claim = json!([{"key": "request.auth.claims[group]", "values": [GROUP]}]);
            fields.insert("when".to_owned(), claim);
        }
        rule
    };
    let rules: Vec<Value> = (0..rules).map(rule).collect();
    let policies = rules.chunks(RULES_OF_A_POLICY).enumerate().map(|(number, rules)| {
        json!({
            "apiVersion": "security.istio.io/v1",
            "kind": "AuthorizationPolicy",
            "metadata": {"name": format!("bench-{number}"), "namespace": "production"},
            "spec": {"action": "ALLOW", "rules": rules},
        })
    });
    let settings = match asked {
        Asked::Operation => json!({}),
        Asked::Caller => json!({"peerIdentity": "peerPrincipal", "requestIdentity": "jwt_authn"}),
    };
    configuration(Value::Array(policies.collect()), settings)
}

/// Stock filters that say who calls, for both sides alike.
pub(crate) fn caller() -> [(&'static str, Value); 2] {
    let state = json!({
        "object_key": "io.istio.peer_principal", "factory_key": "envoy.string",
        "format_string": {"text_format_source": {"inline_string": PEER}},
    });
    let claims = json!({"payload": {"iss": ISSUER, "sub": "alice", "group": GROUP}});
    [
        (
            "envoy.filters.http.set_filter_state",
            json!({
                "@type": "type.googleapis.com/envoy.extensions.filters.http.set_filter_state.v3.Config",
                "on_request_headers": [state],
            }),
        ),
        (
            "envoy.filters.http.set_metadata",
            json!({
                "@type": "type.googleapis.com/envoy.extensions.filters.http.set_metadata.v3.Config",
                "metadata": [{"metadata_namespace": "envoy.filters.http.jwt_authn", "value": claims}],
            }),
        ),
    ]
}

/// The principals of a native policy that ask the same.
fn native_principals(asked: Asked) -> Value {
    let ids = match asked {
        Asked::Operation => json!([{"any": true}]),
        Asked::Caller => json!([
            {"or_ids": {"ids": [{"filter_state": {"key": "io.istio.peer_principal", "string_match": {"exact": PEER}}}]}},
            {"or_ids": {"ids": [{"metadata": {
                "filter": "envoy.filters.http.jwt_authn",
                "path": [{"key": "payload"}, {"key": "group"}],
                "value": {"string_match": {"exact": GROUP}},
            }}]}},
        ]),
    };
    json!([{"and_ids": {"ids": ids}}])
}

/// The same as `rbac` with a matcher tree over the path, the fastest form that Envoy has for it; Istio writes policies.
pub(crate) fn native_authz_tree(rules: usize) -> Value {
    let input = |name: &str| {
        json!({"name": name, "typed_config": {
            "@type": "type.googleapis.com/envoy.type.matcher.v3.HttpRequestHeaderMatchInput", "header_name": name}})
    };
    let action = |name: String, action: &str| {
        json!({"action": {"name": "action", "typed_config": {
            "@type": "type.googleapis.com/envoy.config.rbac.v3.Action", "name": name, "action": action}}})
    };
    let on_match = |index| {
        let method =
            json!({"single_predicate": {"input": input(":method"), "value_match": {"exact": "GET"}}});
        let get = json!({"predicate": method, "on_match": action(format!("rule-{index:05}"), "ALLOW")});
        let matcher =
            json!({"matcher_list": {"matchers": [get]}, "on_no_match": action("none".to_owned(), "DENY")});
        (allowed_path(index, rules), json!({"matcher": matcher}))
    };
    let map: serde_json::Map<String, Value> = (0..rules).map(on_match).collect();
    json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC",
        "matcher": {
            "matcher_tree": {"input": input(":path"), "prefix_match_map": {"map": map}},
            "on_no_match": action("none".to_owned(), "DENY"),
        },
    })
}

/// The same as `rbac`, in the form that Istio gives it.
pub(crate) fn native_authz(rules: usize, asked: Asked) -> Value {
    let policy = |index| {
        let method = json!({"header": {"name": ":method", "string_match": {"exact": "GET"}}});
        let path = json!({"url_path": {"path": {"prefix": allowed_path(index, rules)}}});
        let either = |rule: Value| json!({"or_rules": {"rules": [rule]}});
        let permission = json!({"and_rules": {"rules": [either(method), either(path)]}});
        let policy = json!({"permissions": [permission], "principals": native_principals(asked)});
        // Envoy tries them in the order of their names.
        (format!("ns[production]-policy[bench]-rule[{index:05}]"), policy)
    };
    let policies: serde_json::Map<String, Value> = (0..rules).map(policy).collect();
    json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC",
        "rules": {"action": "ALLOW", "policies": policies},
    })
}

/// RateLimit with one bucket, or one for each value of `x-api-key`.
pub(crate) fn rate_limit(per_key: bool, lease: u64) -> Value {
    let mut rule = json!({"limit": {"requests": LIMIT, "per": "1s", "burst": LIMIT, "lease": lease}});
    if let (true, Some(fields)) = (per_key, rule.as_object_mut()) {
        fields.insert("key".to_owned(), json!([{"header": "x-api-key"}]));
    }
    let spec = json!({"rules": [rule]});
    configuration(json!([resource("sailcloth.dev/v1alpha1", "RateLimit", spec)]), json!({}))
}

/// The same as `local_ratelimit`; per key by a descriptor without value, of which Envoy makes one bucket per value.
pub(crate) fn native_rate_limit(per_key: bool) -> Value {
    let bucket = json!({"max_tokens": LIMIT, "tokens_per_fill": LIMIT, "fill_interval": "1s"});
    let always = json!({"default_value": {"numerator": 100, "denominator": "HUNDRED"}});
    let mut filter = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
        "stat_prefix": "bench",
        "token_bucket": bucket,
        "filter_enabled": always,
        "filter_enforced": always,
    });
    if let (true, Some(fields)) = (per_key, filter.as_object_mut()) {
        let action = json!({"request_headers": {"header_name": "x-api-key", "descriptor_key": "key"}});
        fields.insert("rate_limits".to_owned(), json!([{"actions": [action]}]));
        fields
            .insert("descriptors".to_owned(), json!([{"entries": [{"key": "key"}], "token_bucket": bucket}]));
        fields.insert("max_dynamic_descriptors".to_owned(), json!(10_000));
    }
    filter
}

/// The seed's VirtualService: a canary by weight, a match on a header, a default, with timeouts and retries.
pub(crate) fn routing() -> Value {
    let to = |subset: &str, weight: u32| json!({"destination": {"host": "api-service", "subset": subset}, "weight": weight});
    let retries = json!({"attempts": 3, "perTryTimeout": "10s"});
    let spec = json!({
        "hosts": ["api-service", "api-service.production.svc.cluster.local"],
        "http": [
            {
                "match": [{"uri": {"prefix": "/api/v1"}}],
                "route": [to("v1", 90), to("v2", 10)],
                "timeout": "30s",
                "retries": retries,
            },
            {
                "match": [{"headers": {"user-agent": {"regex": ".*Chrome.*"}}}],
                "route": [{"destination": {"host": "api-service", "subset": "v2"}}],
                "timeout": "30s",
            },
            {"route": [to("v1", 100)], "timeout": "30s", "retries": retries},
        ],
    });
    routing_configuration(json!([resource("networking.istio.io/v1", "VirtualService", spec)]))
}

/// Of the routing filter.
pub(crate) fn routing_configuration(resources: Value) -> Value {
    configuration(resources, json!({"clusters": [V1, V2]}))
}

/// The same as Envoy's route table, in the form that Istio gives it.
pub(crate) fn native_routing() -> Value {
    let retry = json!({
        "retry_on": "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes",
        "retriable_status_codes": [503],
        "num_retries": 3,
        "per_try_timeout": "10s",
        "host_selection_retry_max_attempts": 5,
        "retry_host_predicate": [previous_hosts()],
    });
    let chrome = json!({"name": "user-agent", "string_match": {"safe_regex": {"regex": ".*Chrome.*"}}});
    let weighted = json!({"clusters": [{"name": V1, "weight": 90}, {"name": V2, "weight": 10}]});
    json!([
        {"match": {"prefix": "/api/v1"}, "route": {"weighted_clusters": weighted, "timeout": "30s", "retry_policy": retry}},
        {"match": {"prefix": "/", "headers": [chrome]}, "route": {"cluster": V2, "timeout": "30s"}},
        {"match": {"prefix": "/"}, "route": {"cluster": V1, "timeout": "30s", "retry_policy": retry}},
    ])
}

/// The one route behind our routing filter, as in `envoy/routing.yaml`.
pub(crate) fn route_of_the_filter() -> Value {
    let retry = json!({
        "num_retries": 0,
        "host_selection_retry_max_attempts": 5,
        "retry_host_predicate": [previous_hosts()],
    });
    json!([{
        "match": {"prefix": ""},
        "route": {"cluster_header": "x-sailcloth-cluster", "retry_policy": retry},
        "request_headers_to_remove": ["x-sailcloth-cluster"],
    }])
}

pub(crate) fn previous_hosts() -> Value {
    json!({
        "name": "envoy.retry_host_predicates.previous_hosts",
        "typed_config": {"@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"},
    })
}

/// Metrics with Istio's names and labels, nothing switched off.
pub(crate) fn metrics() -> Value {
    configuration(json!([]), json!({}))
}

/// What stands around the filters in `envoy/chain.yaml`: the peer's address written down before them, and the guard
/// that refuses a request which they have not seen.
pub(crate) fn source_address() -> Value {
    let address = "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%";
    json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.http.set_filter_state.v3.Config",
        "on_request_headers": [{
            "object_key": "sailcloth.source_ip",
            "factory_key": "envoy.string",
            "format_string": {"text_format_source": {"inline_string": address}},
        }],
    })
}

/// See [`source_address`].
pub(crate) fn guard() -> Value {
    let state =
        |key: &str, prefix: &str| json!({"filter_state": {"key": key, "string_match": {"prefix": prefix}}});
    let ids = json!([state("wasm.sailcloth.jwt", "\u{1}"), state("wasm.sailcloth.authz", "allow ")]);
    let policy = json!({"permissions": [{"any": true}], "principals": [{"and_ids": {"ids": ids}}]});
    json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC",
        "rules": {"action": "ALLOW", "policies": {"jwt-and-authz-have-decided": policy}},
    })
}
