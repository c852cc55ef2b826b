//! The WASI functions that Envoy 1.36 links; everything else is a missing import.

use wasmtime::Linker;

use crate::abi::{Hostcall, Level, to_u32};
use crate::guest::{Done, Fail, Guest, enter, read, write, write_u32, write_u64};
use crate::vm::VmData;

const SUCCESS: u32 = 0;
const EBADF: u32 = 8;
const EFAULT: u32 = 21;
const EINVAL: u32 = 28;
const ENOENT: u32 = 44;
const ENOSYS: u32 = 52;
const ENOTSUP: u32 = 58;

/// `random_get` gives no more than this at once.
const MAX_RANDOM: u32 = 64 * 1024;

macro_rules! wasi {
    ($linker:ident, $module:ident; $($call:ident($guest:ident $(, $arg:ident: $ty:ty)*) $body:expr;)*) => { $(
        $linker.func_wrap(
            $module,
            Hostcall::$call.name(),
            |mut caller: Guest<'_>, $($arg: $ty),*| -> wasmtime::Result<u32> {
                if let Some(code) = enter(&caller, Hostcall::$call)? {
                    return Ok(code);
                }
                let $guest = &mut caller;
                errno($body)
            },
        )?;
    )* };
}

/// A bad pointer is `EFAULT`.
fn errno(result: Done<u32>) -> wasmtime::Result<u32> {
    match result {
        Ok(code) => Ok(code),
        Err(Fail::Status(_)) => Ok(EFAULT),
        Err(Fail::Trap(error)) => Err(error),
    }
}

pub(crate) fn link(linker: &mut Linker<VmData>) -> wasmtime::Result<()> {
    for module in ["wasi_snapshot_preview1", "wasi_unstable"] {
        link_process(linker, module)?;
        link_files(linker, module)?;
        linker.func_wrap(module, Hostcall::WasiProcExit.name(), |caller: Guest<'_>, code: u32| {
            // Envoy only logs it and returns; Rust then runs into `unreachable`.
            enter(&caller, Hostcall::WasiProcExit)?;
            let data = caller.data();
            data.process.log(Level::Error, data.plugin_name(), format!("proc_exit({code})").as_bytes());
            Ok(())
        })?;
    }
    Ok(())
}

fn link_process(linker: &mut Linker<VmData>, module: &str) -> wasmtime::Result<()> {
    wasi! { linker, module;
        WasiEnvironGet(g, array: u32, text: u32) environ_get(g, array, text);
        WasiEnvironSizesGet(g, count_to: u32, size_to: u32) {
            let size: usize = environment(g.data()).iter().map(Vec::len).sum();
            let count = g.data().env.len();
            write_u32(g, count_to, to_u32(count)).and_then(|()| write_u32(g, size_to, to_u32(size)))
                .map(|()| SUCCESS)
        };
        WasiArgsGet(_g, _array: u32, _text: u32) Ok(SUCCESS);
        WasiArgsSizesGet(g, count_to: u32, size_to: u32)
            write_u32(g, count_to, 0).and_then(|()| write_u32(g, size_to, 0)).map(|()| SUCCESS);
        WasiClockTimeGet(g, clock: u32, _precision: u64, to: u32) clock_time_get(g, clock, to);
        WasiRandomGet(g, to: u32, size: u32) random_get(g, to, size);
        WasiSchedYield(_g) Ok(SUCCESS);
        WasiPollOneoff(_g, _subscriptions: u32, _events: u32, _count: u32, _to: u32) Ok(ENOSYS);
    }
    Ok(())
}

fn link_files(linker: &mut Linker<VmData>, module: &str) -> wasmtime::Result<()> {
    wasi! { linker, module;
        WasiFdWrite(g, fd: u32, vectors: u32, count: u32, to: u32) fd_write(g, fd, vectors, count, to);
        WasiFdRead(_g, _fd: u32, _vectors: u32, _count: u32, _to: u32) Ok(ENOSYS);
        WasiFdSeek(_g, _fd: u32, _offset: i64, _whence: u32, _to: u32) Ok(SUCCESS);
        WasiFdClose(_g, _fd: u32) Ok(SUCCESS);
        WasiFdFdstatGet(g, fd: u32, to: u32) fdstat_get(g, fd, to);
        WasiFdFdstatSetFlags(_g, _fd: u32, _flags: u32) Ok(ENOSYS);
        WasiPathOpen(_g, _fd: u32, _lookup: u32, _path: u32, _size: u32, _open: u32, _rights: u64,
            _inherited: u64, _flags: u32, _to: u32) Ok(ENOENT);
        WasiFdPrestatGet(_g, _fd: u32, _to: u32) Ok(EBADF);
        WasiFdPrestatDirName(_g, _fd: u32, _to: u32, _size: u32) Ok(ENOSYS);
    }
    Ok(())
}

fn environment(data: &VmData) -> Vec<Vec<u8>> {
    data.env.iter().map(|(name, value)| format!("{name}={value}\0").into_bytes()).collect()
}

fn environ_get(guest: &mut Guest<'_>, mut array: u32, mut text: u32) -> Done<u32> {
    for entry in environment(guest.data()) {
        write_u32(guest, array, text)?;
        write(guest, text, &entry)?;
        array = array.saturating_add(4);
        text = text.saturating_add(to_u32(entry.len()));
    }
    Ok(SUCCESS)
}

fn clock_time_get(guest: &mut Guest<'_>, clock: u32, to: u32) -> Done<u32> {
    let now = match clock {
        0 => guest.data().process.now_ns(),
        1 => guest.data().process.monotonic_ns(),
        _ => return Ok(ENOTSUP),
    };
    write_u64(guest, to, now)?;
    Ok(SUCCESS)
}

fn random_get(guest: &mut Guest<'_>, to: u32, size: u32) -> Done<u32> {
    if size > MAX_RANDOM {
        return Ok(EINVAL);
    }
    let bytes = guest.data().process.random(usize::try_from(size).unwrap_or(0));
    write(guest, to, &bytes)?;
    Ok(SUCCESS)
}

/// Standard output is logged at info, standard error at error.
fn fd_write(guest: &mut Guest<'_>, fd: u32, vectors: u32, count: u32, to: u32) -> Done<u32> {
    let level = match fd {
        1 => Level::Info,
        2 => Level::Error,
        _ => return Ok(EBADF),
    };
    let mut text = Vec::new();
    for index in 0..count {
        let vector = read(guest, vectors.saturating_add(index.saturating_mul(8)), 8)?;
        let word = |range| vector.get(range).and_then(|bytes: &[u8]| bytes.try_into().ok());
        let (Some(pointer), Some(size)) = (word(0..4), word(4..8)) else { return Ok(EFAULT) };
        text.extend(read(guest, u32::from_le_bytes(pointer), u32::from_le_bytes(size))?);
    }
    if !text.is_empty() {
        let data = guest.data();
        data.process.log(level, data.plugin_name(), text.strip_suffix(b"\n").unwrap_or(&text));
    }
    write_u32(guest, to, to_u32(text.len()))?;
    Ok(SUCCESS)
}

fn fdstat_get(guest: &mut Guest<'_>, fd: u32, to: u32) -> Done<u32> {
    if fd != 1 && fd != 2 {
        return Ok(EBADF);
    }
    // A 24-byte structure whose only non-zero part is the right to write.
    write_u64(guest, to, 0)?;
    write_u64(guest, to.saturating_add(8), 64)?;
    write_u64(guest, to.saturating_add(16), 0)?;
    Ok(SUCCESS)
}
