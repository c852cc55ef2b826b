//! Ctrl-C, SIGTERM and SIGHUP as a flag that every wait of this crate looks at, so that a program ends by returning
//! errors and running its destructors instead of dying with its children still about.

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    flag,
};

use crate::{Error, Result};

static RECEIVED: OnceLock<Arc<AtomicUsize>> = OnceLock::new();

/// A signal that asks the program to end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Signal(i32);

impl Signal {
    /// 128 + the signal's number, as shells report it: 130 for Ctrl-C, 143 for SIGTERM, 129 for a closed terminal.
    pub fn exit_code(self) -> u8 {
        u8::try_from(self.0 + 128).unwrap_or(u8::MAX)
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            SIGINT => f.write_str("Ctrl-C"),
            SIGTERM => f.write_str("SIGTERM"),
            SIGHUP => f.write_str("SIGHUP"),
            other => write!(f, "signal {other}"),
        }
    }
}

/// From now on the first signal sets the flag, a second one ends the program at once (owned children die with it).
/// Calling it again changes nothing.
pub fn install() -> Result<()> {
    let received = Arc::new(AtomicUsize::new(0));
    if RECEIVED.set(Arc::clone(&received)).is_err() {
        return Ok(());
    }
    let again = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        let doing = || Error::io(format!("could not handle signal {signal}"));
        let number = usize::try_from(signal).unwrap_or_default();
        // In this order: the first signal finds the condition unset, the next one set.
        flag::register_conditional_shutdown(signal, signal + 128, Arc::clone(&again)).map_err(doing())?;
        flag::register(signal, Arc::clone(&again)).map_err(doing())?;
        flag::register_usize(signal, Arc::clone(&received), number).map_err(doing())?;
    }
    Ok(())
}

/// The signal that arrived since [`install`], if any.
pub fn received() -> Option<Signal> {
    let number = RECEIVED.get()?.load(Ordering::SeqCst);
    i32::try_from(number).ok().filter(|&n| n != 0).map(Signal)
}

/// An error as soon as a signal has arrived. For the loops of callers; the waits of this crate call it themselves.
pub fn check() -> Result<()> {
    received().map_or(Ok(()), |signal| Err(Error::Interrupted(signal)))
}
