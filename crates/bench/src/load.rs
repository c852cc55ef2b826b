//! The load: keep-alive HTTP/1.1 connections to one Envoy, all in flight at once, at as little cost as blocking sockets
//! allow. Every response is read to its end and its status compared.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    time::Duration,
};

use sailcloth_launch::{Error, Result, interrupt};

/// A response that takes longer fails the run.
const PATIENCE: Duration = Duration::from_secs(10);

/// Open connections to one Envoy, each with the request it repeats.
#[derive(Debug)]
pub(crate) struct Load {
    lanes: Vec<Lane>,
}

#[derive(Debug)]
struct Lane {
    stream: TcpStream,
    request: Vec<u8>,
    /// What was read of the response so far.
    buffer: Vec<u8>,
}

impl Load {
    /// One connection per request.
    pub(crate) fn connect(port: u16, requests: &[Vec<u8>]) -> Result<Self> {
        Ok(Self { lanes: requests.iter().map(|request| Lane::open(port, request)).collect::<Result<_>>()? })
    }

    /// Sends each connection's request `rounds` times and waits for the answers, which all must be 200. Returns how
    /// many requests that were.
    ///
    /// # Errors
    /// When any is answered otherwise or not at all.
    pub(crate) fn run(&mut self, rounds: usize) -> Result<usize> {
        for _ in 0..rounds {
            for lane in &mut self.lanes {
                lane.send()?;
            }
            for lane in &mut self.lanes {
                let status = lane.receive()?;
                if status != 200 {
                    return Err(Error::Http(format!("a request was answered {status} instead of 200")));
                }
            }
        }
        Ok(rounds * self.lanes.len())
    }
}

/// The status with which `request` is answered on a new connection.
pub(crate) fn status_of(port: u16, request: &[u8]) -> Result<u16> {
    let mut lane = Lane::open(port, request)?;
    lane.send()?;
    lane.receive()
}

impl Lane {
    fn open(port: u16, request: &[u8]) -> Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let open = || {
            let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            Ok(stream)
        };
        let stream = open().map_err(Error::io(format!("could not connect to {address}")))?;
        Ok(Self { stream, request: request.to_vec(), buffer: Vec::new() })
    }

    fn send(&mut self) -> Result<()> {
        self.stream.write_all(&self.request).map_err(Error::io("could not send a request"))
    }

    fn receive(&mut self) -> Result<u16> {
        self.buffer.clear();
        let mut chunk = [0_u8; 4096];
        loop {
            let read = match self.stream.read(&mut chunk) {
                Ok(read) => read,
                // Reads with a deadline are not taken up again by the kernel.
                Err(error) if error.kind() == ErrorKind::Interrupted => {
                    interrupt::check()?;
                    continue;
                }
                Err(error) => return Err(Error::io("a response did not come")(error)),
            };
            if read == 0 {
                return Err(Error::Http("Envoy closed a connection instead of answering".to_owned()));
            }
            self.buffer.extend_from_slice(chunk.get(..read).unwrap_or_default());
            if let Some((status, length)) = head(&self.buffer)?
                && self.buffer.len() >= length
            {
                return Ok(status);
            }
        }
    }
}

/// Status and total length of a response once its head is complete.
fn head(bytes: &[u8]) -> Result<Option<(u16, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    let malformed = |what: &str| Error::Http(format!("a response is malformed: {what}"));
    match response.parse(bytes) {
        Ok(httparse::Status::Partial) => Ok(None),
        Ok(httparse::Status::Complete(head)) => {
            let status = response.code.unwrap_or_default();
            let length =
                response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
            let length = length
                .and_then(|header| std::str::from_utf8(header.value).ok()?.trim().parse::<usize>().ok())
                .ok_or_else(|| malformed("it has no content-length"))?;
            Ok(Some((status, head + length)))
        }
        Err(error) => Err(malformed(&error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn server(answers: &'static [&'static str]) -> u16 {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            for answer in answers {
                let mut chunk = [0_u8; 64];
                assert_ne!(stream.read(&mut chunk).unwrap(), 0);
                // In two parts: a response may arrive in pieces.
                let (first, second) = answer.split_at_checked(answer.len() - 1).unwrap();
                stream.write_all(first.as_bytes()).unwrap();
                stream.flush().unwrap();
                std::thread::sleep(Duration::from_millis(5));
                stream.write_all(second.as_bytes()).unwrap();
            }
        });
        port
    }

    const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

    #[test]
    fn responses_are_read_to_their_end_and_counted() {
        let mut load = Load::connect(server(&[OK, OK, OK]), &[b"GET / HTTP/1.1\r\n\r\n".to_vec()]).unwrap();
        assert_eq!(load.run(3).unwrap(), 3);
        assert!(load.run(1).unwrap_err().to_string().contains("closed a connection"));
    }

    #[test]
    fn any_other_status_ends_the_run() {
        let port = server(&["HTTP/1.1 503 Unavailable\r\ncontent-length: 1\r\n\r\nx"]);
        let mut load = Load::connect(port, &[b"GET / HTTP/1.1\r\n\r\n".to_vec()]).unwrap();
        let error = load.run(1).unwrap_err().to_string();
        assert_eq!(error, "a request was answered 503 instead of 200");
    }

    #[test]
    fn a_response_without_length_is_an_error() {
        let port = server(&["HTTP/1.1 200 OK\r\nx: y\r\n\r\n"]);
        assert!(status_of(port, b"GET / HTTP/1.1\r\n\r\n").is_err());
    }
}
