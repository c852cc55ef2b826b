//! Istio's labels of HTTP metrics (`istio-api.md` 9.2, 9.3): what each is made of, and how it is spelled.

use std::borrow::Cow;

use sailcloth_resources::Workload;

use crate::budget::OTHER;
use crate::facts::{Facts, need};
use crate::flags;
use crate::peer::{Peer, bounded};
use crate::settings::{Reporter, Service};

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

/// How many of [`LABELS`] the counters of gRPC messages carry: those of reporter, source and destination.
pub(crate) const MESSAGE_LABELS: usize = 20;

pub(crate) const UNKNOWN: &str = "unknown";

/// One of two workloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Own,
    Downstream,
    Upstream,
}

fn who(reporter: Reporter) -> (Who, Who) {
    match reporter {
        Reporter::Destination => (Who::Downstream, Who::Own),
        Reporter::Source => (Who::Own, Who::Upstream),
        Reporter::Waypoint => (Who::Downstream, Who::Upstream),
    }
}

/// The facts that one of [`LABELS`] is made of.
pub(crate) fn needs(label: usize, reporter: Reporter, service: &Service) -> u16 {
    let (source, destination) = who(reporter);
    let peer = |side: Who| match side {
        Who::Own => 0,
        Who::Downstream => need::DOWNSTREAM_PEER,
        Who::Upstream => need::UPSTREAM_PEER,
    };
    let identity = |side: Who| match side {
        Who::Own => need::OWN,
        Who::Downstream => need::DOWNSTREAM,
        Who::Upstream => need::UPSTREAM | need::UPSTREAM_PEER,
    };
    let namespace = |side: Who| if side == Who::Own { 0 } else { identity(side) | peer(side) };
    match label {
        1..=3 | 6..=8 => peer(source),
        4 => namespace(source),
        5 => identity(source),
        9 | 12 | 13 | 15 | 16 | 19 => peer(destination),
        10 => namespace(destination),
        11 => identity(destination),
        14 | 17 | 18 => match service {
            Service::Stated { .. } | Service::Own => 0,
            // Where the cluster does not tell, the namespace is the peer's.
            Service::Cluster => need::CLUSTER | if label == 18 { namespace(destination) } else { 0 },
            Service::ClusterOrHost => {
                need::CLUSTER | need::HOST | if label == 18 { namespace(destination) } else { 0 }
            }
        },
        20 => need::PROTOCOL,
        21 => need::CODE,
        22 => need::GRPC_STATUS,
        23 => need::FLAGS,
        // The client side never says.
        24 if reporter == Reporter::Source => 0,
        24 => need::DOWNSTREAM | need::OWN,
        _ => 0,
    }
}

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
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Called {
    pub(crate) host: String,
    pub(crate) name: String,
    pub(crate) namespace: Option<String>,
}

/// What spelling needs beside the facts.
pub(crate) struct Speller<'c> {
    pub(crate) reporter: Reporter,
    pub(crate) own: &'c Own,
    pub(crate) service: &'c Service,
    /// What the cluster's metadata or the route says about the service.
    pub(crate) told: Option<&'c Called>,
}

/// The values of all [`LABELS`].
pub(crate) fn spell<'k>(speller: &'k Speller<'k>, facts: &'k Facts) -> [Cow<'k, str>; LABELS.len()] {
    let (source, destination) = who(speller.reporter);
    let source = side(source, speller, facts);
    let destination = side(destination, speller, facts);
    let called = called(speller, facts, &destination.namespace);
    let reporter = match speller.reporter {
        Reporter::Destination => "destination",
        Reporter::Source => "source",
        Reporter::Waypoint => "waypoint",
    };
    [
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
        called.0,
        destination.canonical_service,
        destination.canonical_revision,
        called.1,
        called.2,
        destination.cluster,
        if facts.grpc { "grpc" } else { "http" }.into(),
        facts.code.to_string().into(),
        facts.grpc_status.map(|status| status.to_string()).unwrap_or_default().into(),
        flags::names(facts.flags).into(),
        match speller.reporter {
            Reporter::Source => UNKNOWN,
            _ if facts.downstream.is_empty() || facts.own.is_empty() => "none",
            _ => "mutual_tls",
        }
        .into(),
    ]
}

/// The values of the series of everything beyond a budget: what only the configuration decides keeps its value.
pub(crate) fn spell_other<'k>(speller: &'k Speller<'k>, facts: &'k Facts) -> [Cow<'k, str>; LABELS.len()] {
    let mut index = 0;
    spell(speller, facts).map(|value| {
        let needs = needs(index, speller.reporter, speller.service);
        index += 1;
        if needs == 0 { value } else { OTHER.into() }
    })
}

fn side<'k>(who: Who, speller: &'k Speller<'_>, facts: &'k Facts) -> Side<'k> {
    let own = speller.own;
    match who {
        Who::Own => Side {
            workload: Cow::Borrowed(&own.workload),
            namespace: Cow::Borrowed(&own.namespace),
            principal: principal(&facts.own),
            app: Cow::Borrowed(&own.app),
            version: Cow::Borrowed(&own.version),
            canonical_service: Cow::Borrowed(&own.canonical_service),
            canonical_revision: Cow::Borrowed(&own.canonical_revision),
            cluster: Cow::Borrowed(&own.cluster),
        },
        Who::Downstream => peer_side(&facts.downstream, &facts.downstream_peer, false),
        Who::Upstream => peer_side(&facts.upstream, &facts.upstream_peer, true),
    }
}

/// Identity labels come from the certificate; what a peer says about itself names it, and only a server's counts as its
/// identity where TLS told none.
fn peer_side<'k>(san: &'k [u8], told: &'k [u8], server: bool) -> Side<'k> {
    let peer = Peer::decode(told);
    let known = |value: Cow<'k, str>| if value.is_empty() { Cow::Borrowed(UNKNOWN) } else { value };
    let principal = if !san.is_empty() {
        bounded(san)
    } else if server {
        known(peer.identity)
    } else {
        UNKNOWN.into()
    };
    Side {
        workload: known(peer.workload),
        namespace: namespace(san).unwrap_or_else(|| known(peer.namespace)),
        principal,
        app: known(peer.app),
        version: known(peer.version),
        canonical_service: known(peer.canonical_service),
        canonical_revision: if peer.canonical_revision.is_empty() {
            "latest".into()
        } else {
            peer.canonical_revision
        },
        cluster: known(peer.cluster),
    }
}

/// The URI SAN, scheme included.
fn principal(san: &[u8]) -> Cow<'_, str> {
    if san.is_empty() { UNKNOWN.into() } else { bounded(san) }
}

/// The `<x>` of `/ns/<x>/`.
fn namespace(san: &[u8]) -> Option<Cow<'_, str>> {
    let mut segments = san.split(|byte| *byte == b'/');
    let found = segments.by_ref().any(|segment| segment == b"ns");
    segments.next().filter(|namespace| found && !namespace.is_empty()).map(bounded)
}

/// Host, name and namespace of the service.
fn called<'k>(
    speller: &'k Speller<'_>,
    facts: &'k Facts,
    peer_namespace: &str,
) -> (Cow<'k, str>, Cow<'k, str>, Cow<'k, str>) {
    let own = speller.own;
    let own_namespace = || -> Cow<'k, str> {
        match speller.reporter {
            Reporter::Destination => Cow::Borrowed(&own.namespace),
            Reporter::Source | Reporter::Waypoint => Cow::Owned(peer_namespace.to_owned()),
        }
    };
    match speller.service {
        Service::Stated { host, name, namespace } => {
            (Cow::Borrowed(host), Cow::Borrowed(name), Cow::Borrowed(namespace))
        }
        Service::Own => (
            Cow::Borrowed(&own.canonical_service),
            Cow::Borrowed(&own.canonical_service),
            Cow::Borrowed(&own.namespace),
        ),
        Service::Cluster | Service::ClusterOrHost => match speller.told {
            Some(told) => (
                Cow::Borrowed(&told.host),
                Cow::Borrowed(&told.name),
                match (&told.namespace, speller.reporter) {
                    (Some(namespace), Reporter::Source | Reporter::Waypoint) => Cow::Borrowed(namespace),
                    _ => own_namespace(),
                },
            ),
            None if !facts.host.is_empty() => (bounded(&facts.host), bounded(&facts.host), own_namespace()),
            None if speller.reporter == Reporter::Destination => (
                Cow::Borrowed(&own.canonical_service),
                Cow::Borrowed(&own.canonical_service),
                own_namespace(),
            ),
            None => (UNKNOWN.into(), UNKNOWN.into(), own_namespace()),
        },
    }
}

/// What Istio's names of clusters say: `outbound|<port>|<subset>|<host>`, `inbound-vip|…`, and its special ones.
pub(crate) fn service_of_cluster(cluster: &[u8]) -> Option<Called> {
    let text = bounded(cluster);
    let mut parts = text.split('|');
    let host = match (parts.next()?, parts.nth(2)) {
        ("outbound" | "inbound-vip", Some(host)) if !host.is_empty() => host,
        (special, None)
            if matches!(special, "BlackHoleCluster" | "PassthroughCluster")
                || special.starts_with("InboundPassthroughCluster") =>
        {
            return Some(Called { host: special.to_owned(), name: special.to_owned(), namespace: None });
        }
        _ => return None,
    };
    let mut labels = host.split('.');
    let name = labels.next().unwrap_or(UNKNOWN).to_owned();
    let namespace = match (labels.next(), labels.next()) {
        (Some(namespace), Some("svc")) => Some(namespace.to_owned()),
        _ => None,
    };
    Some(Called { host: host.to_owned(), name, namespace })
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn namespaces_come_from_the_certificate() {
        for (san, expected) in [
            ("spiffe://cluster.local/ns/shop/sa/web", Some("shop")),
            ("spiffe://cluster.local/other", None),
            ("spiffe://cluster.local/ns/", None),
            ("", None),
        ] {
            assert_eq!(namespace(san.as_bytes()).as_deref(), expected, "{san}");
        }
    }

    #[test]
    fn long_and_odd_identities_are_bounded_text() {
        assert_eq!(principal(&[b'a'; 70_000]).len(), 256);
        assert_eq!(principal(b"spiffe://\xff"), "spiffe://\u{fffd}");
    }

    #[test]
    fn a_client_that_names_itself_has_no_identity_by_that() {
        let told = b"w;n;c;r;k;a;v;spiffe://t/ns/n/sa/s";
        assert_eq!(peer_side(b"", told, false).principal, "unknown");
        assert_eq!(peer_side(b"", told, true).principal, "spiffe://t/ns/n/sa/s");
        assert_eq!(peer_side(b"", b"w;n;c;r;k", true).principal, "unknown");
        assert_eq!(peer_side(b"spiffe://t/ns/x/sa/y", told, true).principal, "spiffe://t/ns/x/sa/y");
        assert_eq!(peer_side(b"spiffe://t/ns/x/sa/y", told, false).namespace, "x");
    }

    #[test]
    fn the_service_is_read_from_istios_cluster_names() {
        for (cluster, expected) in [
            (
                "outbound|8080|v1|api.shop.svc.cluster.local",
                Some(("api.shop.svc.cluster.local", "api", Some("shop"))),
            ),
            ("outbound|443||example.com", Some(("example.com", "example", None))),
            (
                "inbound-vip|80|http|api.shop.svc.cluster.local",
                Some(("api.shop.svc.cluster.local", "api", Some("shop"))),
            ),
            ("PassthroughCluster", Some(("PassthroughCluster", "PassthroughCluster", None))),
            (
                "InboundPassthroughClusterIpv4",
                Some(("InboundPassthroughClusterIpv4", "InboundPassthroughClusterIpv4", None)),
            ),
            ("whatever", None),
            ("", None),
        ] {
            let found = service_of_cluster(cluster.as_bytes());
            let found = found.as_ref().map(|f| (f.host.as_str(), f.name.as_str(), f.namespace.as_deref()));
            assert_eq!(found, expected, "{cluster}");
        }
    }
}
