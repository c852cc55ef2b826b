//! Attributes: what `proxy_get_property` finds, and in which phase.

use std::sync::PoisonError;

use crate::abi::Status;
use crate::headers::HeaderMap;
use crate::pairs::Pair;
use crate::stream::StreamState;
use crate::value::Value;
use crate::vm::{StreamContext, VmData};

/// First segments that name an attribute group; every other first segment is looked up as filter state `wasm.<name>`.
const GROUPS: &[&str] = &[
    "metadata",
    "request",
    "response",
    "connection",
    "upstream",
    "source",
    "destination",
    "xds",
    "filter_state",
    "upstream_filter_state",
    "plugin_name",
    "plugin_root_id",
    "plugin_vm_id",
    "connection_id",
];

/// Reads a path as a module sends it: segments separated by NUL.
pub(crate) fn read(data: &VmData, path: &[u8]) -> Result<Vec<u8>, Status> {
    let path = path.strip_suffix(b"\0").unwrap_or(path);
    if path.is_empty() {
        return Err(Status::SerializationFailure);
    }
    let segments: Vec<&[u8]> = path.split(|byte| *byte == 0).collect();
    let names: Vec<&str> =
        segments.iter().map(|segment| std::str::from_utf8(segment).unwrap_or("\u{fffd}")).collect();
    if let Some(value) = plugin_attribute(data, &names) {
        return Ok(value);
    }
    if let Some(stream) = data.stream() {
        let state = stream.shared.lock().unwrap_or_else(PoisonError::into_inner);
        match stream_attribute(&state, stream, &segments, &names) {
            Err(Status::NotFound) => {}
            found => return found,
        }
    }
    // Before 1.33 `node` and others had names of their own; since then they are found under `xds` only.
    if names.first().is_some_and(|first| !GROUPS.contains(first)) {
        return Err(Status::NotFound);
    }
    data.process.lock().attributes.at(&names).ok_or(Status::NotFound)?.encode()
}

/// What a test set of a group: the process's attributes, then the stream's, and filter state.
#[cfg(feature = "cel")]
pub(crate) fn group(data: &VmData, name: &str) -> Option<Value> {
    let mut all = data.process.lock().attributes.at(&[name]).cloned();
    let stream = data.stream()?;
    let state = stream.shared.lock().unwrap_or_else(PoisonError::into_inner);
    if name == "filter_state" {
        return Some(Value::Map(state.all_filter_state()));
    }
    if let Some(Value::Map(entries)) = state.attributes.at(&[name]) {
        let all = all.get_or_insert_with(|| Value::Map(Vec::new()));
        entries.iter().for_each(|(key, value)| all.set_path(&[key], value.clone()));
    }
    all
}

fn plugin_attribute(data: &VmData, names: &[&str]) -> Option<Vec<u8>> {
    let plugin = data.context()?.plugin();
    match names {
        ["plugin_name"] => Some(plugin.name.clone().into_bytes()),
        ["plugin_root_id"] => Some(plugin.root_id.clone().into_bytes()),
        ["plugin_vm_id"] => Some(data.vm_id.clone().into_bytes()),
        _ => None,
    }
}

fn stream_attribute(
    state: &StreamState,
    context: &StreamContext,
    segments: &[&[u8]],
    names: &[&str],
) -> Result<Vec<u8>, Status> {
    let Some(first) = names.first() else { return Err(Status::NotFound) };
    if !GROUPS.contains(first) {
        // A filter state value is bytes: nothing lies below it.
        let [name] = segments else { return Err(Status::NotFound) };
        return state.filter_state_of(&[b"wasm.", *name].concat()).ok_or(Status::NotFound);
    }
    if let ["filter_state", _] = names {
        let key = segments.get(1).ok_or(Status::NotFound)?;
        return state.filter_state_of(key).ok_or(Status::NotFound);
    }
    if names.len() == 1 && *first != "connection_id" {
        return Err(Status::SerializationFailure);
    }
    if let ["request", rest @ ..] = names
        && is_from_headers(rest)
    {
        let visible = context.visible.request_headers || context.visible.logging;
        return if visible { from_request_headers(state, names) } else { Err(Status::NotFound) };
    }
    if let Some(value) = state.attributes.at(names) {
        return value.encode();
    }
    computed(state, context, names).ok_or(Status::NotFound)?.encode()
}

/// Attributes that vanish once the headers are released.
fn is_from_headers(rest: &[&str]) -> bool {
    let from_headers =
        ["path", "url_path", "host", "scheme", "method", "id", "query", "useragent", "referer", "headers"];
    rest.first().is_some_and(|name| from_headers.contains(name))
}

fn from_request_headers(state: &StreamState, names: &[&str]) -> Result<Vec<u8>, Status> {
    if let Some(value) = state.attributes.at(names) {
        return value.encode();
    }
    let headers = &state.request_headers;
    let path = headers.get(":path");
    let cut = |path: &[u8]| path.iter().position(|byte| *byte == b'?');
    let value = match names.get(1..).unwrap_or_default() {
        ["path"] => path.map(<[u8]>::to_vec),
        ["url_path"] => {
            path.map(|path| path.get(..cut(path).unwrap_or(path.len())).unwrap_or_default().to_vec())
        }
        ["query"] => path.map(|path| {
            let query = cut(path).and_then(|at| path.get(at + 1..)).unwrap_or_default();
            query.split(|byte| *byte == b'#').next().unwrap_or_default().to_vec()
        }),
        ["host"] => headers.get(":authority").map(<[u8]>::to_vec),
        ["scheme"] => headers.get(":scheme").map(<[u8]>::to_vec),
        ["method"] => headers.get(":method").map(<[u8]>::to_vec),
        ["id"] => headers.get("x-request-id").map(<[u8]>::to_vec),
        ["useragent"] => headers.get("user-agent").map(<[u8]>::to_vec),
        ["referer"] => headers.get("referer").map(<[u8]>::to_vec),
        ["headers"] => Some(joined_block(headers)),
        ["headers", name] => headers.joined(name),
        _ => None,
    };
    value.ok_or(Status::NotFound)
}

/// All headers as a map, repeated ones joined by commas.
fn joined_block(headers: &HeaderMap) -> Vec<u8> {
    let mut pairs: Vec<Pair> = Vec::new();
    for (name, value) in headers.pairs() {
        if let Some((_, joined)) = pairs.iter_mut().find(|(n, _)| n == name) {
            joined.push(b',');
            joined.extend_from_slice(value);
        } else {
            pairs.push((name.clone(), value.clone()));
        }
    }
    crate::pairs::encode(&pairs)
}

fn size(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn computed(state: &StreamState, context: &StreamContext, names: &[&str]) -> Option<Value> {
    match names {
        ["request", rest @ ..] => request(state, context, rest),
        ["response", rest @ ..] => response(state, context, rest),
        _ => None,
    }
}

fn request(state: &StreamState, context: &StreamContext, names: &[&str]) -> Option<Value> {
    let visible = context.visible.request_headers || context.visible.logging;
    let headers = if visible { state.request_headers.byte_size() } else { 0 };
    let trailers = state.request_trailers.as_ref().map_or(0, HeaderMap::byte_size);
    Some(match names {
        ["time"] => Value::Timestamp(i64::try_from(state.start_ns).unwrap_or(i64::MAX)),
        ["size"] => Value::Int(declared_length(state, visible).unwrap_or(size(state.request_bytes))),
        ["total_size"] => Value::Int(size(state.request_bytes + headers + trailers)),
        ["headers_bytes"] => Value::Int(size(headers)),
        ["duration"] if state.complete => Value::Duration(state.elapsed_ns()),
        _ => return None,
    })
}

fn declared_length(state: &StreamState, visible: bool) -> Option<i64> {
    state.request_headers.text("content-length").filter(|_| visible)?.parse().ok()
}

fn response(state: &StreamState, context: &StreamContext, names: &[&str]) -> Option<Value> {
    if let ["flags"] = names {
        return Some(Value::Int(0));
    }
    let visible = context.visible.response_headers || context.visible.logging;
    let trailers = state.response_trailers.as_ref();
    let bytes = state.response_headers.as_ref().filter(|_| visible).map_or(0, HeaderMap::byte_size)
        + trailers.map_or(0, HeaderMap::byte_size);
    match names {
        ["size"] => return Some(Value::Int(size(state.response_bytes))),
        ["total_size"] => return Some(Value::Int(size(state.response_bytes + bytes))),
        _ => {}
    }
    let headers = state.response_headers.as_ref()?;
    Some(match names {
        ["code"] => Value::Int(headers.text(":status")?.parse().ok()?),
        ["code_details"] => Value::String(state.code_details()),
        ["grpc_status"] => Value::Int(grpc_status(headers, trailers)?),
        ["headers"] if visible => Value::Bytes(joined_block(headers)),
        ["headers", name] if visible => Value::Bytes(headers.joined(name)?),
        ["trailers", name] => Value::Bytes(trailers?.joined(name)?),
        _ => return None,
    })
}

/// Envoy invents a gRPC status from the HTTP code where there is none.
fn grpc_status(headers: &HeaderMap, trailers: Option<&HeaderMap>) -> Option<i64> {
    let told = trailers.and_then(|map| map.text("grpc-status")).or_else(|| headers.text("grpc-status"));
    if let Some(told) = told {
        return told.parse().ok();
    }
    Some(i64::from(http_to_grpc(headers.text(":status")?.parse().ok()?)))
}

/// The gRPC status that stands for an HTTP status, by the gRPC specification.
pub(crate) fn http_to_grpc(status: u32) -> u32 {
    match status {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}
