//! Which workload a resource applies to (`istio-api.md` 1.3).

use sailcloth_core::config::{Fields, Value};

/// Istio's limit on `targetRefs`.
const MAX_TARGET_REFS: usize = 16;

/// The workload that a filter stands in front of (`workload` of its configuration).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    /// Its namespace.
    pub namespace: String,
    /// Its labels, which selectors are compared with.
    pub labels: Vec<(String, String)>,
    /// Its service account.
    pub service_account: Option<String>,
    /// Its trust domain, `cluster.local` by default.
    pub trust_domain: String,
    /// The Gateway it runs for, if it is a gateway: compared with `targetRefs` of kind Gateway.
    pub gateway: Option<String>,
    /// The Services it runs for, if it is a waypoint: compared with `targetRefs` of kind Service.
    pub services: Vec<String>,
}

/// What a resource says about where it applies.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scope {
    /// `selector.matchLabels`: all must be equal.
    pub match_labels: Vec<(String, String)>,
    /// `targetRef` or `targetRefs`.
    pub target_refs: Vec<TargetRef>,
}

/// One of `targetRefs`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetRef {
    /// `Gateway`, `GatewayClass`, `Service` or `ServiceEntry`.
    pub kind: String,
    /// Its name.
    pub name: String,
}

impl Workload {
    /// Reads `workload`.
    #[must_use]
    pub fn read(value: &Value<'_>) -> Option<Self> {
        let fields = value.fields()?;
        let text = |name| fields.get(name).and_then(|value| value.non_empty_text()).map(str::to_owned);
        let namespace =
            fields.required("namespace").and_then(|value| value.non_empty_text()).unwrap_or_default();
        Some(Self {
            namespace: namespace.to_owned(),
            labels: fields.get("labels").and_then(|labels| labels.string_map()).unwrap_or_default(),
            service_account: text("serviceAccount"),
            trust_domain: text("trustDomain").unwrap_or_else(|| "cluster.local".to_owned()),
            gateway: text("gateway"),
            services: fields.get("services").and_then(|services| services.strings()).unwrap_or_default(),
        })
    }

    /// Whether TLS may have ended before this proxy: a gateway or a waypoint.
    #[must_use]
    pub fn is_gateway(&self) -> bool {
        self.gateway.is_some() || !self.services.is_empty()
    }
}

impl Scope {
    /// Reads `selector`, `targetRef` and `targetRefs` of a `spec`.
    #[must_use]
    pub fn read(spec: &Fields<'_>) -> Self {
        let selector = spec.get("selector");
        let match_labels = selector.as_ref().and_then(read_selector).unwrap_or_default();
        let refs = match spec.one_of(&["targetRef", "targetRefs"]) {
            Some(("targetRef", value)) => read_target_ref(&value).map(|target| vec![target]),
            Some((_, value)) => read_target_refs(&value),
            None => None,
        };
        let target_refs = refs.unwrap_or_default();
        if selector.is_some() && !target_refs.is_empty() {
            spec.value().error("`selector` and `targetRefs` exclude each other; keep one");
        }
        Self { match_labels, target_refs }
    }

    /// Whether a resource of `namespace` with this scope applies to `workload`. Policies of the root namespace apply to
    /// the whole mesh.
    #[must_use]
    pub fn applies(&self, namespace: &str, root_namespace: &str, workload: &Workload) -> bool {
        if namespace != workload.namespace && namespace != root_namespace {
            return false;
        }
        if !self.target_refs.is_empty() {
            // An ordinary sidecar ignores a policy with targetRefs: it has neither a gateway nor services.
            return self.target_refs.iter().any(|target| target.names(workload));
        }
        self.match_labels.iter().all(|label| workload.labels.contains(label))
    }
}

impl TargetRef {
    fn names(&self, workload: &Workload) -> bool {
        match self.kind.as_str() {
            "Gateway" => workload.gateway.as_deref() == Some(self.name.as_str()),
            "Service" | "ServiceEntry" => workload.services.contains(&self.name),
            _ => false,
        }
    }
}

fn read_selector(value: &Value<'_>) -> Option<Vec<(String, String)>> {
    let labels = value.fields()?.get("matchLabels")?;
    for (key, entry) in labels.entries()? {
        if key.is_empty() {
            entry.error("a label name may not be empty");
        }
        if key.contains('*') || entry.node().text().is_some_and(|text| text.contains('*')) {
            entry.error("`*` is not supported in a selector; labels are compared for equality");
        }
    }
    labels.string_map()
}

fn read_target_refs(value: &Value<'_>) -> Option<Vec<TargetRef>> {
    let refs = value.list(|item| read_target_ref(&item))?;
    if refs.len() > MAX_TARGET_REFS {
        value.error(format!("at most {MAX_TARGET_REFS} targetRefs are allowed, found {}", refs.len()));
    }
    Some(refs)
}

fn read_target_ref(value: &Value<'_>) -> Option<TargetRef> {
    const TARGETS: [(&str, &str); 4] = [
        ("Gateway", "gateway.networking.k8s.io"),
        ("GatewayClass", "gateway.networking.k8s.io"),
        ("Service", ""),
        ("ServiceEntry", "networking.istio.io"),
    ];
    let fields = value.fields()?;
    let kind = fields.required("kind")?.word(&TARGETS.map(|(kind, group)| (kind, (kind, group))));
    let name = fields.required("name").and_then(|name| name.non_empty_text());
    let group = fields.get("group").and_then(|group| group.text()).unwrap_or_default();
    if fields.get("namespace").is_some() {
        value.error("`namespace` is not supported in a targetRef; the policy's own namespace is meant");
    }
    let (kind, expected) = kind?;
    if group != expected && !(kind == "Service" && group == "core") {
        value.error(format!("a targetRef of kind `{kind}` has group `{expected}`, found `{group}`"));
    }
    Some(TargetRef { kind: kind.to_owned(), name: name?.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn workload(namespace: &str, app: &str) -> Workload {
        Workload {
            namespace: namespace.into(),
            labels: vec![("app".into(), app.into()), ("version".into(), "v1".into())],
            service_account: None,
            trust_domain: "cluster.local".into(),
            gateway: None,
            services: Vec::new(),
        }
    }

    fn labels(app: &str) -> Scope {
        Scope { match_labels: vec![("app".into(), app.into())], target_refs: Vec::new() }
    }

    #[test]
    fn selectors_apply_as_in_istio() {
        let everyone = Scope::default();
        for (scope, namespace, applies) in [
            (&everyone, "istio-system", true),
            (&everyone, "production", true),
            (&everyone, "staging", false),
            (&labels("api"), "production", true),
            (&labels("web"), "production", false),
            (&labels("api"), "istio-system", true),
            (&labels("web"), "istio-system", false),
            (&labels("api"), "staging", false),
        ] {
            let found = scope.applies(namespace, "istio-system", &workload("production", "api"));
            assert_eq!(found, applies, "{scope:?} in {namespace}");
        }
    }

    #[test]
    fn target_refs_name_gateways_and_services_only() {
        let scope = Scope {
            target_refs: vec![TargetRef { kind: "Gateway".into(), name: "edge".into() }],
            ..Scope::default()
        };
        let sidecar = workload("production", "api");
        let gateway = Workload { gateway: Some("edge".into()), ..sidecar.clone() };
        assert!(!scope.applies("production", "istio-system", &sidecar));
        assert!(scope.applies("production", "istio-system", &gateway));
    }
}
