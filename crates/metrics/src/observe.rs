//! What a finished stream says.

use sailcloth_core::facts::{Fact, PeerIdentitySource, Properties, integer};
use sailcloth_core::headers::HeaderBlock;

use crate::MetricName;
use crate::engine::{Engine, Reporter};

/// What tells two label sets apart: small, compared and hashed on every request.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// The numeric status; 0 when no response was sent.
    pub code: u16,
    /// Envoy's flags.
    pub flags: u64,
    /// The gRPC status, for gRPC requests; `None` inside when the response carried none.
    pub grpc: Option<Option<u8>>,
    /// The peer's URI SAN; empty when there is none.
    pub peer: Vec<u8>,
    /// Our own URI SAN; empty when there is none.
    pub own: Vec<u8>,
    /// The upstream cluster, where we are the client; else empty.
    pub cluster: Vec<u8>,
}

/// A finished stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// Its label set.
    pub key: Key,
    /// First byte received to stream end, whole milliseconds.
    pub duration: Option<u64>,
    /// Bytes received from the client, headers included.
    pub request_bytes: Option<u64>,
    /// Bytes sent to the client, headers included.
    pub response_bytes: Option<u64>,
}

impl Engine {
    /// Reads a finished stream. Nothing here can fail: what is not known is `unknown`, `0` or not recorded. `headers`
    /// are those of the request; absent when Envoy has none.
    #[must_use]
    pub fn observe(&self, headers: Option<&HeaderBlock>, properties: &dyn Properties) -> Observation {
        let number = |path: &[&str]| match properties.property(path) {
            Fact::Known(raw) => integer(&raw),
            _ => None,
        };
        let positive = |path: &[&str]| number(path).and_then(|number| u64::try_from(number).ok());
        let wanted = |metric, path: &[&str]| if self.produces(metric) { positive(path) } else { None };
        let key = Key {
            code: code(positive(&["response", "code"])),
            flags: positive(&["response", "flags"]).unwrap_or(0),
            // Envoy makes up a gRPC status for every response: it counts only for gRPC requests.
            grpc: headers.is_some_and(is_grpc).then(|| {
                let status = number(&["response", "grpc_status"]);
                status.and_then(|status| u8::try_from(status).ok()).filter(|status| *status <= 16)
            }),
            peer: self.peer(properties),
            own: san(properties, self.reporter(), "uri_san_local_certificate"),
            cluster: self.cluster(properties),
        };
        Observation {
            key,
            duration: wanted(MetricName::RequestDuration, &["request", "duration"])
                .map(|time| time / 1_000_000),
            request_bytes: wanted(MetricName::RequestSize, &["request", "total_size"]),
            response_bytes: wanted(MetricName::ResponseSize, &["response", "total_size"]),
        }
    }

    fn peer(&self, properties: &dyn Properties) -> Vec<u8> {
        match (self.reporter(), self.peer_identity()) {
            (Reporter::Destination, PeerIdentitySource::PeerPrincipal) => {
                bytes(properties, &["filter_state", "io.istio.peer_principal"])
            }
            (reporter, _) => san(properties, reporter, "uri_san_peer_certificate"),
        }
    }

    fn cluster(&self, properties: &dyn Properties) -> Vec<u8> {
        match self.reporter() {
            Reporter::Source => bytes(properties, &["xds", "cluster_name"]),
            Reporter::Destination => Vec::new(),
        }
    }
}

/// A status that is none (no response, or out of HTTP's range) is 0, as in Envoy's log.
fn code(status: Option<u64>) -> u16 {
    status
        .and_then(|status| u16::try_from(status).ok())
        .filter(|status| (100..600).contains(status))
        .unwrap_or(0)
}

fn san(properties: &dyn Properties, reporter: Reporter, which: &str) -> Vec<u8> {
    let connection = match reporter {
        Reporter::Destination => "connection",
        Reporter::Source => "upstream",
    };
    bytes(properties, &[connection, which])
}

fn bytes(properties: &dyn Properties, path: &[&str]) -> Vec<u8> {
    match properties.property(path) {
        Fact::Known(value) => value,
        Fact::Absent | Fact::Unavailable(_) => Vec::new(),
    }
}

fn is_grpc(headers: &HeaderBlock) -> bool {
    let content_type = headers.first("content-type").unwrap_or_default();
    let rest = content_type.strip_prefix(b"application/grpc");
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}
