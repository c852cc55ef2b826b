//! One request of the authorization comparison, before it becomes attributes, a header block or bytes on a connection.

use std::net::IpAddr;

use sailcloth_core::config::Node;

/// A request with all that a policy may look at.
#[derive(Debug, Clone)]
pub struct Ask {
    /// `:method`
    pub method: String,
    /// `:path` as sent, query included.
    pub target: String,
    /// `:authority`
    pub host: String,
    /// Other headers; a name may repeat.
    pub headers: Vec<(String, Vec<u8>)>,
    /// URI SAN of the peer's certificate; none on plaintext.
    pub peer: Option<String>,
    /// The TCP peer.
    pub source: IpAddr,
    /// What `x-forwarded-for` says.
    pub forwarded: Option<IpAddr>,
    /// The address connected to.
    pub destination: IpAddr,
    /// The port connected to.
    pub port: u16,
    /// The TLS server name.
    pub sni: Option<String>,
    /// The claims of a valid token.
    pub token: Option<Node>,
}

impl Ask {
    /// The original client.
    #[must_use]
    pub fn remote(&self) -> IpAddr {
        self.forwarded.unwrap_or(self.source)
    }

    /// The values of a header, `:`-names included.
    #[must_use]
    pub fn header(&self, name: &str) -> Vec<&[u8]> {
        let name = name.to_ascii_lowercase();
        match name.as_str() {
            ":method" => vec![self.method.as_bytes()],
            ":path" => vec![self.target.as_bytes()],
            ":authority" | "host" => vec![self.host.as_bytes()],
            _ => self.headers.iter().filter(|(other, _)| *other == name).map(|(_, v)| v.as_slice()).collect(),
        }
    }
}
