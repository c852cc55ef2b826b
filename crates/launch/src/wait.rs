//! Waiting with a deadline, interruptible.

use std::{
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use crate::{Error, Result, http, interrupt};

/// How long a wait sleeps between two looks.
const STEP: Duration = Duration::from_millis(10);

/// Calls `look` until it returns something. `what` completes the sentence "…: not within 5.0 s".
///
/// # Errors
/// What `look` returns, [`Error::TimedOut`] after `timeout`, [`Error::Interrupted`] on a signal.
pub fn until<T>(what: &str, timeout: Duration, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
    loop {
        interrupt::check()?;
        if let Some(found) = look()? {
            return Ok(found);
        }
        if start.elapsed() >= timeout {
            return Err(Error::TimedOut { what: what.to_owned(), after: timeout });
        }
        std::thread::sleep(STEP);
    }
}

/// Waits until something accepts TCP connections at `address`; `check` is called between the attempts, so that the
/// death of the process that should listen ends the wait ([`crate::Process::check`]).
///
/// # Errors
/// As [`until`], and what `check` returns.
pub fn until_accepting(
    address: SocketAddr,
    timeout: Duration,
    mut check: impl FnMut() -> Result<()>,
) -> Result<()> {
    until(&format!("a listener on {address}"), timeout, || {
        check()?;
        Ok(TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok().map(drop))
    })
}

/// Waits until `GET target` at `address` is answered with `status`.
///
/// # Errors
/// As [`until_accepting`]; the sentence of a time-out carries the last answer.
pub fn until_http(
    address: SocketAddr,
    target: &str,
    status: u16,
    timeout: Duration,
    mut check: impl FnMut() -> Result<()>,
) -> Result<()> {
    let client = http::Client::new(address).timeout(Duration::from_secs(1));
    let mut last = String::from("no answer");
    let what = format!("{status} from http://{address}{target}");
    let result = until(&what, timeout, || {
        check()?;
        last = match client.send(&http::Request::get(target)) {
            Ok(answer) if answer.status == status => return Ok(Some(())),
            Ok(answer) => format!("{} {}", answer.status, answer.text().trim()),
            Err(interrupted @ Error::Interrupted(_)) => return Err(interrupted),
            Err(error) => error.to_string(),
        };
        Ok(None)
    });
    result.map_err(|error| match error {
        Error::TimedOut { what, after } => Error::TimedOut { what: format!("{what} (last: {last})"), after },
        other => other,
    })
}
