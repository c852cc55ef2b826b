//! Envoy's foreign functions that act on the stream itself. Others are registered by the test.

use crate::abi::Status;
use crate::hostcalls::with_stream;
use crate::vm::VmData;

/// Keys of `set_envoy_filter_state` that stock Envoy has an object factory for.
const FACTORIES: &[&str] = &[
    "envoy.network.upstream_server_name",
    "envoy.network.upstream_subject_alt_names",
    "envoy.network.application_protocols",
    "envoy.network.ip",
    "envoy.upstream.dynamic_host",
    "envoy.upstream.dynamic_port",
    "envoy.tcp_proxy.cluster",
    "envoy.tcp_proxy.per_connection_idle_timeout_ms",
    "envoy.ratelimit.hits_addend",
    "envoy.network.transport_socket.original_dst_address",
    "envoy.network.transport_socket.http_11_proxy.info",
    "envoy.string",
    "envoy.hashable_string",
];

/// Runs a built-in; an unknown name is `NotFound`.
pub(crate) fn built_in(data: &mut VmData, name: &str, arguments: &[u8]) -> (Status, Vec<u8>) {
    #[cfg(feature = "cel")]
    if let Some(answer) = expression(data, name, arguments) {
        return answer;
    }
    let status = match name {
        "clear_route_cache" => {
            // Without a stream there is nothing to clear, and Envoy says Ok all the same.
            with_stream(data, |state| state.route_clears += 1);
            Status::Ok
        }
        "set_envoy_filter_state" => set_envoy_filter_state(data, arguments),
        "declare_property" => declare_property(data, arguments),
        _ => Status::NotFound,
    };
    (status, Vec::new())
}

/// `expr_create`, `expr_evaluate`, `expr_delete`; `None` for other names.
#[cfg(feature = "cel")]
fn expression(data: &mut VmData, name: &str, arguments: &[u8]) -> Option<(Status, Vec<u8>)> {
    let token = arguments.try_into().ok().map(u32::from_le_bytes);
    Some(match (name, token) {
        ("expr_create", _) => match data.programs.create(&String::from_utf8_lossy(arguments)) {
            Some(token) => (Status::Ok, token.to_le_bytes().to_vec()),
            None => (Status::BadArgument, Vec::new()),
        },
        ("expr_evaluate", Some(token)) => match data.programs.evaluate(token, &*data) {
            Ok(value) => (Status::Ok, value),
            Err(status) => (status, Vec::new()),
        },
        ("expr_delete", Some(token)) => {
            data.programs.delete(token);
            (Status::Ok, Vec::new())
        }
        ("expr_evaluate" | "expr_delete", None) => (Status::BadArgument, Vec::new()),
        _ => return None,
    })
}

#[cfg(feature = "cel")]
impl crate::cel::Attributes for VmData {
    fn read(&self, path: &[&str]) -> Option<Vec<u8>> {
        crate::property::read(self, path.join("\0").as_bytes()).ok()
    }

    fn group(&self, name: &str) -> Option<crate::Value> {
        crate::property::group(self, name)
    }
}

fn set_envoy_filter_state(data: &VmData, arguments: &[u8]) -> Status {
    let Some(fields) = fields(arguments) else { return Status::BadArgument };
    let (Some(path), Some(value)) = (bytes_of(&fields, 1), bytes_of(&fields, 2)) else {
        return Status::BadArgument;
    };
    if std::str::from_utf8(value).is_err() {
        return Status::BadArgument;
    }
    if !FACTORIES.iter().any(|key| key.as_bytes() == path) {
        return Status::NotFound;
    }
    match with_stream(data, |state| state.set_filter_state(path, value, false)) {
        Some(_) => Status::Ok,
        None => Status::NotFound,
    }
}

fn declare_property(data: &mut VmData, arguments: &[u8]) -> Status {
    let Some(fields) = fields(arguments) else { return Status::BadArgument };
    let name = bytes_of(&fields, 1).unwrap_or_default().to_vec();
    let read_only = fields.iter().any(|field| matches!(field, (2, Field::Number(n)) if *n != 0));
    let id = data.effective_id();
    let Some(root) = data.root_of(id) else { return Status::NotFound };
    if root.declared.contains_key(&name) {
        return Status::BadArgument;
    }
    root.declared.insert(name, read_only);
    Status::Ok
}

/// One field of a protobuf message, as far as these messages use the wire format.
pub(crate) enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// Every field of a message; `None` when it is malformed.
pub(crate) fn fields(mut message: &[u8]) -> Option<Vec<(u64, Field<'_>)>> {
    let mut fields = Vec::new();
    while !message.is_empty() {
        let (tag, rest) = varint(message)?;
        let (field, rest) = match tag & 7 {
            0 => varint(rest).map(|(number, rest)| (Field::Number(number), rest))?,
            1 => (Field::Bytes(rest.get(..8)?), rest.get(8..)?),
            2 => {
                let (size, rest) = varint(rest)?;
                let (bytes, rest) = rest.split_at_checked(usize::try_from(size).ok()?)?;
                (Field::Bytes(bytes), rest)
            }
            5 => (Field::Bytes(rest.get(..4)?), rest.get(4..)?),
            _ => return None,
        };
        if tag >> 3 == 0 {
            return None;
        }
        fields.push((tag >> 3, field));
        message = rest;
    }
    Some(fields)
}

/// The last value of a bytes or string field.
pub(crate) fn bytes_of<'a>(fields: &[(u64, Field<'a>)], number: u64) -> Option<&'a [u8]> {
    fields.iter().rev().find_map(|(n, field)| match field {
        Field::Bytes(bytes) if *n == number => Some(*bytes),
        _ => None,
    })
}

fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0_u64;
    for (index, byte) in bytes.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f).checked_shl(u32::try_from(index * 7).ok()?)?;
        if byte & 0x80 == 0 {
            return Some((value, bytes.get(index + 1..)?));
        }
    }
    None
}
