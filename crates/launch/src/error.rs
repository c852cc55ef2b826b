//! What can go wrong, in sentences for the person who typed the command.

use std::{fmt, io, path::PathBuf, time::Duration};

use crate::interrupt::Signal;

/// The result of everything that starts, waits or stops.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why something could not be started, reached or stopped. `Display` is a sentence without a full stop.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The user asked to stop; the program should unwind and end with [`Error::exit_code`].
    Interrupted(Signal),
    /// Another program listens on a port that was asked for.
    PortInUse {
        /// Where the port was wanted, e.g. `127.0.0.1`.
        host: String,
        /// The port.
        port: u16,
        /// The variable (or flag) with which the user chooses another one.
        variable: String,
    },
    /// A program is not there.
    Missing {
        /// What was looked for and where.
        what: String,
        /// What to do about it.
        fix: String,
    },
    /// A process ended although it should be running.
    Exited {
        /// The name it was started under.
        name: String,
        /// How it ended: `exit status: 1`, `signal: 9 (SIGKILL)`.
        status: String,
        /// The lines of its log that say why; the last ones when none stand out.
        log: String,
    },
    /// Something did not happen in time.
    TimedOut {
        /// What was waited for.
        what: String,
        /// How long.
        after: Duration,
    },
    /// Processes of an earlier start still run.
    AlreadyUp {
        /// The run directory that names them.
        dir: PathBuf,
        /// `name (pid)` of each.
        running: Vec<String>,
    },
    /// Envoy refuses a configuration; its own words.
    InvalidConfig(String),
    /// A file, socket or process operation failed.
    Io {
        /// What was being done.
        doing: String,
        /// What the system said.
        source: io::Error,
    },
    /// The answer of a server cannot be understood, or is larger than the client's bounds.
    Http(String),
}

impl Error {
    /// Adds to a system error what was being done.
    pub fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
        let doing = doing.into();
        move |source| Error::Io { doing, source }
    }

    /// The exit code of a program that ends because of this: 128 + signal when interrupted (130 for Ctrl-C, 143 for
    /// SIGTERM), 3 for an invalid configuration, otherwise 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Interrupted(signal) => signal.exit_code(),
            Error::InvalidConfig(_) => 3,
            _ => 1,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Interrupted(signal) => write!(f, "interrupted by {signal}"),
            Error::PortInUse { host, port, variable } => write!(
                f,
                "port {port} on {host} is in use by another program; set {variable}=… to another port or stop it"
            ),
            Error::Missing { what, fix } => write!(f, "{what}; {fix}"),
            Error::Exited { name, status, log } if log.is_empty() => {
                write!(f, "{name} ended ({status}) and logged nothing")
            }
            Error::Exited { name, status, log } => write!(f, "{name} ended ({status}); it said:\n{log}"),
            Error::TimedOut { what, after } => write!(f, "{what}: not within {:.1} s", after.as_secs_f64()),
            Error::AlreadyUp { dir, running } => {
                write!(f, "already up: {} (run directory `{}`)", running.join(", "), dir.display())
            }
            Error::InvalidConfig(text) => write!(f, "the configuration is invalid:\n{text}"),
            Error::Io { doing, source } => write!(f, "{doing}: {source}"),
            Error::Http(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}
