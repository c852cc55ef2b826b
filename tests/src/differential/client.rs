//! Requests by the thousand: connections are kept, and opened anew where Envoy closed them.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use sailcloth_launch::http::{Client, Connection, Request, Response};

/// How a request reaches a side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// From an address of this machine, to a side behind the PROXY protocol, which is told where it was meant to go.
    Proxied {
        /// The side's port.
        port: u16,
        /// The TCP peer.
        source: IpAddr,
        /// What the connection was made to.
        destination: SocketAddr,
    },
    /// Without the PROXY protocol: a caller's own listener, or a side that has none.
    Direct {
        /// The listener's port.
        port: u16,
    },
}

/// Open connections.
#[derive(Debug, Default)]
pub struct Runner {
    open: BTreeMap<Way, Connection>,
}

/// More are not kept open.
const KEPT: usize = 32;

impl Runner {
    /// Sends a request and reads its response.
    ///
    /// # Panics
    /// When Envoy does not answer.
    pub fn send(&mut self, way: Way, request: &Request) -> Response {
        if let Some(mut connection) = self.open.remove(&way) {
            // It may have been closed since: then a new one is asked.
            if let Ok(response) = connection.send(request) {
                return self.keep(way, connection, response);
            }
        }
        let mut connection = connect(way);
        let response = connection.send(request).unwrap_or_else(|error| panic!("{request:?}: {error}"));
        self.keep(way, connection, response)
    }

    fn keep(&mut self, way: Way, connection: Connection, response: Response) -> Response {
        let closes = response.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        if !closes {
            if self.open.len() >= KEPT {
                self.open.clear();
            }
            self.open.insert(way, connection);
        }
        response
    }
}

fn connect(way: Way) -> Connection {
    let opened = match way {
        Way::Direct { port } => Client::local(port).connect(),
        Way::Proxied { port, source, destination } => {
            Client::local(port).source(source).connect().and_then(|mut connection| {
                let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
                let line =
                    format!("PROXY {family} {source} {} 50000 {}\r\n", destination.ip(), destination.port());
                connection.send_raw(line.as_bytes())?;
                Ok(connection)
            })
        }
    };
    opened.unwrap_or_else(|error| panic!("{way:?}: {error}"))
}
