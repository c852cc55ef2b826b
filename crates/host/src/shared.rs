//! Shared data: Envoy's process-wide key-value store, the one truth of all workers.
//!
//! It has no delete, and in Istio all Wasm plugins share one key space: keys begin with `sailcloth/<filter>/`, and their
//! number is bounded by configuration, never by what clients send.

use crate::{Status, abi};

/// A number that changes with every write of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version(u32);

impl Version {
    /// As a number, for code that knows no host.
    #[must_use]
    pub fn number(self) -> u32 {
        self.0
    }

    /// From [`Version::number`].
    #[must_use]
    pub fn of(number: u32) -> Self {
        Self(number)
    }
}

/// What a conditional write found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Write {
    /// It was written.
    Done,
    /// Someone else wrote since; read again.
    Contended,
}

/// The value of a key and its version; `None` when nobody has written it.
///
/// # Errors
/// Any other status of the host.
pub fn read(key: &[u8]) -> Result<Option<(Vec<u8>, Version)>, Status> {
    match abi::shared_data(key) {
        Ok((value, cas)) => Ok(Some((value, Version(cas)))),
        Err(Status::NotFound) => Ok(None),
        Err(status) => Err(status),
    }
}

/// Writes a key, whatever it was.
///
/// # Errors
/// The status of the host.
pub fn overwrite(key: &[u8], value: &[u8]) -> Result<(), Status> {
    abi::set_shared_data(key, value, 0)
}

/// Writes a key if it is still as it was read; `None` means that it did not exist.
///
/// # Errors
/// Any other status of the host.
pub fn write(key: &[u8], value: &[u8], expected: Option<Version>) -> Result<Write, Status> {
    // 0 would write unconditionally. A version that no write has had yet creates an absent key and loses against a
    // present one (`envoy-wasm.md` 5.1).
    let cas = expected.map_or(u32::MAX, |Version(cas)| if cas == 0 { u32::MAX } else { cas });
    match abi::set_shared_data(key, value, cas) {
        Ok(()) => Ok(Write::Done),
        Err(Status::CasMismatch) => Ok(Write::Contended),
        Err(status) => Err(status),
    }
}
