//! A request as the bytes that will be sent.

use std::net::SocketAddr;

/// A request. Nothing in it is checked or normalized: what is given is what is sent. Only two headers are added, each
/// unless it is given or switched off: `host`, and `content-length` when there is a body.
#[derive(Clone, Debug)]
pub struct Request {
    method: Vec<u8>,
    target: Vec<u8>,
    headers: Vec<(Vec<u8>, Vec<u8>)>,
    body: Vec<u8>,
    trailers: Vec<(Vec<u8>, Vec<u8>)>,
    host: bool,
    chunked: bool,
}

impl Request {
    /// A request with any method and any target: origin form, absolute form, `*`, or worse.
    pub fn new(method: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        Self {
            method: method.as_ref().to_vec(),
            target: target.as_ref().to_vec(),
            headers: Vec::new(),
            body: Vec::new(),
            trailers: Vec::new(),
            host: true,
            chunked: false,
        }
    }

    /// `GET target`.
    pub fn get(target: impl AsRef<[u8]>) -> Self {
        Self::new("GET", target)
    }

    /// Adds a header; one of the same name stays.
    #[must_use]
    pub fn header(mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        self.headers.push((name.as_ref().to_vec(), value.as_ref().to_vec()));
        self
    }

    /// Adds `authorization: Bearer <token>`.
    #[must_use]
    pub fn bearer(self, token: &str) -> Self {
        self.header("authorization", format!("Bearer {token}"))
    }

    /// Sends no `host` header of its own.
    #[must_use]
    pub fn without_host(mut self) -> Self {
        self.host = false;
        self
    }

    /// Sets the body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Sends the body as one chunk instead of with `content-length`.
    #[must_use]
    pub fn chunked(mut self) -> Self {
        self.chunked = true;
        self
    }

    /// Adds a trailer; the body is sent chunked then.
    #[must_use]
    pub fn trailer(mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        self.trailers.push((name.as_ref().to_vec(), value.as_ref().to_vec()));
        self.chunked()
    }

    pub(super) fn method(&self) -> &[u8] {
        &self.method
    }

    fn has(&self, name: &str) -> bool {
        self.headers.iter().any(|(given, _)| given.eq_ignore_ascii_case(name.as_bytes()))
    }

    /// What goes over the wire to `server`.
    pub fn to_bytes(&self, server: SocketAddr) -> Vec<u8> {
        let mut out = [self.method.as_slice(), b" ", &self.target, b" HTTP/1.1\r\n"].concat();
        if self.host && !self.has("host") {
            line(&mut out, b"host", server.to_string().as_bytes());
        }
        for (name, value) in &self.headers {
            line(&mut out, name, value);
        }
        if self.chunked {
            if !self.has("transfer-encoding") {
                line(&mut out, b"transfer-encoding", b"chunked");
            }
        } else if !self.body.is_empty() && !self.has("content-length") && !self.has("transfer-encoding") {
            line(&mut out, b"content-length", self.body.len().to_string().as_bytes());
        }
        out.extend_from_slice(b"\r\n");
        self.push_body(&mut out);
        out
    }

    fn push_body(&self, out: &mut Vec<u8>) {
        if !self.chunked {
            out.extend_from_slice(&self.body);
            return;
        }
        if !self.body.is_empty() {
            out.extend_from_slice(format!("{:x}\r\n", self.body.len()).as_bytes());
            out.extend_from_slice(&self.body);
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"0\r\n");
        for (name, value) in &self.trailers {
            line(out, name, value);
        }
        out.extend_from_slice(b"\r\n");
    }
}

fn line(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    for part in [name, b": ", value, b"\r\n"] {
        out.extend_from_slice(part);
    }
}
