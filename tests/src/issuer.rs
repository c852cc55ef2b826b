//! An issuer on loopback that serves key sets well or badly, and counts how often it is asked.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::keys::{TestKey, base64url};

/// What it does with a request for its keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Answers 200 with the set.
    Serve,
    /// Answers 200 with the set, after a while.
    Slow(Duration),
    /// Answers 200 with the set, as another content type.
    ContentType(&'static str),
    /// Answers a status with no body, and where to go.
    Status(u16),
    /// Answers 200 with this body.
    Body(String),
    /// Reads the request and says nothing.
    Silent,
    /// Closes the connection before it answers.
    Close,
    /// Promises a longer body than it sends, and closes.
    Truncated,
    /// Answers what is not HTTP.
    NotHttp,
}

/// The issuer; stops listening when dropped.
#[derive(Debug)]
pub struct Issuer {
    port: u16,
    state: Arc<Mutex<State>>,
    over: Arc<AtomicBool>,
}

#[derive(Debug)]
struct State {
    keys: Vec<String>,
    mode: Mode,
    discovery: String,
    requests: Vec<String>,
}

impl Issuer {
    /// Listens on a free port of 127.0.0.1 and publishes these test keys.
    ///
    /// # Panics
    /// When there is no free port.
    #[must_use]
    pub fn start(keys: &[&str]) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
        let port = listener.local_addr().expect("a bound listener has an address").port();
        let state =
            State { keys: Vec::new(), mode: Mode::Serve, discovery: "{}".to_owned(), requests: Vec::new() };
        let issuer =
            Self { port, state: Arc::new(Mutex::new(state)), over: Arc::new(AtomicBool::new(false)) };
        issuer.publish(keys);
        let (state, stop) = (Arc::clone(&issuer.state), Arc::clone(&issuer.over));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let state = Arc::clone(&state);
                thread::spawn(move || serve(&stream, &state));
            }
        });
        issuer
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where it listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Changes the keys it publishes.
    ///
    /// # Panics
    /// When there is no such test key.
    pub fn publish(&self, keys: &[&str]) {
        let jwk = |name: &&str| TestKey::named(name).expect("a test key").jwk();
        self.state().keys = keys.iter().map(jwk).collect();
    }

    /// Changes how it answers.
    pub fn set(&self, mode: Mode) {
        self.state().mode = mode;
    }

    /// Changes its discovery document.
    pub fn set_discovery(&self, document: impl Into<String>) {
        self.state().discovery = document.into();
    }

    /// The paths it was asked for, in order.
    #[must_use]
    pub fn requests(&self) -> Vec<String> {
        self.state().requests.clone()
    }

    /// How often it was asked.
    #[must_use]
    pub fn count(&self) -> usize {
        self.state().requests.len()
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        // Wakes the accepting thread.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

fn serve(stream: &TcpStream, state: &Mutex<State>) {
    let mut reader = BufReader::new(stream);
    while let Some(path) = read_request(&mut reader) {
        let (mode, keys, discovery) = {
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            state.requests.push(path.clone());
            (state.mode.clone(), state.keys.join(","), state.discovery.clone())
        };
        let set = format!(r#"{{"keys":[{keys}]}}"#);
        let json = "application/json";
        let ok = |kind: &str, body: &str| {
            format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
        };
        let (answer, goes_on) = match mode {
            _ if path.starts_with("/.well-known/openid") => (ok(json, &discovery), true),
            Mode::Serve => (ok(json, &set), true),
            Mode::Slow(time) => {
                thread::sleep(time);
                (ok(json, &set), true)
            }
            Mode::ContentType(kind) => (ok(kind, &set), true),
            Mode::Status(status) => {
                let head = format!("HTTP/1.1 {status} X\r\nlocation: /elsewhere\r\n");
                (format!("{head}content-length: 0\r\n\r\n"), true)
            }
            Mode::Body(body) => (ok(json, &body), true),
            Mode::Silent => {
                // Until the client gives up.
                let _ = reader.read(&mut [0]);
                return;
            }
            Mode::Close => return,
            Mode::Truncated => {
                (format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{set}", set.len() + 1000), false)
            }
            Mode::NotHttp => ("220 mail.example ESMTP\r\n".to_owned(), false),
        };
        let mut out = stream;
        if out.write_all(answer.as_bytes()).is_err() || !goes_on {
            return;
        }
    }
}

/// The path of a request.
fn read_request(reader: &mut BufReader<&TcpStream>) -> Option<String> {
    let mut path = None;
    let mut line = String::new();
    loop {
        line.clear();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let text = line.trim_end();
        if text.is_empty() {
            return path;
        }
        path = path.or_else(|| text.split(' ').nth(1).map(str::to_owned));
    }
}

/// A token of a test key, with its name as `kid`.
///
/// # Panics
/// When there is no such test key.
#[must_use]
pub fn token(key: &str, claims: &str) -> String {
    let signer = TestKey::named(key).expect("a test key");
    let algorithm = signer.default_algorithm();
    let header = format!(r#"{{"alg":"{algorithm}","kid":"{key}"}}"#);
    let signed = format!("{}.{}", base64url(header.as_bytes()), base64url(claims.as_bytes()));
    let signature = signer.sign(algorithm, signed.as_bytes()).expect("it signs");
    format!("{signed}.{}", base64url(&signature))
}
