//! Connections, and reading responses from them.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use socket2::{Domain, Socket, Type};

use super::{Request, Response};
use crate::{Error, Result, interrupt};

/// Larger heads are refused. Envoy's own bound is 60 KiB.
const MAX_HEAD: usize = 256 << 10;

/// More headers or trailers are refused.
const MAX_HEADERS: usize = 1024;

/// How long one read blocks before the deadline and the interrupt flag are looked at.
const STEP: Duration = Duration::from_millis(100);

/// How to reach a server.
#[derive(Clone, Debug)]
pub struct Client {
    server: SocketAddr,
    source: Option<IpAddr>,
    timeout: Duration,
    max_body: usize,
}

impl Client {
    /// A client of `server` with a time-out of 10 s per request and a bound of 16 MiB per body.
    pub fn new(server: SocketAddr) -> Self {
        Self { server, source: None, timeout: Duration::from_secs(10), max_body: 16 << 20 }
    }

    /// A client of 127.0.0.1:`port`.
    pub fn local(port: u16) -> Self {
        Self::new((Ipv4Addr::LOCALHOST, port).into())
    }

    /// Connects from this address, e.g. 127.0.0.7.
    #[must_use]
    pub fn source(mut self, address: impl Into<IpAddr>) -> Self {
        self.source = Some(address.into());
        self
    }

    /// Bounds the time to connect, and that from sending a request to the end of its response.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Refuses larger response bodies (bytes).
    #[must_use]
    pub fn max_body(mut self, bytes: usize) -> Self {
        self.max_body = bytes;
        self
    }

    /// Sends one request over a new connection.
    ///
    /// # Errors
    /// As [`Client::connect`] and [`Connection::send`].
    pub fn send(&self, request: &Request) -> Result<Response> {
        self.connect()?.send(request)
    }

    /// Opens a connection that several requests may use.
    ///
    /// # Errors
    /// When the server does not accept.
    pub fn connect(&self) -> Result<Connection> {
        interrupt::check()?;
        let stream = self.open().map_err(Error::io(format!("could not connect to {}", self.server)))?;
        Ok(Connection { client: self.clone(), stream, buffer: Vec::new() })
    }

    fn open(&self) -> io::Result<TcpStream> {
        let socket = Socket::new(Domain::for_address(self.server), Type::STREAM, None)?;
        if let Some(source) = self.source {
            socket.bind(&SocketAddr::new(source, 0).into())?;
        }
        socket.connect_timeout(&self.server.into(), self.timeout)?;
        socket.set_tcp_nodelay(true)?;
        socket.set_read_timeout(Some(STEP))?;
        socket.set_write_timeout(Some(self.timeout))?;
        Ok(socket.into())
    }
}

/// An open connection.
#[derive(Debug)]
pub struct Connection {
    client: Client,
    stream: TcpStream,
    /// What was read beyond the end of the last response.
    buffer: Vec<u8>,
}

impl Connection {
    /// The address the server sees.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn local_address(&self) -> Result<SocketAddr> {
        self.stream.local_addr().map_err(Error::io("could not read the local address"))
    }

    /// Sends a request and reads its response. The connection can be used again as long as the server keeps it open.
    ///
    /// # Errors
    /// [`Error::Io`] when the connection breaks, [`Error::TimedOut`], [`Error::Http`] for a response that is malformed
    /// or too large, [`Error::Interrupted`].
    pub fn send(&mut self, request: &Request) -> Result<Response> {
        let deadline = Instant::now() + self.client.timeout;
        let sent = self.send_raw(&request.to_bytes(self.client.server));
        let answer = self.receive_until(request.method(), deadline);
        // A server may answer and close before it has read everything: then the answer counts.
        match (sent, answer) {
            (_, Ok(answer)) => Ok(answer),
            (Err(error), Err(_)) | (Ok(()), Err(error)) => Err(error),
        }
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// When the connection breaks.
    pub fn send_raw(&mut self, bytes: &[u8]) -> Result<()> {
        let doing = Error::io(format!("could not send to {}", self.client.server));
        self.stream.write_all(bytes).map_err(doing)
    }

    /// Reads the response to a request with `method` (what follows a response depends on it: `HEAD` has no body).
    ///
    /// # Errors
    /// As [`Connection::send`].
    pub fn receive(&mut self, method: &str) -> Result<Response> {
        self.receive_until(method.as_bytes(), Instant::now() + self.client.timeout)
    }

    /// Whether the server has closed the connection (waits up to the client's time-out for it).
    ///
    /// # Errors
    /// [`Error::Interrupted`].
    pub fn is_closed(&mut self) -> Result<bool> {
        match self.fill(Instant::now() + self.client.timeout) {
            Ok(read) => Ok(read == 0),
            Err(error @ Error::Interrupted(_)) => Err(error),
            Err(Error::TimedOut { .. }) => Ok(false),
            Err(_) => Ok(true),
        }
    }

    fn receive_until(&mut self, method: &[u8], deadline: Instant) -> Result<Response> {
        let mut interim = Vec::new();
        let mut response = loop {
            let response = self.head(deadline)?;
            if !(100..200).contains(&response.status) || response.status == 101 {
                break response;
            }
            interim.push(response.status);
        };
        response.interim = interim;
        if method != b"HEAD" && !matches!(response.status, 101 | 204 | 304) {
            self.body(&mut response, deadline)?;
        }
        Ok(response)
    }

    fn head(&mut self, deadline: Instant) -> Result<Response> {
        loop {
            if let Some((response, length)) = parse_head(&self.buffer)? {
                self.buffer.drain(..length);
                return Ok(response);
            }
            if self.buffer.len() > MAX_HEAD {
                return Err(Error::Http(format!("the response's head is larger than {MAX_HEAD} bytes")));
            }
            self.fill_or_fail("its head", deadline)?;
        }
    }

    fn body(&mut self, response: &mut Response, deadline: Instant) -> Result<()> {
        let chunked =
            response.header_bytes("transfer-encoding").any(|value| value.eq_ignore_ascii_case(b"chunked"));
        if chunked {
            return self.chunks(response, deadline);
        }
        let length = response.header("content-length").map(|text| text.trim().parse::<usize>());
        response.body = match length {
            Some(Ok(length)) => self.take(length, deadline)?,
            Some(Err(_)) => return Err(Error::Http("the response's content-length is no number".to_owned())),
            None => self.rest(deadline)?,
        };
        Ok(())
    }

    /// A body that ends with the connection.
    fn rest(&mut self, deadline: Instant) -> Result<Vec<u8>> {
        while self.fill(deadline)? != 0 {
            self.bound(self.buffer.len())?;
        }
        Ok(std::mem::take(&mut self.buffer))
    }

    fn chunks(&mut self, response: &mut Response, deadline: Instant) -> Result<()> {
        loop {
            let (line, size) = loop {
                match httparse::parse_chunk_size(&self.buffer) {
                    Ok(httparse::Status::Complete(found)) => break found,
                    Ok(httparse::Status::Partial) => self.fill_or_fail("a chunk", deadline)?,
                    Err(_) => return Err(Error::Http("the response has a malformed chunk size".to_owned())),
                }
            };
            self.buffer.drain(..line);
            if size == 0 {
                response.trailers = self.trailers(deadline)?;
                return Ok(());
            }
            let size = usize::try_from(size).unwrap_or(usize::MAX);
            self.bound(response.body.len().saturating_add(size))?;
            let chunk = self.take(size, deadline)?;
            response.body.extend_from_slice(&chunk);
            if self.take(2, deadline)? != b"\r\n" {
                return Err(Error::Http("a chunk of the response is longer than it says".to_owned()));
            }
        }
    }

    fn trailers(&mut self, deadline: Instant) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        loop {
            let mut space = vec![httparse::EMPTY_HEADER; MAX_HEADERS];
            match httparse::parse_headers(&self.buffer, &mut space) {
                Ok(httparse::Status::Complete((length, trailers))) => {
                    let trailers = owned(trailers);
                    self.buffer.drain(..length);
                    return Ok(trailers);
                }
                Ok(httparse::Status::Partial) if self.buffer.len() <= MAX_HEAD => {
                    self.fill_or_fail("its trailers", deadline)?;
                }
                Ok(httparse::Status::Partial) => {
                    return Err(Error::Http(format!("the trailers are larger than {MAX_HEAD} bytes")));
                }
                Err(error) => return Err(Error::Http(format!("the trailers are malformed: {error}"))),
            }
        }
    }

    fn take(&mut self, length: usize, deadline: Instant) -> Result<Vec<u8>> {
        self.bound(length)?;
        while self.buffer.len() < length {
            self.fill_or_fail("its body", deadline)?;
        }
        Ok(self.buffer.drain(..length).collect())
    }

    fn bound(&self, length: usize) -> Result<()> {
        let bound = self.client.max_body;
        if length <= bound {
            Ok(())
        } else {
            Err(Error::Http(format!("the body is larger than {bound} bytes")))
        }
    }

    fn fill_or_fail(&mut self, part: &str, deadline: Instant) -> Result<()> {
        match self.fill(deadline)? {
            0 if self.buffer.is_empty() && part == "its head" => Err(Error::Io {
                doing: format!("no response from {}", self.client.server),
                source: io::ErrorKind::UnexpectedEof.into(),
            }),
            0 => Err(Error::Http(format!("the response ended in the middle of {part}"))),
            _ => Ok(()),
        }
    }

    /// Reads once into the buffer; 0 at the end of the stream.
    fn fill(&mut self, deadline: Instant) -> Result<usize> {
        let mut chunk = [0; 16 << 10];
        loop {
            interrupt::check()?;
            match self.stream.read(&mut chunk) {
                Ok(read) => {
                    self.buffer.extend_from_slice(chunk.get(..read).unwrap_or_default());
                    return Ok(read);
                }
                Err(error) if is_pause(&error) => {}
                Err(error) => {
                    return Err(Error::io(format!("could not read from {}", self.client.server))(error));
                }
            }
            if Instant::now() >= deadline {
                let what = format!("a response from {}", self.client.server);
                return Err(Error::TimedOut { what, after: self.client.timeout });
            }
        }
    }
}

fn is_pause(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}

fn owned(headers: &[httparse::Header<'_>]) -> Vec<(Vec<u8>, Vec<u8>)> {
    headers.iter().map(|header| (header.name.as_bytes().to_vec(), header.value.to_vec())).collect()
}

fn parse_head(bytes: &[u8]) -> Result<Option<(Response, usize)>> {
    let mut space = vec![httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut head = httparse::Response::new(&mut space);
    let malformed = |error| Error::Http(format!("the response's head is malformed: {error}"));
    let httparse::Status::Complete(length) = head.parse(bytes).map_err(malformed)? else { return Ok(None) };
    let response = Response {
        status: head.code.unwrap_or_default(),
        reason: head.reason.unwrap_or_default().to_owned(),
        headers: owned(head.headers),
        body: Vec::new(),
        trailers: Vec::new(),
        interim: Vec::new(),
    };
    Ok(Some((response, length)))
}
