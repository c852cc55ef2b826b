//! `metadata` of a document.

use sailcloth_core::config::{Path, Value, did_you_mean};

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

/// The annotation that says whether a document acts: `enforce` or `shadow`.
pub const MODE: &str = "sailcloth.dev/mode";

/// Prefix of the annotations that are ours.
const OURS: &str = "sailcloth.dev/";

/// Name, namespace and annotations of a document.
#[derive(Debug, Clone, Default)]
pub struct Metadata {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.namespace`, `default` where it is absent.
    pub namespace: String,
    /// With the place of each value.
    annotations: Vec<(String, String, Path)>,
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
        self.annotation_with_path(name).map(|(value, _)| value)
    }

    /// Whether the annotation [`MODE`] says that the document is computed and counted, and never acts.
    #[must_use]
    pub fn is_shadow(&self, document: &Value<'_>) -> bool {
        match self.annotation(MODE) {
            None | Some("enforce") => false,
            Some("shadow") => true,
            Some(other) => {
                document.error(format!("annotation `{MODE}` is `{other}`; expected `enforce` or `shadow`"));
                false
            }
        }
    }

    /// The value of an annotation and its path, for what is written inside it.
    #[must_use]
    pub fn annotation_with_path(&self, name: &str) -> Option<(&str, &Path)> {
        let found = self.annotations.iter().find(|(key, ..)| key == name);
        found.map(|(_, value, path)| (value.as_str(), path))
    }
}

fn read_annotations(value: &Value<'_>, known: &[&str]) -> Option<Vec<(String, String, Path)>> {
    let entries = value.entries()?;
    for (key, entry) in &entries {
        if key.starts_with(OURS) && !known.contains(key) {
            entry.error(format!("this kind has no annotation `{key}`{}", did_you_mean(key, known)));
        }
    }
    let read = entries.into_iter();
    Some(
        read.filter_map(|(key, value)| {
            Some((key.to_owned(), value.text()?.to_owned(), value.path().clone()))
        })
        .collect(),
    )
}
