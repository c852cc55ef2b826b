//! A tiny upstream on loopback: answers 200 to whatever comes, and says back what headers it got.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::case::Headers;
use crate::keys::{hex, unhex};
use crate::provider;

/// The upstream; stops listening when dropped.
#[derive(Debug)]
pub struct Echo {
    port: u16,
    over: Arc<AtomicBool>,
}

impl Echo {
    /// Listens on a free port of 127.0.0.1.
    ///
    /// # Panics
    /// When there is no free port.
    #[must_use]
    pub fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
        let port = listener.local_addr().expect("a bound listener has an address").port();
        let over = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&over);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                thread::spawn(move || serve(&stream));
            }
        });
        Self { port, over }
    }

    /// Where it listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        // Wakes the accepting thread.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

/// Answers requests until the client goes. Each line of the body is a header: name and value in hexadecimal, since a value
/// may hold any byte.
fn serve(stream: &TcpStream) {
    let mut reader = BufReader::new(stream);
    loop {
        let mut headers = Vec::new();
        let mut length = 0;
        let mut line = Vec::new();
        let mut first = true;
        loop {
            line.clear();
            match reader.read_until(b'\n', &mut line) {
                Ok(read) if read > 0 => {}
                _ => return,
            }
            let text = line.trim_ascii_end();
            if text.is_empty() {
                break;
            }
            if first {
                first = false;
                let mut words = text.split(|byte| *byte == b' ');
                for name in [":method", ":path"] {
                    headers.push((name.as_bytes().to_vec(), words.next().unwrap_or_default().to_vec()));
                }
                continue;
            }
            let colon = text.iter().position(|byte| *byte == b':').unwrap_or(text.len());
            let name = text[..colon].to_ascii_lowercase();
            let value = text.get(colon + 1..).unwrap_or_default().trim_ascii().to_vec();
            if name == b"content-length" {
                length = std::str::from_utf8(&value).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
            }
            // As Envoy has it, and the other runners.
            let name = if name == b"host" { b":authority".to_vec() } else { name };
            headers.push((name, value));
        }
        if std::io::copy(&mut reader.by_ref().take(length), &mut std::io::sink()).is_err() {
            return;
        }
        if headers.iter().any(|(name, _)| name == provider::MARK.as_bytes()) {
            if !provide(stream, &headers) {
                return;
            }
            continue;
        }
        let lines = headers.iter().map(|(name, value)| format!("{} {}\n", hex(name), hex(value)));
        let body: String = lines.collect();
        let answer = format!("HTTP/1.1 200 OK\r\nx-echo: 1\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        let mut out = stream;
        if out.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

/// Answers as the external provider; whether the connection lives on.
fn provide(mut stream: &TcpStream, headers: &[(Vec<u8>, Vec<u8>)]) -> bool {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let question: Headers = headers.iter().map(|(name, value)| (text(name), value.clone())).collect();
    match provider::answer(&question) {
        provider::Reply::Silence => {
            thread::sleep(std::time::Duration::from_secs(5));
            false
        }
        provider::Reply::Response(status, headers, body) => {
            let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
            let length = body.len();
            let answer = format!("HTTP/1.1 {status} Answer\r\n{lines}content-length: {length}\r\n\r\n{body}");
            stream.write_all(answer.as_bytes()).is_ok()
        }
    }
}

/// Reads the body of an echo.
#[must_use]
pub fn read(body: &[u8]) -> Headers {
    let text = String::from_utf8_lossy(body);
    let header = |line: &str| {
        let (name, value) = line.split_once(' ')?;
        Some((String::from_utf8(unhex(name)?).ok()?, unhex(value)?))
    };
    text.lines().filter_map(header).collect()
}
