//! `metadata` of a document.

use sailcloth_core::config::{Value, did_you_mean};

/// Fields of Kubernetes' ObjectMeta that say nothing about the policy; `kubectl get -o yaml` writes them.
const IGNORED: [&str; 12] = [
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "labels",
    "managedFields",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// The namespace of a document that names none, as in Kubernetes.
const DEFAULT_NAMESPACE: &str = "default";

/// Prefix of the annotations that are ours.
const OURS: &str = "sailcloth.dev/";

/// Name, namespace and annotations of a document.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metadata {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.namespace`, `default` where it is absent.
    pub namespace: String,
    annotations: Vec<(String, String)>,
}

impl Metadata {
    /// Reads `metadata`. An annotation of ours that the kind does not know is refused: it says how a decision acts, and
    /// a misspelt one would act otherwise than its author thinks.
    #[must_use]
    pub fn read(value: &Value<'_>, known_annotations: &[&str]) -> Option<Self> {
        let fields = value.fields()?;
        for name in IGNORED {
            let _ = fields.get(name);
        }
        let name = fields.required("name").and_then(|name| name.non_empty_text()).unwrap_or_default();
        let namespace = fields.get("namespace").and_then(|namespace| namespace.non_empty_text());
        let annotations =
            fields.get("annotations").and_then(|value| read_annotations(&value, known_annotations));
        Some(Self {
            name: name.to_owned(),
            namespace: namespace.unwrap_or(DEFAULT_NAMESPACE).to_owned(),
            annotations: annotations.unwrap_or_default(),
        })
    }

    /// `namespace/name`, as decisions, logs and metrics name a policy.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// The value of an annotation.
    #[must_use]
    pub fn annotation(&self, name: &str) -> Option<&str> {
        self.annotations.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

fn read_annotations(value: &Value<'_>, known: &[&str]) -> Option<Vec<(String, String)>> {
    for (key, entry) in value.entries()? {
        if key.starts_with(OURS) && !known.contains(&key) {
            entry.error(format!("this kind has no annotation `{key}`{}", did_you_mean(key, known)));
        }
    }
    value.string_map()
}
