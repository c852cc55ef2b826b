//! Reading and writing a module's memory from inside a hostcall.

use wasmtime::{Caller, Extern, Memory};

use crate::abi::{Hostcall, Status, to_u32};
use crate::vm::{Restriction, VmData};

pub(crate) type Guest<'a> = Caller<'a, VmData>;

/// How a hostcall ends other than with `Ok`.
pub(crate) enum Fail {
    Status(Status),
    Trap(wasmtime::Error),
}

impl From<Status> for Fail {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

impl From<wasmtime::Error> for Fail {
    fn from(error: wasmtime::Error) -> Self {
        Self::Trap(error)
    }
}

pub(crate) type Done<T = ()> = Result<T, Fail>;

/// Counts the call, enforces the restrictions of the moment, and says which code is injected.
pub(crate) fn enter(guest: &Guest<'_>, call: Hostcall) -> wasmtime::Result<Option<u32>> {
    let allowed = match guest.data().restriction {
        Restriction::None => true,
        Restriction::Startup => call == Hostcall::Log || call.is_wasi(),
        Restriction::Allocating => {
            matches!(call, Hostcall::Log | Hostcall::WasiFdWrite | Hostcall::WasiClockTimeGet)
        }
    };
    if !allowed {
        return Err(wasmtime::Error::msg(format!("restricted_callback: `{call}` may not be called now")));
    }
    Ok(guest.data().process.enter(call))
}

fn memory(guest: &mut Guest<'_>) -> Done<Memory> {
    if let Some(memory) = guest.data().memory {
        return Ok(memory);
    }
    // A start function runs before the instance is known.
    match guest.get_export("memory") {
        Some(Extern::Memory(memory)) => Ok(memory),
        _ => Err(Status::InvalidMemoryAccess.into()),
    }
}

pub(crate) fn read(guest: &mut Guest<'_>, pointer: u32, size: u32) -> Done<Vec<u8>> {
    let memory = memory(guest)?;
    let start = usize::try_from(pointer).unwrap_or(usize::MAX);
    let end = start.saturating_add(usize::try_from(size).unwrap_or(usize::MAX));
    memory.data(&*guest).get(start..end).map(<[u8]>::to_vec).ok_or_else(|| Status::InvalidMemoryAccess.into())
}

pub(crate) fn write(guest: &mut Guest<'_>, pointer: u32, bytes: &[u8]) -> Done {
    memory(guest)?
        .write(&mut *guest, usize::try_from(pointer).unwrap_or(usize::MAX), bytes)
        .map_err(|_| Status::InvalidMemoryAccess.into())
}

pub(crate) fn write_u32(guest: &mut Guest<'_>, pointer: u32, value: u32) -> Done {
    write(guest, pointer, &value.to_le_bytes())
}

pub(crate) fn write_u64(guest: &mut Guest<'_>, pointer: u32, value: u64) -> Done {
    write(guest, pointer, &value.to_le_bytes())
}

/// Asks the module for memory and fills it. Nothing to copy needs no memory: address 0.
pub(crate) fn copy_out(guest: &mut Guest<'_>, bytes: &[u8]) -> Done<u32> {
    if bytes.is_empty() {
        return Ok(0);
    }
    let allocate = guest.data().allocate.clone().ok_or(Status::InvalidMemoryAccess)?;
    let before = std::mem::replace(&mut guest.data_mut().restriction, Restriction::Allocating);
    let pointer = allocate.call(&mut *guest, to_u32(bytes.len()));
    guest.data_mut().restriction = before;
    let pointer = pointer?;
    if pointer == 0 {
        return Err(Status::InvalidMemoryAccess.into());
    }
    write(guest, pointer, bytes)?;
    Ok(pointer)
}

/// Copies bytes out and stores their address and size where the module wants them.
pub(crate) fn give(guest: &mut Guest<'_>, bytes: &[u8], pointer_to: u32, size_to: u32) -> Done {
    let pointer = copy_out(guest, bytes)?;
    write_u32(guest, pointer_to, pointer)?;
    write_u32(guest, size_to, to_u32(bytes.len()))
}
