//! What can go wrong, in sentences.

use std::{fmt, net::SocketAddr};

/// The result of everything here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a service cannot run or a request cannot be made. `Display` is a sentence without a full stop.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// Another program listens on the wanted address.
    PortInUse(SocketAddr),
    /// An argument or parameter cannot be used.
    Invalid {
        /// Its name as the user wrote it, e.g. `claims`.
        what: &'static str,
        /// What is wrong with it, e.g. "is not a JSON object".
        why: String,
    },
    /// A system call failed.
    Io {
        /// What was being done.
        doing: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A request got no usable answer.
    Request(String),
    /// A key cannot be made, read or used.
    Key(String),
}

impl Error {
    pub(crate) fn io(doing: impl Into<String>) -> impl FnOnce(std::io::Error) -> Error {
        let doing = doing.into();
        move |source| Error::Io { doing, source }
    }

    pub(crate) fn invalid(what: &'static str, why: impl Into<String>) -> Self {
        Error::Invalid { what, why: why.into() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::PortInUse(address) => write!(
                f,
                "port {} on {} is in use by another program; choose another with --listen or stop it",
                address.port(),
                address.ip()
            ),
            Error::Invalid { what, why } => write!(f, "`{what}`: {why}"),
            Error::Io { doing, source } => write!(f, "{doing}: {source}"),
            Error::Request(text) | Error::Key(text) => f.write_str(text),
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
