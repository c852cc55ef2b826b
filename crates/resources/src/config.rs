//! The configuration of a filter: `resources`, `workload`, `settings`.

use sailcloth_core::config::{Fields, Node, Path, Problem, Problems, Severity, Value, did_you_mean};
use sailcloth_core::facts::Sources;

use crate::{Kind, Metadata, Scope, Workload};

/// A kind of resource that a filter owns, as a type.
pub trait Resource: Sized {
    /// The kinds it is read from; the same type may carry Istio's kind and our extension of it.
    const KINDS: &'static [Kind];
    /// The annotations that take effect on it.
    const ANNOTATIONS: &'static [&'static str];

    /// Reads `spec`. Problems are reported through it; `None` when nothing sensible can be made of it.
    fn read(kind: Kind, metadata: &Metadata, spec: &Value<'_>) -> Option<Self>;

    /// Where it says that it applies; `None` for kinds without selector or targetRefs.
    fn scope(&self) -> Option<&Scope>;
}

/// One document of `resources`.
#[derive(Debug, Clone)]
pub struct Loaded<R> {
    /// Name, namespace, annotations.
    pub metadata: Metadata,
    /// What it says.
    pub spec: R,
    /// Where it stands, for problems found when resources are compiled together.
    pub path: Path,
}

/// Settings that all filters share.
#[derive(Debug, Clone)]
pub struct CommonSettings {
    /// Where identity and addresses are read.
    pub sources: Sources,
    /// Whether `settings.peerIdentity` was written: a gateway must say where its peers' identity is.
    pub peer_identity_stated: bool,
    /// Istio's root namespace, whose policies apply to the whole mesh (`settings.rootNamespace`).
    pub root_namespace: String,
}

impl CommonSettings {
    fn read(fields: &Fields<'_>) -> Self {
        let root = fields.get("rootNamespace").and_then(|value| value.non_empty_text());
        Self {
            sources: Sources::read(fields),
            peer_identity_stated: fields.get("peerIdentity").is_some(),
            root_namespace: root.unwrap_or("istio-system").to_owned(),
        }
    }
}

/// A filter's configuration, of which every part was understood.
#[derive(Debug, Clone)]
pub struct Config<R, S> {
    /// The documents, in their order.
    pub resources: Vec<Loaded<R>>,
    /// Whom they are for; absent: all of them take effect.
    pub workload: Option<Workload>,
    /// Settings that all filters share.
    pub common: CommonSettings,
    /// The filter's own settings.
    pub settings: S,
}

impl<R: Resource, S> Config<R, S> {
    /// Reads a filter's configuration from the bytes that Envoy hands over, then compiles it: `settings` reads the
    /// filter's own settings (also when none are written), `compile` makes the engine. Every problem of every document
    /// is reported.
    ///
    /// # Errors
    /// All problems, warnings included, when at least one refuses the configuration.
    pub fn load<E>(
        text: &[u8],
        settings: impl FnOnce(&Fields<'_>) -> S,
        compile: impl FnOnce(Self, &Problems) -> E,
    ) -> Result<(E, Vec<Problem>), Vec<Problem>> {
        let node = Node::from_plugin_configuration(text).map_err(|error| vec![refusal(error.to_string())])?;
        Self::load_node(&node, settings, compile)
    }

    /// [`Config::load`] from a tree that was parsed elsewhere (the host; YAML in the tests and the CLI).
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load_node<E>(
        node: &Node,
        settings: impl FnOnce(&Fields<'_>) -> S,
        compile: impl FnOnce(Self, &Problems) -> E,
    ) -> Result<(E, Vec<Problem>), Vec<Problem>> {
        if *node == Node::Null {
            return Err(vec![refusal("the configuration is empty; it needs at least `resources`".into())]);
        }
        let problems = Problems::default();
        let root = Value::root(node, &problems);
        let engine = Self::read(&root, settings).map(|config| {
            config.report_no_effect(&root);
            config.refuse_gateway_classes(&problems);
            compile(config, &problems)
        });
        match engine {
            Some(engine) if !problems.refuse() => Ok((engine, problems.list())),
            _ => Err(problems.list()),
        }
    }

    fn read(root: &Value<'_>, settings: impl FnOnce(&Fields<'_>) -> S) -> Option<Self> {
        let fields = root.fields()?;
        let resources = fields.required("resources").and_then(|list| list.list(|item| read_document(&item)));
        let workload = fields.get("workload").and_then(|value| Workload::read(&value));
        let nothing = Node::Map(Vec::new());
        let written = fields.get("settings").unwrap_or_else(|| Value::root(&nothing, root.problems()));
        let written = written.fields()?;
        Some(Self {
            resources: resources.unwrap_or_default(),
            workload,
            common: CommonSettings::read(&written),
            settings: settings(&written),
        })
    }

    /// The documents that apply to the workload, in their order; all of them where no workload is given.
    #[must_use]
    pub fn applicable(&self) -> Vec<&Loaded<R>> {
        self.resources.iter().filter(|resource| self.applies(resource)).collect()
    }

    /// A filter whose every policy is for somebody else lets everything through: seldom what was meant, and seen only here.
    fn report_no_effect(&self, root: &Value<'_>) {
        let Some(workload) = &self.workload else { return };
        if !self.resources.is_empty() && self.applicable().is_empty() {
            root.warn(format!(
                "none of the {} resources applies to `workload`: namespace `{}`, its labels or targetRefs do not match; a \
                 resource without `metadata.namespace` is in `default`",
                self.resources.len(),
                workload.namespace
            ));
        }
    }

    /// A waypoint or gateway does not know its class, so whether such a policy is for it cannot be decided; a DENY must not
    /// get lost. Sidecars have no class.
    fn refuse_gateway_classes(&self, problems: &Problems) {
        let Some(workload) = self.workload.as_ref().filter(|workload| workload.is_gateway()) else { return };
        for resource in &self.resources {
            let namespace = &resource.metadata.namespace;
            let here = *namespace == workload.namespace || *namespace == self.common.root_namespace;
            let by_class =
                |scope: &Scope| scope.target_refs.iter().any(|target| target.kind == "GatewayClass");
            if here && resource.spec.scope().is_some_and(by_class) {
                problems.report(Problem {
                    severity: Severity::Error,
                    path: resource.path.to_string(),
                    message: "a targetRef of kind `GatewayClass` is not supported on a gateway or waypoint: the filter does \
                              not know its class; name the Gateway or the Services"
                        .to_owned(),
                });
            }
        }
    }

    fn applies(&self, resource: &Loaded<R>) -> bool {
        match (&self.workload, resource.spec.scope()) {
            (Some(workload), Some(scope)) => {
                scope.applies(&resource.metadata.namespace, &self.common.root_namespace, workload)
            }
            _ => true,
        }
    }
}

fn refusal(message: String) -> Problem {
    Problem { severity: Severity::Error, path: String::new(), message }
}

fn read_document<R: Resource>(value: &Value<'_>) -> Option<Loaded<R>> {
    let fields = value.fields()?;
    // What a cluster adds to a document it gives back; no part of the policy.
    let _ = fields.get("status");
    let kind = read_kind::<R>(&fields);
    let metadata = fields.required("metadata").and_then(|value| Metadata::read(&value, R::ANNOTATIONS));
    let spec = fields.get("spec");
    let kind = kind?;
    let metadata = metadata?;
    // `spec` may be absent where every field of it is optional: that is an empty spec, which for an
    // AuthorizationPolicy denies everything.
    let nothing = Node::Map(Vec::new());
    let spec = spec.unwrap_or_else(|| Value::at(&nothing, value.path().key("spec"), value.problems()));
    let spec = R::read(kind, &metadata, &spec)?;
    Some(Loaded { metadata, spec, path: value.path().clone() })
}

fn read_kind<R: Resource>(fields: &Fields<'_>) -> Option<Kind> {
    let api = fields.required("apiVersion").and_then(|value| value.text());
    let name = fields.required("kind").and_then(|value| value.text());
    let (api, name) = (api?, name?);
    let (group, version) = api.split_once('/').unwrap_or(("", api));
    let Some(kind) = R::KINDS.iter().find(|kind| kind.name == name && kind.group == group) else {
        fields.value().error(foreign_kind::<R>(group, name));
        return None;
    };
    if !kind.versions.contains(&version) {
        let served: Vec<String> =
            kind.versions.iter().map(|version| format!("`{group}/{version}`")).collect();
        fields.value().error(format!("`{api}` is not a version of `{name}`; expected {}", served.join(", ")));
    }
    Some(*kind)
}

fn foreign_kind<R: Resource>(group: &str, name: &str) -> String {
    let mut owned: Vec<&str> = R::KINDS.iter().map(|kind| kind.name).collect();
    owned.dedup();
    let this = R::KINDS.first().map_or("", |kind| kind.filter.name());
    let takes = format!("this is the {this} filter, which takes {}", owned.join(", "));
    if let Some(owner) = Kind::ALL.iter().find(|kind| kind.name == name && kind.group == group) {
        return format!("`{name}` belongs to the {} filter; {takes}", owner.filter.name());
    }
    match Kind::ALL.iter().find(|kind| kind.name == name) {
        Some(kind) => format!("`{name}` has apiVersion `{}/…`, found group `{group}`", kind.group),
        None => format!("unknown kind `{name}`{}; {takes}", did_you_mean(name, &owned)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[derive(Debug)]
    struct Policy(Scope);

    impl Resource for Policy {
        const KINDS: &'static [Kind] = &[Kind::AUTHORIZATION_POLICY];
        const ANNOTATIONS: &'static [&'static str] = &["istio.io/dry-run", "sailcloth.dev/mode"];

        fn read(_: Kind, _: &Metadata, spec: &Value<'_>) -> Option<Self> {
            Some(Self(Scope::read(&spec.fields()?)))
        }

        fn scope(&self) -> Option<&Scope> {
            Some(&self.0)
        }
    }

    fn load(json: &str) -> Result<Vec<String>, Vec<String>> {
        Config::<Policy, ()>::load(json.as_bytes(), |_| (), |config, _| config.applicable().len())
            .map(|(count, problems)| vec![format!("{count} apply, {} problems", problems.len())])
            .map_err(|problems| problems.iter().map(ToString::to_string).collect())
    }

    fn document(rest: &str) -> String {
        format!(r#"{{"apiVersion":"security.istio.io/v1","kind":"AuthorizationPolicy",{rest}}}"#)
    }

    #[test]
    fn three_mistakes_are_three_located_messages() {
        let bad = format!(
            r#"{{"resources":[{},{}],"workloads":{{}}}}"#,
            document(r#""metadata":{"name":"a","namespace":5},"spec":{"selektor":{}}"#),
            r#"{"apiVersion":"networking.istio.io/v1","kind":"VirtualService","metadata":{"name":"b"}}"#,
        );
        assert_eq!(
            load(&bad).unwrap_err(),
            [
                "resources[0].metadata.namespace: expected a string, found a number",
                "resources[0].spec.selektor: unknown field; did you mean `selector`?",
                "resources[1]: `VirtualService` belongs to the routing filter; this is the authz filter, which takes AuthorizationPolicy",
                "workloads: unknown field; did you mean `workload`?",
            ]
        );
    }

    #[test]
    fn all_served_versions_are_equal_and_others_are_refused() {
        let of = |version: &str| {
            load(&format!(
                r#"{{"resources":[{{"apiVersion":"security.istio.io/{version}","kind":"AuthorizationPolicy","metadata":{{"name":"a"}}}}]}}"#
            ))
        };
        assert!(of("v1").is_ok() && of("v1beta1").is_ok());
        assert!(of("v2").unwrap_err().concat().contains("is not a version"));
    }

    #[test]
    fn only_what_applies_to_the_workload_takes_effect() {
        let resources = [
            document(r#""metadata":{"name":"a","namespace":"production"},"spec":{"selector":{"matchLabels":{"app":"api"}}}"#),
            document(r#""metadata":{"name":"b","namespace":"staging"}"#),
            document(r#""metadata":{"name":"c","namespace":"istio-system"}"#),
        ]
        .join(",");
        let workload = r#""workload":{"namespace":"production","labels":{"app":"api"}}"#;
        assert_eq!(
            load(&format!(r#"{{"resources":[{resources}],{workload}}}"#)).unwrap(),
            ["2 apply, 0 problems"]
        );
        assert_eq!(load(&format!(r#"{{"resources":[{resources}]}}"#)).unwrap(), ["3 apply, 0 problems"]);
    }

    #[test]
    fn that_nothing_applies_is_a_warning() {
        let resources = document(r#""metadata":{"name":"a"},"spec":{}"#);
        let of = |workload: &str| load(&format!(r#"{{"resources":[{resources}]{workload}}}"#)).unwrap();
        assert_eq!(of(r#","workload":{"namespace":"production"}"#), ["0 apply, 1 problems"]);
        assert_eq!(of(r#","workload":{"namespace":"default"}"#), ["1 apply, 0 problems"]);
        assert_eq!(of(""), ["1 apply, 0 problems"]);
        assert_eq!(
            load(r#"{"resources":[],"workload":{"namespace":"a"}}"#).unwrap(),
            ["0 apply, 0 problems"]
        );
    }

    #[test]
    fn a_gateway_class_is_refused_where_it_could_be_meant() {
        let spec = r#""spec":{"targetRefs":[{"group":"gateway.networking.k8s.io","kind":"GatewayClass","name":"c"}]}"#;
        let resources = document(&format!(r#""metadata":{{"name":"a","namespace":"istio-system"}},{spec}"#));
        let of = |workload: &str| load(&format!(r#"{{"resources":[{resources}],"workload":{workload}}}"#));
        for workload in [
            r#"{"namespace":"production","services":["api"]}"#,
            r#"{"namespace":"production","gateway":"edge"}"#,
        ] {
            let problems = of(workload).unwrap_err().join("\n");
            assert!(problems.contains("resources[0]: a targetRef of kind `GatewayClass`"), "{problems}");
        }
        assert!(of(r#"{"namespace":"production"}"#).is_ok(), "a sidecar has no class");
    }

    #[test]
    fn an_annotation_of_ours_that_nobody_knows_is_refused() {
        let bad =
            document(r#""metadata":{"name":"a","annotations":{"sailcloth.dev/mod":"shadow","other/x":"y"}}"#);
        let problems = load(&format!(r#"{{"resources":[{bad}]}}"#)).unwrap_err();
        assert_eq!(
            problems,
            [
                r#"resources[0].metadata.annotations["sailcloth.dev/mod"]: this kind has no annotation `sailcloth.dev/mod`; did you mean `sailcloth.dev/mode`?"#
            ]
        );
    }

    #[test]
    fn nothing_and_not_json_are_refused_with_a_reason() {
        assert_eq!(load(" ").unwrap_err(), ["the configuration is empty; it needs at least `resources`"]);
        assert!(load("{").unwrap_err().concat().starts_with("not valid JSON"));
        assert_eq!(load("[]").unwrap_err(), ["expected an object, found a list"]);
        assert_eq!(load("{}").unwrap_err(), ["missing field `resources`"]);
    }
}
