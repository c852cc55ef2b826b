//! What a finished stream says, as far as a configuration needs it.

use crate::attribute::Reading;
use crate::settings::Reporter;

/// Facts that labels are made of, as bits: a configuration reads those of its labels and no others.
pub(crate) mod need {
    pub(crate) const PROTOCOL: u16 = 1;
    pub(crate) const GRPC_STATUS: u16 = 1 << 1;
    pub(crate) const CODE: u16 = 1 << 2;
    pub(crate) const FLAGS: u16 = 1 << 3;
    pub(crate) const OWN: u16 = 1 << 4;
    pub(crate) const DOWNSTREAM: u16 = 1 << 5;
    pub(crate) const DOWNSTREAM_PEER: u16 = 1 << 6;
    pub(crate) const UPSTREAM: u16 = 1 << 7;
    pub(crate) const UPSTREAM_PEER: u16 = 1 << 8;
    pub(crate) const CLUSTER: u16 = 1 << 9;
    pub(crate) const HOST: u16 = 1 << 10;
}

/// Where the facts of a configuration are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Places {
    pub(crate) reporter: Reporter,
    /// The peer's identity is in `io.istio.peer_principal`, not in a certificate of this proxy's own connection.
    pub(crate) peer_principal: bool,
    /// Filter state holds what metadata exchange learned.
    pub(crate) exchange: bool,
}

/// Facts of one stream; what was not asked for, or is not known, is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) grpc: bool,
    pub(crate) grpc_status: Option<u8>,
    pub(crate) code: u16,
    pub(crate) flags: u64,
    pub(crate) own: Vec<u8>,
    pub(crate) downstream: Vec<u8>,
    pub(crate) downstream_peer: Vec<u8>,
    pub(crate) upstream: Vec<u8>,
    pub(crate) upstream_peer: Vec<u8>,
    pub(crate) cluster: Vec<u8>,
    pub(crate) host: Vec<u8>,
}

/// Filter state with the downstream peer, in the form of [`Peer::decode`](crate::Peer::decode).
pub(crate) const DOWNSTREAM_PEER_STATE: &str = "sailcloth.downstream_peer";
/// The same of the upstream peer.
pub(crate) const UPSTREAM_PEER_STATE: &str = "sailcloth.upstream_peer";

impl Facts {
    pub(crate) fn read(needs: u16, places: Places, reading: &Reading<'_>) -> Self {
        let needed = |bit| needs & bit != 0;
        let bytes = |bit, path: &[&str]| {
            if needed(bit) { reading.bytes(path).unwrap_or_default() } else { Vec::new() }
        };
        let grpc = needed(need::PROTOCOL | need::GRPC_STATUS) && is_grpc(reading);
        let own = match places.reporter {
            Reporter::Source => ["upstream", "uri_san_local_certificate"],
            Reporter::Destination | Reporter::Waypoint => ["connection", "uri_san_local_certificate"],
        };
        let downstream = if places.peer_principal {
            ["filter_state", "io.istio.peer_principal"]
        } else {
            ["connection", "uri_san_peer_certificate"]
        };
        Self {
            grpc,
            // Envoy makes up a gRPC status for every response: it counts only for gRPC requests.
            grpc_status: if grpc && needed(need::GRPC_STATUS) { grpc_status(reading) } else { None },
            code: if needed(need::CODE) { code(reading) } else { 0 },
            flags: if needed(need::FLAGS) { flags(reading) } else { 0 },
            own: bytes(need::OWN, &own),
            downstream: bytes(need::DOWNSTREAM, &downstream),
            downstream_peer: if places.exchange {
                bytes(need::DOWNSTREAM_PEER, &[DOWNSTREAM_PEER_STATE])
            } else {
                Vec::new()
            },
            upstream: bytes(need::UPSTREAM, &["upstream", "uri_san_peer_certificate"]),
            upstream_peer: if needed(need::UPSTREAM_PEER) {
                upstream_peer(places, reading)
            } else {
                Vec::new()
            },
            cluster: bytes(need::CLUSTER, &["xds", "cluster_name"]),
            host: if needed(need::HOST) {
                reading.request_header(":authority").map(std::borrow::Cow::into_owned).unwrap_or_default()
            } else {
                Vec::new()
            },
        }
    }

    /// Appends what the needed facts are, so that two streams have the same key where they have the same labels.
    pub(crate) fn write_key(&self, needs: u16, key: &mut Vec<u8>) {
        let needed = |bit| needs & bit != 0;
        if needed(need::PROTOCOL | need::GRPC_STATUS) {
            key.push(u8::from(self.grpc));
        }
        if needed(need::GRPC_STATUS) {
            key.push(self.grpc_status.unwrap_or(u8::MAX));
        }
        if needed(need::CODE) {
            key.extend_from_slice(&self.code.to_le_bytes());
        }
        if needed(need::FLAGS) {
            key.extend_from_slice(&self.flags.to_le_bytes());
        }
        for (bit, text) in [
            (need::OWN, &self.own),
            (need::DOWNSTREAM, &self.downstream),
            (need::DOWNSTREAM_PEER, &self.downstream_peer),
            (need::UPSTREAM, &self.upstream),
            (need::UPSTREAM_PEER, &self.upstream_peer),
            (need::CLUSTER, &self.cluster),
            (need::HOST, &self.host),
        ] {
            if needed(bit) {
                write_text(text, key);
            }
        }
    }
}

/// Text with its length before it: `ab`, `c` and `a`, `bc` are different keys.
pub(crate) fn write_text(text: &[u8], key: &mut Vec<u8>) {
    key.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes());
    key.extend_from_slice(text);
}

fn upstream_peer(places: Places, reading: &Reading<'_>) -> Vec<u8> {
    let told = if places.exchange { reading.bytes(&[UPSTREAM_PEER_STATE]) } else { None };
    told.filter(|peer| !peer.is_empty())
        .or_else(|| reading.bytes(&["xds", "upstream_host_metadata", "filter_metadata", "istio", "workload"]))
        .unwrap_or_default()
}

/// A status that is none (no response, or out of HTTP's range) is 0, as in Envoy's log.
fn code(reading: &Reading<'_>) -> u16 {
    let code = reading.integer(&["response", "code"]).and_then(|code| u16::try_from(code).ok());
    code.filter(|code| (100..600).contains(code)).unwrap_or(0)
}

fn flags(reading: &Reading<'_>) -> u64 {
    reading.integer(&["response", "flags"]).map_or(0, i64::cast_unsigned)
}

fn grpc_status(reading: &Reading<'_>) -> Option<u8> {
    let status = reading.integer(&["response", "grpc_status"])?;
    u8::try_from(status).ok().filter(|status| *status <= 16)
}

fn is_grpc(reading: &Reading<'_>) -> bool {
    let content_type = reading.request_header("content-type").unwrap_or_default();
    let rest = content_type.strip_prefix(b"application/grpc");
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}
