//! The service behind the proxies: answers every request at once with the same few bytes.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use sailcloth_launch::{Error, Result};

use crate::system;

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n\r\nok";

/// A server on a free port. Its threads live as long as the program; they hold nothing but their sockets.
#[derive(Debug)]
pub(crate) struct Upstream {
    /// Where it listens, on 127.0.0.1.
    pub(crate) port: u16,
    answered: Arc<AtomicU64>,
}

impl Upstream {
    /// Starts it on `core`.
    pub(crate) fn start(core: usize) -> Result<Self> {
        let doing = || Error::io("could not start the upstream");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(doing())?;
        let port = listener.local_addr().map_err(doing())?.port();
        let answered = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&answered);
        std::thread::spawn(move || {
            // Not on the right core is slower, not wrong; the threads of the connections inherit it.
            let _ = system::pin_current_thread(core);
            for stream in listener.incoming().flatten() {
                let counter = Arc::clone(&counter);
                std::thread::spawn(move || serve(stream, &counter));
            }
        });
        Ok(Self { port, answered })
    }

    /// How many requests it has answered.
    pub(crate) fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }
}

/// Answers until the peer closes. Requests have no body and are not pipelined (Envoy does not).
fn serve(mut stream: TcpStream, answered: &AtomicU64) {
    let _ = stream.set_nodelay(true);
    let mut chunk = [0_u8; 8192];
    let mut tail = Vec::with_capacity(4);
    loop {
        let read = match stream.read(&mut chunk) {
            Ok(0) => return,
            Ok(read) => chunk.get(..read).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(_) => return, // the Envoy is gone; its load notices if that was too early
        };
        tail.extend_from_slice(read);
        tail.drain(..tail.len().saturating_sub(4));
        if tail == b"\r\n\r\n" {
            tail.clear();
            answered.fetch_add(1, Ordering::Relaxed);
            if stream.write_all(ANSWER).is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Load;

    #[test]
    fn every_request_is_answered_and_counted() {
        let upstream = Upstream::start(0).unwrap();
        let request = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n".to_vec();
        let mut load = Load::connect(upstream.port, &[request.clone(), request]).unwrap();
        assert_eq!(load.run(5).unwrap(), 10);
        assert_eq!(upstream.answered(), 10);
    }
}
