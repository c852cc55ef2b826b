//! Loopback ports that nobody else takes before the process that needs them binds them.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use socket2::{Domain, Socket, Type};

use crate::{Error, Result};

/// Reserved TCP ports on 127.0.0.1. Dropping it releases them.
///
/// A reservation is a bound socket that does not listen, with SO_REUSEADDR. On Linux a server that sets SO_REUSEADDR
/// too (Envoy, Rust's standard library, tokio, Go, Node) can listen on the port meanwhile, while the kernel gives it
/// to nobody who asks for *any* port. So reservations may be kept as long as the processes run.
#[derive(Debug, Default)]
pub struct Ports {
    held: Vec<Socket>,
}

impl Ports {
    /// No port yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A free port, different from all others that are reserved.
    ///
    /// # Errors
    /// When the system has none.
    pub fn free(&mut self) -> Result<u16> {
        self.hold(Ipv4Addr::LOCALHOST, 0).map_err(Error::io("could not reserve a port on 127.0.0.1"))
    }

    /// `count` free ports, all different.
    ///
    /// # Errors
    /// When the system has none.
    pub fn free_many(&mut self, count: usize) -> Result<Vec<u16>> {
        (0..count).map(|_| self.free()).collect()
    }

    /// Exactly this port. `variable` is what the user sets to choose another: it is named in the error.
    ///
    /// # Errors
    /// [`Error::PortInUse`] when another program listens there, [`Error::Io`] when it may not be bound.
    pub fn fixed(&mut self, port: u16, variable: &str) -> Result<u16> {
        self.fixed_on(Ipv4Addr::LOCALHOST, port, variable)
    }

    /// [`Ports::fixed`] on another address of 127.0.0.0/8.
    ///
    /// # Errors
    /// As [`Ports::fixed`].
    pub fn fixed_on(&mut self, host: Ipv4Addr, port: u16, variable: &str) -> Result<u16> {
        self.hold(host, port).map_err(|source| match source.kind() {
            std::io::ErrorKind::AddrInUse => {
                Error::PortInUse { host: host.to_string(), port, variable: variable.to_owned() }
            }
            _ => Error::Io { doing: format!("could not reserve port {port} on {host}"), source },
        })
    }

    /// The port in the environment variable `variable` when it is set, otherwise a free one.
    ///
    /// # Errors
    /// As [`Ports::fixed`]; a value that is no port is refused.
    pub fn from_env_or_free(&mut self, variable: &str) -> Result<u16> {
        let Some(text) = std::env::var_os(variable).filter(|text| !text.is_empty()) else {
            return self.free();
        };
        let text = text.to_string_lossy();
        match text.parse::<u16>() {
            Ok(port) if port != 0 => self.fixed(port, variable),
            _ => Err(Error::Missing {
                what: format!("`{variable}={text}` is not a port"),
                fix: "give a number from 1 to 65535".to_owned(),
            }),
        }
    }

    /// Gives all ports back. Only needed before starting a server that does not set SO_REUSEADDR.
    pub fn release(&mut self) {
        self.held.clear();
    }

    fn hold(&mut self, host: Ipv4Addr, port: u16) -> std::io::Result<u16> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&SocketAddr::from(SocketAddrV4::new(host, port)).into())?;
        let bound = socket.local_addr()?.as_socket().map_or(port, |address| address.port());
        self.held.push(socket);
        Ok(bound)
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn ports_are_distinct_and_a_server_can_listen_while_they_are_held() {
        let mut ports = Ports::new();
        let mut all = ports.free_many(50).unwrap();
        let listeners: Vec<_> =
            all.iter().map(|&port| TcpListener::bind(("127.0.0.1", port)).unwrap()).collect();
        assert_eq!(listeners.len(), 50);
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 50);
    }

    #[test]
    fn a_port_in_use_is_named_with_the_variable_that_changes_it() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let error = Ports::new().fixed(port, "DEMO_PORT").unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "port {port} on 127.0.0.1 is in use by another program; set DEMO_PORT=… to another port or stop it"
            )
        );
    }

    #[test]
    fn a_fixed_port_that_is_free_is_given() {
        let mut ports = Ports::new();
        let port = ports.free().unwrap();
        ports.release();
        assert_eq!(ports.fixed(port, "X").unwrap(), port);
    }
}
