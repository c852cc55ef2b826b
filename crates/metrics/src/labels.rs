//! Istio's labels of HTTP metrics (`istio-api.md` 9.2, 9.3).

use std::borrow::Cow;

use sailcloth_resources::Workload;

use crate::engine::{Engine, Reporter};
use crate::{Key, flags};

/// Every label, in the order of the flat name; another order would be other series.
pub const LABELS: [&str; 25] = [
    "reporter",
    "source_workload",
    "source_canonical_service",
    "source_canonical_revision",
    "source_workload_namespace",
    "source_principal",
    "source_app",
    "source_version",
    "source_cluster",
    "destination_workload",
    "destination_workload_namespace",
    "destination_principal",
    "destination_app",
    "destination_version",
    "destination_service",
    "destination_canonical_service",
    "destination_canonical_revision",
    "destination_service_name",
    "destination_service_namespace",
    "destination_cluster",
    "request_protocol",
    "response_code",
    "grpc_response_status",
    "response_flags",
    "connection_security_policy",
];

const UNKNOWN: &str = "unknown";
/// The value of every request's label where the budget of series is used up.
const OTHER: &str = "other";
/// The longest label value; SPIFFE identities of a mesh are far shorter.
const MAX_LENGTH: usize = 256;

/// What is known of our own side, from `workload` and `settings`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Own {
    pub(crate) workload: String,
    pub(crate) namespace: String,
    pub(crate) app: String,
    pub(crate) version: String,
    pub(crate) canonical_service: String,
    pub(crate) canonical_revision: String,
    pub(crate) cluster: String,
}

impl Own {
    pub(crate) fn new(workload: Option<&Workload>, name: Option<&str>, cluster: &str) -> Self {
        let label = |names: &[&str]| {
            let labels = workload.map(|workload| workload.labels.as_slice()).unwrap_or_default();
            let value =
                |name: &&str| labels.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
            names.iter().find_map(value)
        };
        let unknown = || UNKNOWN.to_owned();
        let canonical = label(&["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"]);
        let canonical = canonical.or_else(|| name.map(str::to_owned)).unwrap_or_else(unknown);
        let revision =
            label(&["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"]);
        Self {
            workload: name.map_or_else(|| canonical.clone(), str::to_owned),
            namespace: workload.map_or_else(unknown, |workload| workload.namespace.clone()),
            app: label(&["app"]).unwrap_or_else(unknown),
            version: label(&["version"]).unwrap_or_else(unknown),
            canonical_service: canonical,
            canonical_revision: revision.unwrap_or_else(|| "latest".to_owned()),
            cluster: cluster.to_owned(),
        }
    }
}

/// One side of a request.
struct Side<'k> {
    workload: Cow<'k, str>,
    namespace: Cow<'k, str>,
    principal: Cow<'k, str>,
    app: Cow<'k, str>,
    version: Cow<'k, str>,
    canonical_service: Cow<'k, str>,
    canonical_revision: Cow<'k, str>,
    cluster: Cow<'k, str>,
}

/// The service that was called.
struct Service<'k> {
    host: Cow<'k, str>,
    name: Cow<'k, str>,
    namespace: Cow<'k, str>,
}

impl Engine {
    /// All labels of a key, in the order of [`LABELS`]; of the overflow series where there is no key.
    #[must_use]
    pub fn labels<'k>(&'k self, key: Option<&'k Key>) -> Vec<(&'static str, Cow<'k, str>)> {
        let own = self.own_side(key);
        let peer = peer_side(key);
        let service = self.service(key, &peer);
        let (reporter, source, destination) = match self.reporter() {
            Reporter::Destination => ("destination", peer, own),
            Reporter::Source => ("source", own, peer),
        };
        let of_request = |value: fn(&Key) -> String| key.map_or(OTHER.into(), |key| value(key).into());
        let values: [Cow<'k, str>; LABELS.len()] = [
            reporter.into(),
            source.workload,
            source.canonical_service,
            source.canonical_revision,
            source.namespace,
            source.principal,
            source.app,
            source.version,
            source.cluster,
            destination.workload,
            destination.namespace,
            destination.principal,
            destination.app,
            destination.version,
            service.host,
            destination.canonical_service,
            destination.canonical_revision,
            service.name,
            service.namespace,
            destination.cluster,
            of_request(|key| if key.grpc.is_some() { "grpc".into() } else { "http".into() }),
            of_request(|key| key.code.to_string()),
            of_request(|key| key.grpc.flatten().map(|status| status.to_string()).unwrap_or_default()),
            of_request(|key| flags::names(key.flags)),
            self.security_policy(key),
        ];
        LABELS.into_iter().zip(values).collect()
    }

    fn own_side<'k>(&'k self, key: Option<&'k Key>) -> Side<'k> {
        let own = self.own();
        Side {
            workload: Cow::Borrowed(&own.workload),
            namespace: Cow::Borrowed(&own.namespace),
            principal: key.map_or(OTHER.into(), |key| principal(&key.own)),
            app: Cow::Borrowed(&own.app),
            version: Cow::Borrowed(&own.version),
            canonical_service: Cow::Borrowed(&own.canonical_service),
            canonical_revision: Cow::Borrowed(&own.canonical_revision),
            cluster: Cow::Borrowed(&own.cluster),
        }
    }

    /// On inbound never from the Host header: a client could make any number of series.
    fn service<'k>(&'k self, key: Option<&'k Key>, peer: &Side<'k>) -> Service<'k> {
        if let Some((host, name, namespace)) = self.stated_service() {
            return Service { host: host.into(), name: name.into(), namespace: namespace.into() };
        }
        match (self.reporter(), key) {
            (Reporter::Destination, _) => Service {
                host: Cow::Borrowed(&self.own().canonical_service),
                name: Cow::Borrowed(&self.own().canonical_service),
                namespace: Cow::Borrowed(&self.own().namespace),
            },
            (Reporter::Source, None) => {
                Service { host: OTHER.into(), name: OTHER.into(), namespace: OTHER.into() }
            }
            (Reporter::Source, Some(key)) => service_of_cluster(&key.cluster, &peer.namespace),
        }
    }

    fn security_policy<'k>(&self, key: Option<&Key>) -> Cow<'k, str> {
        match (self.reporter(), key) {
            (_, None) => OTHER.into(),
            // Istio's quirk: the client side never says.
            (Reporter::Source, _) => UNKNOWN.into(),
            (Reporter::Destination, Some(key)) if key.peer.is_empty() || key.own.is_empty() => "none".into(),
            (Reporter::Destination, Some(_)) => "mutual_tls".into(),
        }
    }
}

fn peer_side(key: Option<&Key>) -> Side<'_> {
    let Some(key) = key else {
        let other = || Cow::Borrowed(OTHER);
        return Side {
            workload: other(),
            namespace: other(),
            principal: other(),
            app: other(),
            version: other(),
            canonical_service: other(),
            canonical_revision: other(),
            cluster: other(),
        };
    };
    let unknown = || Cow::Borrowed(UNKNOWN);
    Side {
        workload: unknown(),
        namespace: namespace(&key.peer),
        principal: principal(&key.peer),
        app: unknown(),
        version: unknown(),
        canonical_service: unknown(),
        canonical_revision: Cow::Borrowed("latest"),
        cluster: unknown(),
    }
}

/// The URI SAN, scheme included.
fn principal(san: &[u8]) -> Cow<'_, str> {
    if san.is_empty() { UNKNOWN.into() } else { bounded(san) }
}

/// The `<x>` of `/ns/<x>/`.
fn namespace(san: &[u8]) -> Cow<'_, str> {
    let mut segments = san.split(|byte| *byte == b'/');
    let found = segments.by_ref().any(|segment| segment == b"ns");
    match segments.next().filter(|namespace| found && !namespace.is_empty()) {
        Some(namespace) => bounded(namespace),
        None => UNKNOWN.into(),
    }
}

/// Istio's names of outbound clusters, `outbound|<port>|<subset>|<host>`, and its special ones.
fn service_of_cluster<'k>(cluster: &'k [u8], peer_namespace: &str) -> Service<'k> {
    let text = bounded(cluster);
    let mut parts = text.split('|');
    let host = match (parts.next(), parts.nth(2)) {
        (Some("outbound"), Some(host)) if !host.is_empty() => host.to_owned(),
        (Some(special @ ("BlackHoleCluster" | "PassthroughCluster")), _) => special.to_owned(),
        _ => UNKNOWN.to_owned(),
    };
    let mut labels = host.split('.');
    let name = labels.next().unwrap_or(UNKNOWN).to_owned();
    let namespace = match (labels.next(), labels.next()) {
        (Some(namespace), Some("svc")) => namespace.to_owned(),
        _ => peer_namespace.to_owned(),
    };
    Service { host: host.into(), name: name.into(), namespace: namespace.into() }
}

/// Text of a bounded length, whatever the bytes.
fn bounded(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes.get(..MAX_LENGTH).unwrap_or(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn namespaces_come_from_the_certificate() {
        for (san, expected) in [
            ("spiffe://cluster.local/ns/shop/sa/web", "shop"),
            ("spiffe://cluster.local/other", "unknown"),
            ("spiffe://cluster.local/ns/", "unknown"),
            ("", "unknown"),
        ] {
            assert_eq!(namespace(san.as_bytes()), expected, "{san}");
        }
    }

    #[test]
    fn long_and_odd_identities_are_bounded_text() {
        assert_eq!(principal(&[b'a'; 70_000]).len(), MAX_LENGTH);
        assert_eq!(principal(b"spiffe://\xff"), "spiffe://\u{fffd}");
    }

    #[test]
    fn the_service_is_read_from_istios_cluster_names() {
        for (cluster, expected) in [
            ("outbound|8080|v1|api.shop.svc.cluster.local", ("api.shop.svc.cluster.local", "api", "shop")),
            ("outbound|443||example.com", ("example.com", "example", "peer")),
            ("PassthroughCluster", ("PassthroughCluster", "PassthroughCluster", "peer")),
            ("whatever", ("unknown", "unknown", "peer")),
        ] {
            let service = service_of_cluster(cluster.as_bytes(), "peer");
            let found = (service.host.as_ref(), service.name.as_ref(), service.namespace.as_ref());
            assert_eq!(found, expected, "{cluster}");
        }
    }
}
