//! The raw ABI: imports, statuses, and the one place where memory crosses the border.
#![expect(unsafe_code, reason = "hostcalls take raw pointers; this module wraps each in a safe function")]

use std::alloc::{Layout, alloc, handle_alloc_error};
use std::ptr::{null, null_mut};

/// The result of a hostcall that did not succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// There is no such header, property, key or function.
    NotFound,
    /// The call is not possible in this phase, or an argument is wrong.
    BadArgument,
    /// A value could not be encoded or decoded.
    SerializationFailure,
    /// A value exists and is empty.
    Empty,
    /// Someone else changed the value since it was read.
    CasMismatch,
    /// The host failed, or a capability is denied to this module.
    InternalFailure,
    /// Any other status.
    Other(u32),
}

impl Status {
    /// The word in logs and response code details.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::BadArgument => "bad_argument",
            Self::SerializationFailure => "serialization_failure",
            Self::Empty => "empty",
            Self::CasMismatch => "cas_mismatch",
            Self::InternalFailure => "internal_failure",
            Self::Other(_) => "other",
        }
    }

    fn of(raw: u32) -> Result<(), Self> {
        Err(match raw {
            0 => return Ok(()),
            1 => Self::NotFound,
            2 => Self::BadArgument,
            3 => Self::SerializationFailure,
            7 => Self::Empty,
            8 => Self::CasMismatch,
            10 => Self::InternalFailure,
            other => Self::Other(other),
        })
    }
}

/// Header maps.
#[derive(Debug, Clone, Copy)]
#[repr(u32)]
pub(crate) enum Map {
    Request = 0,
    Response = 2,
    CalloutResponse = 6,
}

/// Buffers.
#[derive(Debug, Clone, Copy)]
#[repr(u32)]
pub(crate) enum Buffer {
    CalloutBody = 4,
    GrpcMessage = 5,
    PluginConfiguration = 7,
}

#[link(wasm_import_module = "env")]
unsafe extern "C" {
    fn proxy_log(level: u32, text: *const u8, length: usize) -> u32;
    fn proxy_get_current_time_nanoseconds(out: *mut u64) -> u32;
    fn proxy_get_buffer_bytes(
        kind: u32,
        start: usize,
        max: usize,
        out: *mut *mut u8,
        length: *mut usize,
    ) -> u32;
    fn proxy_get_header_map_pairs(map: u32, out: *mut *mut u8, length: *mut usize) -> u32;
    fn proxy_get_header_map_value(
        map: u32,
        n: *const u8,
        nl: usize,
        out: *mut *mut u8,
        length: *mut usize,
    ) -> u32;
    fn proxy_add_header_map_value(map: u32, n: *const u8, nl: usize, v: *const u8, vl: usize) -> u32;
    fn proxy_replace_header_map_value(map: u32, n: *const u8, nl: usize, v: *const u8, vl: usize) -> u32;
    fn proxy_remove_header_map_value(map: u32, n: *const u8, nl: usize) -> u32;
    fn proxy_get_property(path: *const u8, pl: usize, out: *mut *mut u8, length: *mut usize) -> u32;
    fn proxy_set_property(path: *const u8, pl: usize, value: *const u8, vl: usize) -> u32;
    fn proxy_send_local_response(
        status: u32,
        details: *const u8,
        details_length: usize,
        body: *const u8,
        body_length: usize,
        headers: *const u8,
        headers_length: usize,
        grpc_status: i32,
    ) -> u32;
    fn proxy_get_shared_data(
        key: *const u8,
        kl: usize,
        out: *mut *mut u8,
        length: *mut usize,
        cas: *mut u32,
    ) -> u32;
    fn proxy_set_shared_data(key: *const u8, kl: usize, value: *const u8, vl: usize, cas: u32) -> u32;
    fn proxy_define_metric(kind: u32, name: *const u8, nl: usize, id: *mut u32) -> u32;
    fn proxy_increment_metric(id: u32, offset: i64) -> u32;
    fn proxy_record_metric(id: u32, value: u64) -> u32;
    fn proxy_call_foreign_function(
        name: *const u8,
        nl: usize,
        argument: *const u8,
        al: usize,
        out: *mut *mut u8,
        length: *mut usize,
    ) -> u32;
    fn proxy_http_call(
        cluster: *const u8,
        cl: usize,
        headers: *const u8,
        hl: usize,
        body: *const u8,
        bl: usize,
        trailers: *const u8,
        tl: usize,
        timeout: u32,
        token: *mut u32,
    ) -> u32;
    fn proxy_grpc_call(
        service: *const u8,
        sl: usize,
        name: *const u8,
        nl: usize,
        method: *const u8,
        ml: usize,
        metadata: *const u8,
        metadata_length: usize,
        message: *const u8,
        message_length: usize,
        timeout: u32,
        token: *mut u32,
    ) -> u32;
    fn proxy_set_effective_context(context: u32) -> u32;
    fn proxy_continue_stream(stream: u32) -> u32;
    fn proxy_set_tick_period_milliseconds(period: u32) -> u32;
}

#[link(wasm_import_module = "wasi_snapshot_preview1")]
unsafe extern "C" {
    fn clock_time_get(clock: u32, precision: u64, out: *mut u64) -> u32;
    fn random_get(out: *mut u8, length: usize) -> u32;
}

#[cfg(target_family = "wasm")]
unsafe extern "C" {
    /// The constructors of the linked libraries. Calling it from `_initialize` also keeps wasm-ld from wrapping every
    /// export in a call of it.
    fn __wasm_call_ctors();
}

/// Runs the constructors, once, at `_initialize`.
pub(crate) fn call_constructors() {
    #[cfg(target_family = "wasm")]
    // SAFETY: defined by wasm-ld, called exactly once, from `_initialize`.
    unsafe {
        __wasm_call_ctors();
    }
}

/// Memory that the host fills and a later [`take`] owns; the host asks for it during a call that returns data.
pub(crate) fn allocate(size: usize) -> *mut u8 {
    if size == 0 {
        return null_mut();
    }
    let Ok(layout) = Layout::array::<u8>(size) else { return null_mut() };
    // SAFETY: the layout has a size above zero.
    let memory = unsafe { alloc(layout) };
    if memory.is_null() {
        handle_alloc_error(layout);
    }
    memory
}

/// Owns what a hostcall returned through `allocate`.
fn take(data: *mut u8, length: usize) -> Vec<u8> {
    if data.is_null() || length == 0 {
        return Vec::new();
    }
    // SAFETY: the host got `data` from `allocate(length)`, has filled it, and keeps no pointer to it.
    unsafe { Vec::from_raw_parts(data, length, length) }
}

/// Runs a hostcall that returns bytes.
fn returned(call: impl FnOnce(*mut *mut u8, *mut usize) -> u32) -> Result<Vec<u8>, Status> {
    let (mut data, mut length) = (null_mut(), 0);
    let status = call(&raw mut data, &raw mut length);
    let bytes = take(data, length);
    Status::of(status).map(|()| bytes)
}

pub(crate) fn log(level: u32, text: &str) {
    // SAFETY: the slice is valid for the call. A log line that the host refuses is lost; there is nowhere to say so.
    let _ = unsafe { proxy_log(level, text.as_ptr(), text.len()) };
}

pub(crate) fn current_time() -> Result<u64, Status> {
    let mut now = 0;
    // SAFETY: `now` is valid for the call.
    Status::of(unsafe { proxy_get_current_time_nanoseconds(&raw mut now) }).map(|()| now)
}

pub(crate) fn monotonic_time() -> Result<u64, Status> {
    const MONOTONIC: u32 = 1;
    let mut now = 0;
    // SAFETY: `now` is valid for the call.
    Status::of(unsafe { clock_time_get(MONOTONIC, 0, &raw mut now) }).map(|()| now)
}

pub(crate) fn random() -> Result<u64, Status> {
    let mut bytes = [0; 8];
    // SAFETY: the array is valid for the call.
    Status::of(unsafe { random_get(bytes.as_mut_ptr(), bytes.len()) }).map(|()| u64::from_le_bytes(bytes))
}

pub(crate) fn buffer(kind: Buffer, max: usize) -> Result<Vec<u8>, Status> {
    // SAFETY: both out pointers are valid for the call.
    returned(|data, length| unsafe { proxy_get_buffer_bytes(kind as u32, 0, max, data, length) })
}

pub(crate) fn header_pairs(map: Map) -> Result<Vec<u8>, Status> {
    // SAFETY: both out pointers are valid for the call.
    returned(|data, length| unsafe { proxy_get_header_map_pairs(map as u32, data, length) })
}

pub(crate) fn header(map: Map, name: &str) -> Result<Vec<u8>, Status> {
    // SAFETY: the slice and both out pointers are valid for the call.
    returned(|data, length| unsafe {
        proxy_get_header_map_value(map as u32, name.as_ptr(), name.len(), data, length)
    })
}

pub(crate) fn add_header(map: Map, name: &str, value: &[u8]) -> Result<(), Status> {
    // SAFETY: both slices are valid for the call.
    Status::of(unsafe {
        proxy_add_header_map_value(map as u32, name.as_ptr(), name.len(), value.as_ptr(), value.len())
    })
}

pub(crate) fn replace_header(map: Map, name: &str, value: &[u8]) -> Result<(), Status> {
    // SAFETY: both slices are valid for the call.
    Status::of(unsafe {
        proxy_replace_header_map_value(map as u32, name.as_ptr(), name.len(), value.as_ptr(), value.len())
    })
}

pub(crate) fn remove_header(map: Map, name: &str) -> Result<(), Status> {
    // SAFETY: the slice is valid for the call.
    Status::of(unsafe { proxy_remove_header_map_value(map as u32, name.as_ptr(), name.len()) })
}

pub(crate) fn property(path: &[u8]) -> Result<Vec<u8>, Status> {
    // SAFETY: the slice and both out pointers are valid for the call.
    returned(|data, length| unsafe { proxy_get_property(path.as_ptr(), path.len(), data, length) })
}

pub(crate) fn set_property(name: &str, value: &[u8]) -> Result<(), Status> {
    // SAFETY: both slices are valid for the call.
    Status::of(unsafe { proxy_set_property(name.as_ptr(), name.len(), value.as_ptr(), value.len()) })
}

pub(crate) fn send_local_response(
    status: u16,
    details: &str,
    body: &[u8],
    headers: &[u8],
    grpc_status: i32,
) -> Result<(), Status> {
    // SAFETY: all slices are valid for the call.
    Status::of(unsafe {
        proxy_send_local_response(
            u32::from(status),
            details.as_ptr(),
            details.len(),
            body.as_ptr(),
            body.len(),
            headers.as_ptr(),
            headers.len(),
            grpc_status,
        )
    })
}

pub(crate) fn shared_data(key: &[u8]) -> Result<(Vec<u8>, u32), Status> {
    let mut cas = 0;
    // SAFETY: the slice and all out pointers are valid for the call.
    let value = returned(|data, length| unsafe {
        proxy_get_shared_data(key.as_ptr(), key.len(), data, length, &raw mut cas)
    });
    value.map(|value| (value, cas))
}

pub(crate) fn set_shared_data(key: &[u8], value: &[u8], cas: u32) -> Result<(), Status> {
    // SAFETY: both slices are valid for the call.
    Status::of(unsafe { proxy_set_shared_data(key.as_ptr(), key.len(), value.as_ptr(), value.len(), cas) })
}

pub(crate) fn define_metric(kind: u32, name: &str) -> Result<u32, Status> {
    let mut id = 0;
    // SAFETY: the slice and the out pointer are valid for the call.
    Status::of(unsafe { proxy_define_metric(kind, name.as_ptr(), name.len(), &raw mut id) }).map(|()| id)
}

pub(crate) fn increment_metric(id: u32, offset: i64) -> Result<(), Status> {
    // SAFETY: no pointers.
    Status::of(unsafe { proxy_increment_metric(id, offset) })
}

pub(crate) fn record_metric(id: u32, value: u64) -> Result<(), Status> {
    // SAFETY: no pointers.
    Status::of(unsafe { proxy_record_metric(id, value) })
}

pub(crate) fn call_foreign(name: &str, argument: &[u8]) -> Result<Vec<u8>, Status> {
    // SAFETY: both slices and both out pointers are valid for the call.
    returned(|data, length| unsafe {
        proxy_call_foreign_function(
            name.as_ptr(),
            name.len(),
            argument.as_ptr(),
            argument.len(),
            data,
            length,
        )
    })
}

pub(crate) fn http_call(cluster: &str, headers: &[u8], body: &[u8], timeout: u32) -> Result<u32, Status> {
    let mut token = 0;
    // SAFETY: all slices and the out pointer are valid for the call; no trailers are sent.
    Status::of(unsafe {
        proxy_http_call(
            cluster.as_ptr(),
            cluster.len(),
            headers.as_ptr(),
            headers.len(),
            body.as_ptr(),
            body.len(),
            null(),
            0,
            timeout,
            &raw mut token,
        )
    })
    .map(|()| token)
}

/// `service` is an encoded `envoy.config.core.v3.GrpcService`; no metadata is sent.
pub(crate) fn grpc_call(
    service: &[u8],
    name: &str,
    method: &str,
    message: &[u8],
    timeout: u32,
) -> Result<u32, Status> {
    let mut token = 0;
    // SAFETY: all slices and the out pointer are valid for the call.
    Status::of(unsafe {
        proxy_grpc_call(
            service.as_ptr(),
            service.len(),
            name.as_ptr(),
            name.len(),
            method.as_ptr(),
            method.len(),
            null(),
            0,
            message.as_ptr(),
            message.len(),
            timeout,
            &raw mut token,
        )
    })
    .map(|()| token)
}

pub(crate) fn set_effective_context(context: u32) -> Result<(), Status> {
    // SAFETY: no pointers.
    Status::of(unsafe { proxy_set_effective_context(context) })
}

pub(crate) fn set_tick_period(milliseconds: u32) -> Result<(), Status> {
    // SAFETY: no pointers.
    Status::of(unsafe { proxy_set_tick_period_milliseconds(milliseconds) })
}

pub(crate) fn continue_request() -> Result<(), Status> {
    // SAFETY: no pointers. 0 is the request stream.
    Status::of(unsafe { proxy_continue_stream(0) })
}
