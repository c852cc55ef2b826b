//! The `env` imports of ABI 0.2.1. Each does what Envoy's host does, status for status.

use std::sync::PoisonError;

use wasmtime::Linker;

use crate::abi::{Hostcall, Level, MapType, Status, to_u32};
use crate::callout::{GrpcRefusal, Request};
use crate::guest::{Done, Fail, Guest, enter, give, read, write_u32, write_u64};
use crate::headers::HeaderMap;
use crate::pairs;
use crate::process::MetricKind;
use crate::property;
use crate::stream::{Direction, LocalReply, Pending, StreamState};
use crate::vm::{Context, VmData};

/// Defines one import: restrictions, counting and injection first, then the body, whose failures become statuses.
macro_rules! hostcalls {
    ($linker:ident; $($call:ident($guest:ident $(, $arg:ident: $ty:ty)*) $body:expr;)*) => { $(
        $linker.func_wrap(
            "env",
            Hostcall::$call.name(),
            |mut caller: Guest<'_>, $($arg: $ty),*| -> wasmtime::Result<u32> {
                if let Some(code) = enter(&caller, Hostcall::$call)? {
                    return Ok(code);
                }
                let $guest = &mut caller;
                status($body)
            },
        )?;
    )* };
}

fn status(result: Done) -> wasmtime::Result<u32> {
    match result {
        Ok(()) => Ok(Status::Ok as u32),
        Err(Fail::Status(status)) => Ok(status as u32),
        Err(Fail::Trap(error)) => Err(error),
    }
}

pub(crate) fn link(linker: &mut Linker<VmData>) -> wasmtime::Result<()> {
    link_general(linker)?;
    link_headers(linker)?;
    link_buffers(linker)?;
    link_metrics(linker)?;
    link_calls(linker)?;
    link_queues(linker)
}

fn link_general(linker: &mut Linker<VmData>) -> wasmtime::Result<()> {
    hostcalls! { linker;
        Log(g, level: u32, text: u32, size: u32) log(g, level, text, size);
        GetLogLevel(g, to: u32) { let level = g.data().process.log_level(); write_u32(g, to, level as u32) };
        GetStatus(g, code_to: u32, text_to: u32, size_to: u32) get_status(g, code_to, text_to, size_to);
        GetCurrentTime(g, to: u32) { let now = g.data().process.now_ns(); write_u64(g, to, now) };
        SetTickPeriod(g, milliseconds: u32) set_tick_period(g, milliseconds);
        SetEffectiveContext(g, context: u32) set_effective_context(g, context);
        Done(g) done(g);
        ContinueStream(g, kind: u32) continue_stream(g, kind);
        CloseStream(g, kind: u32) close_stream(g, kind);
        SendLocalResponse(g, code: u32, details: u32, details_size: u32, body: u32, body_size: u32,
            headers: u32, headers_size: u32, grpc: i32)
            local_response(g, code, (details, details_size), (body, body_size), (headers, headers_size), grpc);
        GetProperty(g, path: u32, size: u32, value_to: u32, size_to: u32) {
            read(g, path, size)
                .and_then(|path| Ok(property::read(g.data(), &path)?))
                .and_then(|value| give(g, &value, value_to, size_to))
        };
        SetProperty(g, path: u32, path_size: u32, value: u32, value_size: u32)
            set_property(g, (path, path_size), (value, value_size));
        GetSharedData(g, key: u32, size: u32, value_to: u32, size_to: u32, cas_to: u32)
            get_shared_data(g, (key, size), value_to, size_to, cas_to);
        SetSharedData(g, key: u32, key_size: u32, value: u32, value_size: u32, cas: u32)
            set_shared_data(g, (key, key_size), (value, value_size), cas);
    }
    Ok(())
}

fn link_headers(linker: &mut Linker<VmData>) -> wasmtime::Result<()> {
    hostcalls! { linker;
        GetHeaderMapValue(g, map: u32, key: u32, size: u32, value_to: u32, size_to: u32)
            get_header(g, map, (key, size), value_to, size_to);
        AddHeaderMapValue(g, map: u32, key: u32, key_size: u32, value: u32, value_size: u32)
            edit(g, map, (key, key_size), (value, value_size), |map, key, value| map.add(key, value));
        ReplaceHeaderMapValue(g, map: u32, key: u32, key_size: u32, value: u32, value_size: u32)
            edit(g, map, (key, key_size), (value, value_size), |map, key, value| map.replace(key, value));
        RemoveHeaderMapValue(g, map: u32, key: u32, key_size: u32)
            edit(g, map, (key, key_size), (key, 0), |map, key, _| map.remove(key));
        GetHeaderMapPairs(g, map: u32, value_to: u32, size_to: u32) get_pairs(g, map, value_to, size_to);
        SetHeaderMapPairs(g, map: u32, block: u32, size: u32) set_pairs(g, map, block, size);
        GetHeaderMapSize(g, map: u32, to: u32) map_size(g, map, to);
    }
    Ok(())
}

fn link_buffers(linker: &mut Linker<VmData>) -> wasmtime::Result<()> {
    hostcalls! { linker;
        GetBufferBytes(g, kind: u32, start: u32, size: u32, value_to: u32, size_to: u32)
            get_buffer(g, kind, (start, size), value_to, size_to);
        GetBufferStatus(g, kind: u32, size_to: u32, flags_to: u32) {
            buffer(g.data(), kind).map_err(Fail::from).and_then(|buffer| {
                write_u32(g, size_to, to_u32(buffer.len()))?;
                write_u32(g, flags_to, 0)
            })
        };
        SetBufferBytes(g, kind: u32, start: u32, length: u32, data: u32, size: u32)
            set_buffer(g, kind, (start, length), (data, size));
    }
    Ok(())
}

fn link_metrics(linker: &mut Linker<VmData>) -> wasmtime::Result<()> {
    hostcalls! { linker;
        DefineMetric(g, kind: u32, name: u32, size: u32, id_to: u32) define_metric(g, kind, (name, size), id_to);
        IncrementMetric(g, id: u32, offset: i64) increment_metric(g.data(), id, offset);
        RecordMetric(g, id: u32, value: u64) record_metric(g.data(), id, value);
        GetMetric(g, id: u32, to: u32) {
            metric_value(g.data(), id).map_err(Fail::from).and_then(|value| write_u64(g, to, value))
        };
    }
    Ok(())
}

fn link_calls(linker: &mut Linker<VmData>) -> wasmtime::Result<()> {
    hostcalls! { linker;
        HttpCall(g, cluster: u32, cluster_size: u32, headers: u32, headers_size: u32, body: u32, body_size: u32,
            trailers: u32, trailers_size: u32, timeout: u32, token_to: u32)
            http_call(g, (cluster, cluster_size), (headers, headers_size), (body, body_size),
                (trailers, trailers_size), timeout, token_to);
        GrpcCall(g, target: u32, target_size: u32, service: u32, service_size: u32, method: u32,
            method_size: u32, metadata: u32, metadata_size: u32, message: u32, message_size: u32,
            timeout: u32, token_to: u32)
            grpc_call(g, (target, target_size), [(service, service_size), (method, method_size)],
                (metadata, metadata_size), (message, message_size), timeout, token_to);
        GrpcStream(_g, _a: u32, _b: u32, _c: u32, _d: u32, _e: u32, _f: u32, _h: u32, _i: u32, _t: u32)
            not_emulated(Hostcall::GrpcStream);
        GrpcSend(_g, _token: u32, _message: u32, _size: u32, _end: u32) not_emulated(Hostcall::GrpcSend);
        GrpcClose(g, token: u32) g.data_mut().cancel_grpc(token).map_err(Fail::from);
        GrpcCancel(g, token: u32) g.data_mut().cancel_grpc(token).map_err(Fail::from);
        CallForeignFunction(g, name: u32, name_size: u32, arguments: u32, arguments_size: u32,
            result_to: u32, size_to: u32)
            call_foreign(g, (name, name_size), (arguments, arguments_size), result_to, size_to);
    }
    Ok(())
}

fn link_queues(linker: &mut Linker<VmData>) -> wasmtime::Result<()> {
    hostcalls! { linker;
        RegisterSharedQueue(_g, _name: u32, _size: u32, _to: u32) not_emulated(Hostcall::RegisterSharedQueue);
        ResolveSharedQueue(_g, _vm: u32, _vm_size: u32, _name: u32, _size: u32, _to: u32)
            not_emulated(Hostcall::ResolveSharedQueue);
        EnqueueSharedQueue(_g, _token: u32, _data: u32, _size: u32) not_emulated(Hostcall::EnqueueSharedQueue);
        DequeueSharedQueue(_g, _token: u32, _to: u32, _size_to: u32) not_emulated(Hostcall::DequeueSharedQueue);
    }
    Ok(())
}

/// A module that needs what this emulator lacks must not get a plausible answer.
fn not_emulated(call: Hostcall) -> Done {
    Err(Fail::Trap(wasmtime::Error::msg(format!("`{call}` is not emulated"))))
}

/// Address and size in the module's memory.
type Span = (u32, u32);

fn read_span(guest: &mut Guest<'_>, (pointer, size): Span) -> Done<Vec<u8>> {
    read(guest, pointer, size)
}

/// A pairs block that a module sent; a bad one counts as empty, as in Envoy.
fn read_pairs(guest: &mut Guest<'_>, span: Span) -> Done<HeaderMap> {
    Ok(pairs::decode(&read_span(guest, span)?).unwrap_or_default().into())
}

fn log(guest: &mut Guest<'_>, level: u32, text: u32, size: u32) -> Done {
    let level = Level::from_abi(level).ok_or(Status::BadArgument)?;
    let text = read(guest, text, size)?;
    let data = guest.data();
    data.process.log(level, data.plugin_name(), &text);
    Ok(())
}

fn get_status(guest: &mut Guest<'_>, code_to: u32, text_to: u32, size_to: u32) -> Done {
    let (code, text) = guest.data().delivery.status.clone();
    write_u32(guest, code_to, code)?;
    give(guest, text.as_bytes(), text_to, size_to)
}

fn set_tick_period(guest: &mut Guest<'_>, milliseconds: u32) -> Done {
    let now = guest.data().process.monotonic_ns();
    if let Some(root) = guest.data_mut().root_mut() {
        root.tick_ms = milliseconds;
        root.schedule(now);
    }
    Ok(())
}

fn set_effective_context(guest: &mut Guest<'_>, context: u32) -> Done {
    if !guest.data().contexts.contains_key(&context) {
        return Err(Status::BadArgument.into());
    }
    guest.data_mut().effective = context;
    Ok(())
}

fn done(guest: &mut Guest<'_>) -> Done {
    let id = guest.data().effective_id();
    let root = guest.data_mut().root_of(id).filter(|root| root.pending_done).ok_or(Status::NotFound)?;
    root.pending_done = false;
    guest.data_mut().finished_roots.push(id);
    Ok(())
}

/// Leaves something for the stream to do after the callback. Root contexts have no stream: nothing happens.
fn leave(data: &VmData, pending: impl FnOnce(usize) -> Pending) {
    if let Some(stream) = data.stream() {
        let mut state = stream.shared.lock().unwrap_or_else(PoisonError::into_inner);
        state.pending.push_back(pending(stream.filter));
    }
}

fn continue_stream(guest: &mut Guest<'_>, kind: u32) -> Done {
    let direction = match kind {
        0 => Direction::Request,
        1 => Direction::Response,
        _ => return Err(Status::BadArgument.into()),
    };
    leave(guest.data(), |filter| Pending::Continue(filter, direction));
    // Envoy drops its pointers to the request at once, whichever direction is continued.
    if let Some(stream) = guest.data_mut().stream_mut() {
        stream.visible.request_headers = false;
        stream.visible.request_trailers = false;
        stream.visible.request_body = None;
    }
    Ok(())
}

fn close_stream(guest: &mut Guest<'_>, kind: u32) -> Done {
    if kind > 3 {
        return Err(Status::BadArgument.into());
    }
    if kind < 2 {
        leave(guest.data(), |_| Pending::Close);
    }
    Ok(())
}

fn local_response(
    guest: &mut Guest<'_>,
    code: u32,
    details: Span,
    body: Span,
    headers: Span,
    grpc: i32,
) -> Done {
    let details = read_span(guest, details)?;
    let body = read_span(guest, body)?;
    let headers = read_pairs(guest, headers)?;
    let details = String::from_utf8_lossy(&details).replace(|c: char| c.is_ascii_whitespace(), "_");
    let reply = LocalReply {
        status: code,
        details,
        body,
        headers,
        grpc_status: u32::try_from(grpc).ok(),
        plugin: guest.data().plugin_name().to_owned(),
    };
    leave(guest.data(), |_| Pending::Reply(reply));
    guest.data_mut().stop_next = true;
    Ok(())
}

fn set_property(guest: &mut Guest<'_>, name: Span, value: Span) -> Done {
    let name = read_span(guest, name)?;
    let value = read_span(guest, value)?;
    let root = guest.data_mut().root_mut();
    let read_only = root.and_then(|root| root.declared.get(&name).copied()).unwrap_or(false);
    let stream = guest.data().stream().ok_or(Status::NotFound)?;
    let key = [b"wasm.".as_slice(), &name].concat();
    let mut state = stream.shared.lock().unwrap_or_else(PoisonError::into_inner);
    if state.set_filter_state(&key, &value, read_only) { Ok(()) } else { Err(Status::BadArgument.into()) }
}

fn get_shared_data(guest: &mut Guest<'_>, key: Span, value_to: u32, size_to: u32, cas_to: u32) -> Done {
    let key = read_span(guest, key)?;
    let data = guest.data();
    let (value, cas) = data.process.shared_data(&data.vm_id, key).ok_or(Status::NotFound)?;
    give(guest, &value, value_to, size_to)?;
    write_u32(guest, cas_to, cas)
}

fn set_shared_data(guest: &mut Guest<'_>, key: Span, value: Span, cas: u32) -> Done {
    let key = read_span(guest, key)?;
    let value = read_span(guest, value)?;
    let data = guest.data();
    Ok(data.process.set_shared_data(&data.vm_id, key, value, cas)?)
}

/// The map as it can be read just now.
fn readable(data: &VmData, map: MapType) -> Option<HeaderMap> {
    match map {
        MapType::CallResponseHeaders => return data.delivery.response.as_ref().map(|r| r.0.clone()),
        MapType::CallResponseTrailers => return data.delivery.response.as_ref().map(|r| r.2.clone()),
        MapType::GrpcInitialMetadata | MapType::GrpcTrailingMetadata => return None,
        _ => {}
    }
    let stream = data.stream()?;
    let state = stream.shared.lock().unwrap_or_else(PoisonError::into_inner);
    let visible = &stream.visible;
    match map {
        MapType::RequestHeaders if visible.logging || visible.request_headers => {
            Some(state.request_headers.clone())
        }
        MapType::RequestTrailers if visible.request_trailers => state.request_trailers.clone(),
        MapType::ResponseHeaders if visible.logging || visible.response_headers => {
            state.response_headers.clone()
        }
        MapType::ResponseTrailers if visible.logging || visible.response_trailers => {
            state.response_trailers.clone()
        }
        _ => None,
    }
}

fn get_header(guest: &mut Guest<'_>, map: u32, key: Span, value_to: u32, size_to: u32) -> Done {
    let map = MapType::from_abi(map)?;
    let key = read_span(guest, key)?;
    let Some(map) = readable(guest.data(), map) else {
        let logging = guest.data().stream().is_some_and(|stream| stream.visible.logging);
        return Err(if logging { Status::NotFound } else { Status::BadArgument }.into());
    };
    let value = map.get_bytes(&key).ok_or(Status::NotFound)?.to_vec();
    give(guest, &value, value_to, size_to)
}

fn get_pairs(guest: &mut Guest<'_>, map: u32, value_to: u32, size_to: u32) -> Done {
    let map = MapType::from_abi(map)?;
    // A map that cannot be read now looks empty here, unlike in the calls for one header.
    let map = readable(guest.data(), map).unwrap_or_default();
    let block = if map.is_empty() { Vec::new() } else { pairs::encode(map.pairs()) };
    give(guest, &block, value_to, size_to)
}

/// Only maps that could be changed now have a size: none in `proxy_on_log`, unlike their contents.
fn map_size(guest: &mut Guest<'_>, map: u32, to: u32) -> Done {
    let map = MapType::from_abi(map)?;
    let size = with_writable(guest.data(), map, |headers| headers.byte_size())?;
    write_u32(guest, to, to_u32(size))
}

/// Changes a map in place. Every change of request headers clears the route cache: ABI 0.2.1 has no say in that.
fn change(data: &VmData, map: MapType, f: impl FnOnce(&mut HeaderMap)) -> Result<(), Status> {
    with_writable(data, map, f)?;
    if map == MapType::RequestHeaders {
        with_stream(data, |state| state.route_clears += 1);
    }
    Ok(())
}

fn with_writable<R>(data: &VmData, map: MapType, f: impl FnOnce(&mut HeaderMap) -> R) -> Result<R, Status> {
    let stream = data.stream().ok_or(Status::BadArgument)?;
    let visible = &stream.visible;
    let mut state = stream.shared.lock().unwrap_or_else(PoisonError::into_inner);
    let state: &mut StreamState = &mut state;
    let headers = match map {
        MapType::RequestHeaders if visible.request_headers => Some(&mut state.request_headers),
        MapType::RequestTrailers if visible.request_trailers => state.request_trailers.as_mut(),
        MapType::ResponseHeaders if visible.response_headers => state.response_headers.as_mut(),
        MapType::ResponseTrailers if visible.response_trailers => state.response_trailers.as_mut(),
        _ => None,
    };
    headers.map(f).ok_or(Status::BadArgument)
}

fn edit(
    guest: &mut Guest<'_>,
    map: u32,
    key: Span,
    value: Span,
    f: impl FnOnce(&mut HeaderMap, &[u8], &[u8]),
) -> Done {
    let map = MapType::from_abi(map)?;
    let key = read_span(guest, key)?;
    let value = read_span(guest, value)?;
    Ok(change(guest.data(), map, |headers| f(headers, &key, &value))?)
}

fn set_pairs(guest: &mut Guest<'_>, map: u32, block: u32, size: u32) -> Done {
    let map = MapType::from_abi(map)?;
    let new = read_pairs(guest, (block, size))?;
    Ok(change(guest.data(), map, |headers| *headers = new)?)
}

fn buffer(data: &VmData, kind: u32) -> Result<Vec<u8>, Status> {
    let body = |request: bool| {
        let visible = data.stream().map(|stream| &stream.visible);
        let body = visible.and_then(|v| if request { &v.request_body } else { &v.response_body }.clone());
        Ok(body.unwrap_or_default())
    };
    match kind {
        0 => body(true),
        1 => body(false),
        // Network filters and foreign callbacks: buffers that are always empty for an HTTP filter.
        2 | 3 | 8 => Ok(Vec::new()),
        4 => data.delivery.response.as_ref().map(|response| response.1.clone()).ok_or(Status::NotFound),
        5 => Ok(data.delivery.grpc_message.clone().unwrap_or_default()),
        6 => Ok(data.vm_configuration.clone()),
        7 => data.plugin_configuration.clone().ok_or(Status::NotFound),
        _ => Err(Status::BadArgument),
    }
}

fn get_buffer(guest: &mut Guest<'_>, kind: u32, (start, size): Span, value_to: u32, size_to: u32) -> Done {
    let buffer = buffer(guest.data(), kind)?;
    let start = usize::try_from(start).unwrap_or(usize::MAX);
    let end = start.saturating_add(usize::try_from(size).unwrap_or(usize::MAX)).min(buffer.len());
    if start > buffer.len() {
        return Err(Status::BadArgument.into());
    }
    let bytes = buffer.get(start..end).unwrap_or_default();
    // With nothing to give, Envoy leaves the module's result variables alone.
    if bytes.is_empty() { Ok(()) } else { give(guest, bytes, value_to, size_to) }
}

fn set_buffer(guest: &mut Guest<'_>, kind: u32, (start, length): Span, data: Span) -> Done {
    buffer(guest.data(), kind)?;
    let new = read_span(guest, data)?;
    let stream = guest.data_mut().stream_mut().ok_or(Status::BadArgument)?;
    let body = match kind {
        0 => stream.visible.request_body.as_mut(),
        1 => stream.visible.response_body.as_mut(),
        _ => None,
    };
    let body = body.ok_or(Status::BadArgument)?;
    let size = to_u32(body.len());
    // Prepend, replace all or append: Envoy has nothing in between.
    match (start, length) {
        (0, 0) => *body = [new, std::mem::take(body)].concat(),
        (0, length) if length >= size => *body = new,
        (start, _) if start > 0 && start >= size => body.extend(new),
        _ => return Err(Status::BadArgument.into()),
    }
    Ok(())
}

fn define_metric(guest: &mut Guest<'_>, kind: u32, name: Span, id_to: u32) -> Done {
    let name = read_span(guest, name)?;
    let kind_of = match kind {
        0 => MetricKind::Counter,
        1 => MetricKind::Gauge,
        2 => MetricKind::Histogram,
        _ => return Err(Status::BadArgument.into()),
    };
    let data = guest.data_mut();
    data.process.define_metric(kind_of, &name);
    let next = data.next_metric.get_mut(usize::try_from(kind).unwrap_or(usize::MAX));
    let next = next.ok_or(Status::BadArgument)?;
    let id = *next;
    // The two low bits are the kind; each definition gets a number of its own, also of an old name.
    *next += 4;
    data.metrics.insert(id, (kind_of, name));
    write_u32(guest, id_to, id)
}

fn increment_metric(data: &VmData, id: u32, offset: i64) -> Done {
    // Histograms, and ids that no definition can have.
    if id & 3 > 1 {
        return Err(Status::BadArgument.into());
    }
    let (kind, name) = data.metrics.get(&id).ok_or(Status::NotFound)?;
    if *kind == MetricKind::Counter && offset <= 0 {
        return Err(Status::BadArgument.into());
    }
    let updated = data
        .process
        .with_metric(*kind, name, |metric| metric.value = metric.value.wrapping_add_signed(offset));
    updated.ok_or(Fail::Status(Status::NotFound))
}

fn record_metric(data: &VmData, id: u32, value: u64) -> Done {
    let (kind, name) = data.metrics.get(&id).ok_or(Status::NotFound)?;
    let updated = data.process.with_metric(*kind, name, |metric| match kind {
        MetricKind::Counter => metric.value = metric.value.wrapping_add(value),
        MetricKind::Gauge => metric.value = value,
        MetricKind::Histogram => metric.samples.push(value),
    });
    updated.ok_or(Fail::Status(Status::NotFound))
}

fn metric_value(data: &VmData, id: u32) -> Result<u64, Status> {
    if id & 3 > 1 {
        return Err(Status::BadArgument);
    }
    let (kind, name) = data.metrics.get(&id).ok_or(Status::NotFound)?;
    data.process.with_metric(*kind, name, |metric| metric.value).ok_or(Status::NotFound)
}

fn http_call(
    guest: &mut Guest<'_>,
    cluster: Span,
    headers: Span,
    body: Span,
    trailers: Span,
    timeout_ms: u32,
    token_to: u32,
) -> Done {
    let cluster = read_span(guest, cluster)?;
    let request = Request {
        cluster: String::from_utf8_lossy(&cluster).into_owned(),
        grpc: None,
        headers: read_pairs(guest, headers)?,
        body: read_span(guest, body)?,
        trailers: read_pairs(guest, trailers)?,
        timeout_ms,
    };
    // Written first, so that a bad pointer is found before anything is sent.
    write_u32(guest, token_to, 0)?;
    let token = guest.data_mut().http_call(request)?;
    write_u32(guest, token_to, token)
}

fn grpc_call(
    guest: &mut Guest<'_>,
    target: Span,
    [service, method]: [Span; 2],
    metadata: Span,
    message: Span,
    timeout_ms: u32,
    token_to: u32,
) -> Done {
    let target = read_span(guest, target)?;
    let service = read_span(guest, service)?;
    let method = read_span(guest, method)?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let request = Request {
        cluster: String::new(),
        grpc: Some((text(&service), text(&method))),
        headers: read_pairs(guest, metadata)?,
        body: read_span(guest, message)?,
        trailers: HeaderMap::new(),
        timeout_ms,
    };
    match guest.data_mut().grpc_call(request, &target) {
        Ok(token) => write_u32(guest, token_to, token),
        Err(GrpcRefusal::Status(status)) => Err(status.into()),
        Err(GrpcRefusal::Abort) => Err(Fail::Trap(wasmtime::Error::msg(
            "a gRPC callout to this plain name aborts the whole of Envoy",
        ))),
    }
}

fn call_foreign(guest: &mut Guest<'_>, name: Span, arguments: Span, result_to: u32, size_to: u32) -> Done {
    let name = read_span(guest, name)?;
    let arguments = read_span(guest, arguments)?;
    let name = String::from_utf8_lossy(&name).into_owned();
    let process = guest.data().process.clone();
    let called = process.call_foreign(&name, &arguments);
    let (status, result) = match called {
        Some(answer) => answer,
        None => crate::foreign::built_in(guest.data_mut(), &name, &arguments),
    };
    if result_to != 0 {
        let pointer = crate::guest::copy_out(guest, &result)?;
        write_u32(guest, result_to, pointer)?;
    }
    if size_to != 0 {
        write_u32(guest, size_to, to_u32(result.len()))?;
    }
    if status == Status::Ok { Ok(()) } else { Err(status.into()) }
}

/// Whether the acting context belongs to a stream, and its state.
pub(crate) fn with_stream<R>(data: &VmData, f: impl FnOnce(&mut StreamState) -> R) -> Option<R> {
    let Some(Context::Stream(stream)) = data.context() else { return None };
    Some(f(&mut stream.shared.lock().unwrap_or_else(PoisonError::into_inner)))
}
