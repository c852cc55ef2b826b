//! What a case says about connection and caller, as Envoy's attributes.

use std::net::IpAddr;

use sailcloth_core::config::Node;
use sailcloth_core::facts::{Fact, Properties};
use sailcloth_core::identity::Token;

use crate::case::{Case, TokenSpec};
use crate::yaml;

/// Path and value, in the encoding of `get_property`.
pub type Attributes = Vec<(Vec<&'static str>, Vec<u8>)>;

/// The address of a peer for which a case names none.
pub const DEFAULT_PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

/// The port of a case that names none.
pub const DEFAULT_PORT: u16 = 10000;

/// A setting that says where a fact is read.
#[must_use]
pub fn source_setting<'n>(configuration: &'n Node, name: &str) -> Option<&'n str> {
    yaml::at(configuration, &["settings", name]).and_then(Node::text)
}

/// The attributes of a case under a configuration: what Envoy's listener and the filters before ours would have said.
#[must_use]
pub fn attributes(case: &Case, configuration: &Node) -> Attributes {
    let peer = case.source_ip.unwrap_or(DEFAULT_PEER);
    let port = case.port.unwrap_or(DEFAULT_PORT);
    let mut all: Attributes = vec![
        (vec!["filter_state", "sailcloth.source_ip"], peer.to_string().into()),
        (vec!["source", "address"], remote_address(case, peer).into()),
        (vec!["destination", "address"], destination(case, port).into()),
        (vec!["destination", "port"], i64::from(port).to_le_bytes().to_vec()),
        (vec!["connection", "mtls"], vec![u8::from(case.peer.is_some())]),
        (vec!["connection", "requested_server_name"], case.sni.clone().unwrap_or_default().into()),
    ];
    if let Some(identity) = &case.peer {
        let path = match source_setting(configuration, "peerIdentity") {
            Some("peerPrincipal") => vec!["filter_state", "io.istio.peer_principal"],
            _ => vec!["connection", "uri_san_peer_certificate"],
        };
        all.push((path, identity.clone().into()));
    }
    all.extend(token_attributes(case, configuration));
    all
}

/// The address and port connected to, as Envoy writes them.
fn destination(case: &Case, port: u16) -> String {
    std::net::SocketAddr::from((case.destination_ip.unwrap_or(DEFAULT_PEER), port)).to_string()
}

fn token_attributes(case: &Case, configuration: &Node) -> Attributes {
    if source_setting(configuration, "requestIdentity") == Some("jwt_authn") {
        let TokenSpec::Verified(claims) = &case.request.token else { return Vec::new() };
        let claim = |name: &'static str| {
            let path = vec!["metadata", "filter_metadata", "envoy.filters.http.jwt_authn", "payload", name];
            claims.field(name).and_then(Node::text).map(|text| (path, text.as_bytes().to_vec()))
        };
        return ["iss", "sub"].into_iter().filter_map(claim).collect();
    }
    token_state(case).map(|state| (vec!["sailcloth.jwt"], state)).into_iter().collect()
}

/// What the `jwt` filter would have handed on.
#[must_use]
pub fn token_state(case: &Case) -> Option<Vec<u8>> {
    match &case.request.token {
        TokenSpec::Anonymous => Some(Token::anonymous_state().to_vec()),
        TokenSpec::Verified(claims) => Some(Token::of_claims(claims).state().to_vec()),
        TokenSpec::Missing => None,
    }
}

/// Envoy's `source.address` with the connection manager's defaults: what the client wrote last in `x-forwarded-for`,
/// else the TCP peer (`envoy-wasm.md` 4.2).
fn remote_address(case: &Case, peer: IpAddr) -> String {
    let forwarded = case.request.headers.iter().rev().find(|(name, _)| name == "x-forwarded-for");
    let last = forwarded.and_then(|(_, value)| {
        let text = std::str::from_utf8(value).ok()?;
        text.rsplit(',').next()?.trim().parse::<IpAddr>().ok()
    });
    let address = last.map_or((peer, 50000), |address| (address, 0));
    std::net::SocketAddr::from(address).to_string()
}

/// [`attributes`] for the native runner.
pub struct CaseProperties(pub Attributes);

impl Properties for CaseProperties {
    fn property(&self, path: &[&str]) -> Fact<Vec<u8>> {
        let found = self.0.iter().find(|(known, _)| known == path);
        found.map_or(Fact::Absent, |(_, value)| Fact::Known(value.clone()))
    }
}
