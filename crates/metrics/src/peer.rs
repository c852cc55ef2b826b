//! What another workload says about itself, or the control plane about it.

use std::borrow::Cow;

/// A workload by Istio's words; what is empty is not known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Peer<'p> {
    /// `WORKLOAD_NAME`.
    pub workload: Cow<'p, str>,
    /// `NAMESPACE`.
    pub namespace: Cow<'p, str>,
    /// `LABELS["service.istio.io/canonical-name"]`.
    pub canonical_service: Cow<'p, str>,
    /// `LABELS["service.istio.io/canonical-revision"]`.
    pub canonical_revision: Cow<'p, str>,
    /// `CLUSTER_ID`.
    pub cluster: Cow<'p, str>,
    /// `LABELS["app.kubernetes.io/name"]`, else `LABELS.app`.
    pub app: Cow<'p, str>,
    /// `LABELS["app.kubernetes.io/version"]`, else `LABELS.version`.
    pub version: Cow<'p, str>,
    /// `IDENTITY`.
    pub identity: Cow<'p, str>,
}

impl<'p> Peer<'p> {
    /// Reads `workload;namespace;canonical service;canonical revision;cluster`, the form of an endpoint's metadata
    /// `istio.workload`, and our longer form with `;app;version;identity` behind, which filter state carries. Whatever is
    /// missing is not known.
    #[must_use]
    pub fn decode(text: &'p [u8]) -> Self {
        let mut parts = text.split(|byte| *byte == b';').map(bounded);
        let mut next = || parts.next().unwrap_or_default();
        Self {
            workload: next(),
            namespace: next(),
            canonical_service: next(),
            canonical_revision: next(),
            cluster: next(),
            app: next(),
            version: next(),
            identity: next(),
        }
    }
}

/// The longest label value; SPIFFE identities of a mesh are far shorter.
const MAX_LENGTH: usize = 256;

/// Text of a bounded length, whatever the bytes.
pub(crate) fn bounded(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes.get(..MAX_LENGTH).unwrap_or(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn both_lengths_are_read() {
        let short = Peer::decode(b"ratings-v1;default;ratings;v1;Kubernetes");
        assert_eq!(
            (short.workload.as_ref(), short.cluster.as_ref(), short.app.as_ref()),
            ("ratings-v1", "Kubernetes", "")
        );
        let long = Peer::decode(b"w;n;c;r;k;a;v;spiffe://t/ns/n/sa/s");
        assert_eq!((long.version.as_ref(), long.identity.as_ref()), ("v", "spiffe://t/ns/n/sa/s"));
        assert_eq!(Peer::decode(b""), Peer::default());
        assert_eq!(Peer::decode(&[b'a'; 70_000]).workload.len(), MAX_LENGTH);
    }
}
