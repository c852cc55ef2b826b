//! What is measured: each variant is one Envoy, told apart by its filters and its routes.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::{
    bootstrap::{self, EnvoyPorts, filter, wasm},
    policy::{self, Asked, Jwt, Trusted},
    request::{FOREIGN_AUDIENCE, FOREIGN_ISSUER, Foreign, TokenOf},
    routes::{self, Shape},
};

/// The Envoy that answers by itself and has no filter but the router; and the one with an upstream.
pub(crate) const BASE: &str = "base";
pub(crate) const UPSTREAM_BASE: &str = "upstream-base";
const EMPTY: &str = "empty";
const UPSTREAM_EMPTY: &str = "upstream-empty";

/// The rules of the authorization policies.
const RULES: usize = 20;
const MANY_RULES: usize = 200;

/// One Envoy.
#[derive(Clone, Debug)]
pub(crate) struct Variant {
    /// Its name in tables, in `--only` and in JSON.
    pub(crate) name: String,
    /// What it is, for the table.
    pub(crate) what: String,
    /// The native variant with the same job.
    pub(crate) native: Option<String>,
    /// With an upstream; else it answers by itself.
    pub(crate) upstream: bool,
    /// The requests' token.
    pub(crate) token: TokenOf,
    /// What shows that it does its job.
    pub(crate) proofs: Vec<Proof>,
    filters: Vec<Value>,
    virtual_hosts: Value,
}

/// What shows that a variant does the job that is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Proof {
    /// A forged token is answered 401.
    ForgedTokenIsRefused,
    /// A path that no rule allows is answered 403.
    OtherPathIsRefused,
    /// Metrics whose name matches the regular expression have counted at least this share of the requests.
    Counted(&'static str, f64),
}

impl Variant {
    fn new(name: &str, what: &str) -> Self {
        Self {
            name: name.to_owned(),
            what: what.to_owned(),
            native: None,
            upstream: false,
            token: TokenOf::Rs256,
            proofs: Vec::new(),
            filters: Vec::new(),
            virtual_hosts: bootstrap::any_host(bootstrap::direct_response()),
        }
    }

    fn filters(mut self, filters: Vec<Value>) -> Self {
        self.filters = filters;
        self
    }

    fn upstream(self, routes: Value) -> Self {
        self.virtual_hosts(bootstrap::any_host(routes))
    }

    fn virtual_hosts(mut self, virtual_hosts: Value) -> Self {
        self.upstream = true;
        self.virtual_hosts = virtual_hosts;
        self
    }

    fn against(mut self, native: &str) -> Self {
        self.native = Some(native.to_owned());
        self
    }

    fn proofs(mut self, proofs: &[Proof]) -> Self {
        self.proofs = proofs.to_vec();
        self
    }

    /// The variant that this one adds to.
    pub(crate) fn base(&self) -> &'static str {
        if self.upstream { UPSTREAM_BASE } else { BASE }
    }

    /// The empty filter in the same place.
    pub(crate) fn empty(&self) -> &'static str {
        if self.upstream { UPSTREAM_EMPTY } else { EMPTY }
    }

    /// Whether it is one of our filters, or several; the empty one is none.
    pub(crate) fn is_ours(&self) -> bool {
        self.is_wasm() && !self.name.contains(EMPTY)
    }

    /// Whether it runs any module.
    pub(crate) fn is_wasm(&self) -> bool {
        self.filters.iter().any(|filter| filter.pointer("/typed_config/config/vm_config").is_some())
    }

    /// The configuration of its Envoy.
    pub(crate) fn bootstrap(&self, ports: EnvoyPorts) -> Value {
        bootstrap::bootstrap(ports, &self.filters, &self.virtual_hosts)
    }

    /// The same with another file in the place of each module.
    fn with_module(mut self, module: &Path) -> Self {
        self.name = format!("{}@{}", self.name, module.file_stem().unwrap_or_default().to_string_lossy());
        self.what = format!("{}, module `{}`", self.what, module.display());
        for filter in &mut self.filters {
            if let Some(file) = filter.pointer_mut("/typed_config/config/vm_config/code/local/filename") {
                *file = json!(module);
            }
        }
        self
    }
}

/// A module given on the command line.
#[derive(Clone, Debug)]
pub(crate) struct ExtraModule {
    /// The variant whose configuration it gets; the empty filter's when none is named.
    pub(crate) variant: Option<String>,
    /// The file.
    pub(crate) path: PathBuf,
}

/// All variants.
#[derive(Debug)]
pub(crate) struct Catalog<'a> {
    /// The directory of the filters' modules.
    pub(crate) modules: &'a Path,
    /// The module of the empty filter.
    pub(crate) empty: &'a Path,
    /// The issuer's keys.
    pub(crate) jwks: &'a str,
    /// How many routes the tables of routes have, ascending.
    pub(crate) route_counts: &'a [usize],
}

impl Catalog<'_> {
    /// All variants, bases first.
    pub(crate) fn variants(&self) -> Vec<Variant> {
        let mut variants = self.empties();
        variants.extend(self.jwt());
        variants.extend(self.authz());
        variants.extend(self.rate_limit());
        variants.push(
            Variant::new("metrics", "metrics")
                .filters(vec![self.ours("metrics", policy::metrics())])
                .proofs(&[Proof::Counted("istio_requests_total", 1.0)]),
        );
        variants.extend(self.routing());
        variants.extend(self.route_counts.iter().flat_map(|count| self.routes(Shape::Paths, *count)));
        if let Some(count) = self.route_counts.last() {
            variants.extend(self.routes(Shape::Header, *count));
            variants.extend(self.routes(Shape::Hosts, *count));
        }
        variants.extend(self.chain());
        variants
    }

    /// `variants` and those of `--module`.
    ///
    /// # Errors
    /// The name of a variant that does not exist.
    pub(crate) fn with_extra(&self, extra: &[ExtraModule]) -> Result<Vec<Variant>, String> {
        let mut variants = self.variants();
        for module in extra {
            let name = module.variant.as_deref().unwrap_or(EMPTY);
            let like = variants.iter().find(|variant| variant.name == name).cloned();
            variants.push(like.ok_or_else(|| name.to_owned())?.with_module(&module.path));
        }
        Ok(variants)
    }

    fn ours(&self, name: &str, configuration: Value) -> Value {
        self.ours_in(&format!("sailcloth-{name}"), name, configuration)
    }

    fn ours_in(&self, vm_id: &str, name: &str, configuration: Value) -> Value {
        let module = self.modules.join(format!("{name}.wasm"));
        wasm(&format!("sailcloth.{name}"), vm_id, &module, configuration)
    }

    fn empty(&self, number: usize, vm_id: &str) -> Value {
        wasm(&format!("sailcloth.empty.{number}"), vm_id, self.empty, json!({}))
    }

    fn empties(&self) -> Vec<Variant> {
        let five = |vm: fn(usize) -> String| (0..5).map(|number| self.empty(number, &vm(number))).collect();
        vec![
            Variant::new(BASE, "no filter, Envoy answers"),
            Variant::new(EMPTY, "empty filter").filters(vec![self.empty(0, "sailcloth-empty")]),
            Variant::new("empty-x5-one-vm", "five empty filters in one VM")
                .filters(five(|_| "sailcloth-empty".to_owned())),
            Variant::new("empty-x5-five-vms", "five empty filters in five VMs")
                .filters(five(|number| format!("sailcloth-empty-{number}"))),
            Variant::new(UPSTREAM_BASE, "no filter, an upstream answers").upstream(bootstrap::plain_route()),
            Variant::new(UPSTREAM_EMPTY, "empty filter, upstream")
                .upstream(bootstrap::plain_route())
                .filters(vec![self.empty(0, "sailcloth-empty")]),
        ]
    }

    fn jwt(&self) -> Vec<Variant> {
        let cached = Jwt { cached: true, ..Jwt::default() };
        let forwarded = Jwt { cached: true, forwarded: true };
        let cases = [
            ("jwt-rs256", "native-jwt-rs256", "RS256, no cache", TokenOf::Rs256, Jwt::default()),
            ("jwt-rs256-cached", "native-jwt-rs256-cached", "RS256, cached", TokenOf::Rs256, cached),
            (
                "jwt-rs256-cached-forwarded",
                "native-jwt-rs256-cached-forwarded",
                "RS256, cached, token forwarded",
                TokenOf::Rs256,
                forwarded,
            ),
            ("jwt-es256", "native-jwt-es256", "ES256, no cache", TokenOf::Es256, Jwt::default()),
            ("jwt-es256-cached", "native-jwt-es256-cached", "ES256, cached", TokenOf::Es256, cached),
        ];
        cases
            .into_iter()
            .flat_map(|(ours, native, what, token, jwt)| {
                self.jwt_pair("jwt", (ours, native), what, token, Trusted::issuer(self.jwks), jwt)
            })
            .chain(self.jwt_foreign())
            .collect()
    }

    /// Algorithms that are verified in the module; a token of about 600 bytes.
    fn jwt_foreign(&self) -> Vec<Variant> {
        let cases = [
            ("jwt", "jwt-hs256", "native-jwt-hs256", "HS256"),
            ("jwt", "jwt-eddsa", "native-jwt-eddsa", "EdDSA"),
            ("jwt-full", "jwt-ps256", "native-jwt-ps256", "PS256"),
        ];
        let pair = |(module, ours, native, algorithm): (&str, &str, &'static str, &str)| {
            let foreign = Foreign::named(algorithm);
            let jwks = foreign.jwks.clone();
            let trusted = Trusted { issuer: FOREIGN_ISSUER, audience: FOREIGN_AUDIENCE, jwks: &jwks };
            let what = format!("{algorithm}, no cache");
            self.jwt_pair(module, (ours, native), &what, TokenOf::Foreign(foreign), trusted, Jwt::default())
        };
        cases.into_iter().flat_map(pair).collect()
    }

    fn jwt_pair(
        &self,
        module: &str,
        (ours, native): (&str, &'static str),
        what: &str,
        token: TokenOf,
        trusted: Trusted<'_>,
        jwt: Jwt,
    ) -> [Variant; 2] {
        let counter = if jwt.cached { r"jwt_authn\.jwt_cache_hit" } else { r"jwt_authn\.allowed" };
        let ours = Variant::new(ours, &format!("jwt, {what}"))
            .filters(vec![self.ours(module, policy::jwt(trusted, jwt))])
            .against(native)
            .proofs(&[
                Proof::ForgedTokenIsRefused,
                Proof::Counted(r"sailcloth_jwt_decisions_total.*outcome=\.=allow", 1.0),
            ]);
        let native = Variant::new(native, &format!("native jwt_authn, {what}"))
            .filters(vec![filter("envoy.filters.http.jwt_authn", policy::native_jwt(trusted, jwt))])
            .proofs(&[Proof::ForgedTokenIsRefused, Proof::Counted(counter, 0.99)]);
        [ours, native].map(|variant| Variant { token: token.clone(), ..variant })
    }

    fn authz(&self) -> Vec<Variant> {
        let allowed = Proof::Counted(r"sailcloth_authz_decisions_total.*outcome=\.=allow", 1.0);
        let ours = |name: &str, rules: usize, asked: Asked, what: &str| {
            let filters = said(asked).chain([self.ours("authz", policy::authz(rules, asked))]);
            Variant::new(name, &format!("authz, {rules} rules{what}, the last matches"))
                .filters(filters.collect())
                .proofs(&[Proof::OtherPathIsRefused, allowed])
        };
        let native = |name: &str, rules: usize, asked: Asked, what: &str| {
            let rbac = filter("envoy.filters.http.rbac", policy::native_authz(rules, asked));
            Variant::new(name, &format!("native rbac, {rules} policies{what}, the last matches"))
                .filters(said(asked).chain([rbac]).collect())
                .proofs(&[Proof::OtherPathIsRefused, Proof::Counted(r"rbac\.allowed", 1.0)])
        };
        let tree = |name: &str, rules: usize| {
            Variant::new(name, &format!("native rbac, a matcher tree of {rules} paths"))
                .filters(vec![filter("envoy.filters.http.rbac", policy::native_authz_tree(rules))])
                .proofs(&[Proof::OtherPathIsRefused, Proof::Counted(r"rbac\.allowed", 1.0)])
        };
        let (operation, caller) = (Asked::Operation, Asked::Caller);
        let who = " with principal and claim";
        vec![
            ours("authz", RULES, operation, "").against("native-rbac"),
            native("native-rbac", RULES, operation, ""),
            ours("authz-who", RULES, caller, who).against("native-rbac-who"),
            native("native-rbac-who", RULES, caller, who),
            ours("authz-200", MANY_RULES, operation, "").against("native-rbac-200"),
            native("native-rbac-200", MANY_RULES, operation, ""),
            ours("authz-10", 10, operation, "").against("native-rbac-10"),
            native("native-rbac-10", 10, operation, ""),
            ours("authz-1000", 1000, operation, "").against("native-rbac-1000"),
            native("native-rbac-1000", 1000, operation, ""),
            tree("native-rbac-tree-1000", 1000),
            ours("authz-10000", 10_000, operation, "").against("native-rbac-tree-10000"),
            tree("native-rbac-tree-10000", 10_000),
        ]
    }

    fn rate_limit(&self) -> Vec<Variant> {
        let cases = [
            ("ratelimit", "native-local-ratelimit", "one bucket", false),
            ("ratelimit-keys", "native-local-ratelimit-keys", "a bucket per x-api-key", true),
        ];
        let leased = |name: &str, native, what: &str, per_key| {
            Variant::new(name, &format!("ratelimit, {what}, in leases of 20"))
                .filters(vec![self.ours("ratelimit", policy::rate_limit(per_key, 20))])
                .against(native)
                .proofs(&[Proof::Counted("sailcloth_ratelimit_decisions_total", 1.0)])
        };
        let leases = [
            leased("ratelimit-leased", "native-local-ratelimit", "one bucket", false),
            leased("ratelimit-keys-leased", "native-local-ratelimit-keys", "a bucket per x-api-key", true),
        ];
        let pair = |(ours, native, what, per_key): (&str, &'static str, &str, bool)| {
            let ours = Variant::new(ours, &format!("ratelimit, {what}"))
                .filters(vec![self.ours("ratelimit", policy::rate_limit(per_key, 1))])
                .against(native)
                .proofs(&[Proof::Counted("sailcloth_ratelimit_decisions_total", 1.0)]);
            let native = Variant::new(native, &format!("native local_ratelimit, {what}"))
                .filters(vec![filter(
                    "envoy.filters.http.local_ratelimit",
                    policy::native_rate_limit(per_key),
                )])
                .proofs(&[Proof::Counted(r"http_local_rate_limit\.ok", 1.0)]);
            [ours, native]
        };
        cases.into_iter().flat_map(pair).chain(leases).collect()
    }

    fn routing(&self) -> [Variant; 2] {
        let canary = Proof::Counted(r"cluster\.outbound\|80\|v2.*upstream_rq_completed$", 0.05);
        [
            Variant::new("routing", "routing, canary 90/10")
                .upstream(policy::route_of_the_filter())
                .filters(vec![self.ours("routing", policy::routing())])
                .against("native-routes")
                .proofs(&[canary, Proof::Counted("sailcloth_routing_decisions_total", 1.0)]),
            Variant::new("native-routes", "native route table, weighted_clusters 90/10")
                .upstream(policy::native_routing())
                .proofs(&[canary]),
        ]
    }

    /// Ours, native's list and native's tree.
    fn routes(&self, shape: Shape, count: usize) -> Vec<Variant> {
        let words = format!("{count} {}", shape.words());
        let names =
            ["routes", "native-list", "native-tree"].map(|name| format!("{name}{}-{count}", shape.suffix()));
        let [ours, list, tree] = &names;
        let upstream = Proof::Counted(r"cluster\.outbound\|80\|v1.*upstream_rq_completed$", 1.0);
        let mut variants = vec![
            Variant::new(ours, &format!("routing, {words}"))
                .upstream(policy::route_of_the_filter())
                .filters(vec![self.ours("routing", routes::ours(shape, count))])
                .against(list)
                .proofs(&[
                    upstream,
                    Proof::Counted("sailcloth_routing_decisions_total.*outcome=.=route", 1.0),
                ]),
            Variant::new(list, &format!("native route list, {words}"))
                .virtual_hosts(routes::native_list(shape, count))
                .proofs(&[upstream]),
        ];
        // Virtual hosts are looked up by hash; there is no tree of them.
        if shape != Shape::Hosts {
            variants.push(
                Variant::new(tree, &format!("native matcher tree, {words}"))
                    .virtual_hosts(routes::native_tree(shape, count))
                    .proofs(&[upstream]),
            );
        }
        variants
    }

    fn chain(&self) -> Vec<Variant> {
        let cached = Jwt { cached: true, ..Jwt::default() };
        let own_vm: fn(&str) -> String = |name| format!("sailcloth-{name}");
        let one_id: fn(&str) -> String = |_| "sailcloth".to_owned();
        let proofs = [
            Proof::ForgedTokenIsRefused,
            Proof::OtherPathIsRefused,
            Proof::Counted("sailcloth_routing_decisions_total", 1.0),
        ];
        let chain = |name: &str, what: &str, filters: Vec<Value>| {
            Variant::new(name, what)
                .upstream(policy::route_of_the_filter())
                .filters(filters)
                .against("native-chain-cached")
                .proofs(&proofs)
        };
        let mut four = self.five(cached, own_vm);
        four.truncate(4);
        vec![
            chain("chain-cached", "the five filters, tokens cached", self.five(cached, own_vm)),
            chain(
                "chain-cached-one-vm-id",
                "the five filters, tokens cached, one vm_id for all",
                self.five(cached, one_id),
            ),
            chain("chain-cached-no-metrics", "the four filters without metrics, tokens cached", four),
            chain(
                "chain-cached-guarded",
                "as in envoy/chain.yaml: source address, the five filters, guard",
                self.guarded(self.five(cached, own_vm)),
            ),
            chain("chain", "the five filters, no token cache", self.five(Jwt::default(), own_vm))
                .against("native-chain"),
            self.native_chain("native-chain-cached", "tokens cached", cached),
            self.native_chain("native-chain", "no token cache", Jwt::default()),
        ]
    }

    fn five(&self, jwt: Jwt, vm_id: fn(&str) -> String) -> Vec<Value> {
        let filters = [
            ("jwt", policy::jwt(Trusted::issuer(self.jwks), jwt)),
            ("authz", policy::authz(RULES, Asked::Operation)),
            ("ratelimit", policy::rate_limit(false, 1)),
            ("routing", policy::routing()),
            ("metrics", policy::metrics()),
        ];
        let make = |(name, configuration)| self.ours_in(&vm_id(name), name, configuration);
        filters.into_iter().map(make).collect()
    }

    fn guarded(&self, filters: Vec<Value>) -> Vec<Value> {
        let mut all = vec![filter("envoy.filters.http.set_filter_state", policy::source_address())];
        all.extend(filters);
        all.push(filter("sailcloth.guard", policy::guard()));
        all
    }

    fn native_chain(&self, name: &str, what: &str, jwt: Jwt) -> Variant {
        Variant::new(name, &format!("native jwt_authn, rbac, local_ratelimit, route table, {what}"))
            .upstream(policy::native_routing())
            .filters(vec![
                filter("envoy.filters.http.jwt_authn", policy::native_jwt(Trusted::issuer(self.jwks), jwt)),
                filter("envoy.filters.http.rbac", policy::native_authz(RULES, Asked::Operation)),
                filter("envoy.filters.http.local_ratelimit", policy::native_rate_limit(false)),
            ])
            .proofs(&[
                Proof::ForgedTokenIsRefused,
                Proof::OtherPathIsRefused,
                Proof::Counted(r"http_local_rate_limit\.ok", 1.0),
            ])
    }
}

/// The stock filters that say who calls, where the rules ask.
fn said(asked: Asked) -> impl Iterator<Item = Value> {
    let filters = (asked == Asked::Caller).then(policy::caller);
    filters.into_iter().flatten().map(|(name, configuration)| filter(name, configuration))
}

/// The variants whose names contain one of `patterns`, with the bases, empty filters and counterparts that their figures
/// are differences to; all when there is no pattern.
pub(crate) fn select(all: Vec<Variant>, patterns: &[String]) -> Vec<Variant> {
    let asked = |variant: &Variant| {
        patterns.is_empty() || patterns.iter().any(|pattern| variant.name.contains(pattern.as_str()))
    };
    let mut names: Vec<String> = Vec::new();
    for variant in all.iter().filter(|variant| asked(variant)) {
        let needed = [Some(variant.base()), Some(variant.empty()), variant.native.as_deref()];
        names.extend(needed.into_iter().flatten().map(str::to_owned));
        names.push(variant.name.clone());
    }
    all.into_iter().filter(|variant| names.contains(&variant.name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn catalog() -> Catalog<'static> {
        let (modules, empty) = (Path::new("dist"), Path::new("empty.wasm"));
        Catalog { modules, empty, jwks: "{}", route_counts: &[5, 6] }
    }

    #[test]
    fn names_are_unique_and_counterparts_exist() {
        let all = catalog().variants();
        let names: Vec<&str> = all.iter().map(|variant| variant.name.as_str()).collect();
        for variant in &all {
            assert_eq!(names.iter().filter(|name| **name == variant.name).count(), 1, "{}", variant.name);
            for needed in
                [Some(variant.base()), Some(variant.empty()), variant.native.as_deref()].into_iter().flatten()
            {
                assert!(names.contains(&needed), "{needed}");
            }
            assert_eq!(
                variant.native.is_some(),
                variant.is_ours() && variant.name != "metrics",
                "{}",
                variant.name
            );
        }
    }

    #[test]
    fn a_selection_keeps_what_its_figures_are_differences_to() {
        let names = |patterns: &[&str]| -> Vec<String> {
            let patterns: Vec<String> = patterns.iter().map(|&pattern| pattern.to_owned()).collect();
            select(catalog().variants(), &patterns).into_iter().map(|variant| variant.name).collect()
        };
        assert_eq!(names(&["authz-200"]), ["base", "empty", "authz-200", "native-rbac-200"]);
        assert_eq!(names(&["native-routes"]), ["upstream-base", "upstream-empty", "native-routes"]);
        assert_eq!(names(&[]).len(), catalog().variants().len());
        assert!(names(&["nothing"]).is_empty());
    }

    #[test]
    fn a_module_from_the_command_line_takes_the_place_of_the_filters_own() {
        let extra = |variant: Option<&str>| ExtraModule {
            variant: variant.map(str::to_owned),
            path: PathBuf::from("/tmp/x.wasm"),
        };
        let all = catalog().with_extra(&[extra(None), extra(Some("authz"))]).unwrap();
        let last: Vec<&Variant> = all.iter().rev().take(2).collect();
        assert_eq!((last[0].name.as_str(), last[1].name.as_str()), ("authz@x", "empty@x"));
        assert_eq!(last[0].native.as_deref(), Some("native-rbac"));
        let ports = EnvoyPorts { listener: 1, admin: 2, upstream: 3 };
        let text = last[0].bootstrap(ports).to_string();
        assert!(text.contains("/tmp/x.wasm") && !text.contains("dist/"), "{text}");
        assert_eq!(catalog().with_extra(&[extra(Some("no"))]).unwrap_err(), "no");
    }
}
