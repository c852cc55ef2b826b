//! CEL for tests (cargo feature `cel`): Envoy's foreign functions `expr_create`, `expr_evaluate` and `expr_delete`, by the
//! `cel` crate. [`Programs`] alone serves those who have no VM.
//!
//! Less than Envoy's: header names in expressions must be lower case; values of metadata and filter state that a test gave
//! as bytes are strings if they are UTF-8.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use cel::objects::{Key, Map as CelMap};
use cel::{Context, Program, Value as Cel};

use crate::abi::Status;
use crate::pairs;
use crate::value::Value;

/// What expressions are about.
pub trait Attributes {
    /// An attribute, as `proxy_get_property` encodes it.
    fn read(&self, path: &[&str]) -> Option<Vec<u8>>;

    /// All that is known of a group by value: `xds`, `metadata`, `filter_state`.
    fn group(&self, name: &str) -> Option<Value>;
}

/// The expressions of one filter configuration.
#[derive(Default)]
pub struct Programs(Vec<Option<Program>>);

enum Kind {
    Text,
    Int,
    Uint,
    Bool,
    Duration,
    Timestamp,
    Headers,
}

const GROUPS: [&str; 10] = [
    "request",
    "response",
    "connection",
    "source",
    "destination",
    "upstream",
    "xds",
    "metadata",
    "filter_state",
    "upstream_filter_state",
];

/// Attributes of a known type; the values of the other groups have the type that was given to them.
const LEAVES: &[(&str, &str, Kind)] = &[
    ("request", "path", Kind::Text),
    ("request", "url_path", Kind::Text),
    ("request", "host", Kind::Text),
    ("request", "scheme", Kind::Text),
    ("request", "method", Kind::Text),
    ("request", "id", Kind::Text),
    ("request", "query", Kind::Text),
    ("request", "useragent", Kind::Text),
    ("request", "referer", Kind::Text),
    ("request", "protocol", Kind::Text),
    ("request", "headers", Kind::Headers),
    ("request", "size", Kind::Int),
    ("request", "total_size", Kind::Int),
    ("request", "time", Kind::Timestamp),
    ("request", "duration", Kind::Duration),
    ("response", "code", Kind::Int),
    ("response", "code_details", Kind::Text),
    ("response", "flags", Kind::Int),
    ("response", "grpc_status", Kind::Int),
    ("response", "size", Kind::Int),
    ("response", "total_size", Kind::Int),
    ("response", "headers", Kind::Headers),
    ("connection", "id", Kind::Uint),
    ("connection", "mtls", Kind::Bool),
    ("connection", "requested_server_name", Kind::Text),
    ("connection", "uri_san_peer_certificate", Kind::Text),
    ("connection", "uri_san_local_certificate", Kind::Text),
    ("source", "address", Kind::Text),
    ("source", "port", Kind::Int),
    ("destination", "address", Kind::Text),
    ("destination", "port", Kind::Int),
    ("upstream", "address", Kind::Text),
    ("upstream", "uri_san_peer_certificate", Kind::Text),
    ("upstream", "uri_san_local_certificate", Kind::Text),
    ("xds", "cluster_name", Kind::Text),
    ("xds", "route_name", Kind::Text),
];

impl Programs {
    /// `expr_create`: a token, or `None` for what is no expression.
    pub fn create(&mut self, source: &str) -> Option<u32> {
        // The parser has panicked on broken input before; Envoy's does not.
        let program = catch_unwind(AssertUnwindSafe(|| Program::compile(source).ok())).ok().flatten()?;
        self.0.push(Some(program));
        u32::try_from(self.0.len() - 1).ok()
    }

    /// `expr_delete`.
    pub fn delete(&mut self, token: u32) {
        if let Some(program) = usize::try_from(token).ok().and_then(|token| self.0.get_mut(token)) {
            *program = None;
        }
    }

    /// The value of an expression.
    ///
    /// # Errors
    /// `NotFound` for an unknown token, `InternalFailure` when evaluating fails.
    pub fn value(&self, token: u32, attributes: &dyn Attributes) -> Result<Value, Status> {
        let program = usize::try_from(token).ok().and_then(|token| self.0.get(token)?.as_ref());
        let program = program.ok_or(Status::NotFound)?;
        let mut context = Context::default();
        for name in GROUPS.iter().filter(|name| program.references().has_variable(**name)) {
            context.add_variable_from_value(*name, to_cel(&group(name, attributes)));
        }
        let value = catch_unwind(AssertUnwindSafe(|| program.execute(&context).ok())).ok().flatten();
        from_cel(&value.ok_or(Status::InternalFailure)?).ok_or(Status::InternalFailure)
    }

    /// `expr_evaluate`: [`Self::value`] in the encoding of attributes.
    ///
    /// # Errors
    /// As [`Self::value`]; `SerializationFailure` for a value that has no encoding.
    pub fn evaluate(&self, token: u32, attributes: &dyn Attributes) -> Result<Vec<u8>, Status> {
        self.value(token, attributes)?.encode()
    }
}

fn group(name: &str, attributes: &dyn Attributes) -> Value {
    let mut all = attributes.group(name).filter(|value| matches!(value, Value::Map(_)));
    let all = all.get_or_insert_with(|| Value::Map(Vec::new()));
    for (_, leaf, kind) in LEAVES.iter().filter(|(group, ..)| *group == name) {
        if let Some(value) = attributes.read(&[name, leaf]).and_then(|raw| typed(kind, raw)) {
            all.set_path(&[leaf], value);
        }
    }
    all.clone()
}

fn typed(kind: &Kind, raw: Vec<u8>) -> Option<Value> {
    let number = || raw.as_slice().try_into().ok().map(i64::from_le_bytes);
    Some(match kind {
        Kind::Text => Value::String(String::from_utf8_lossy(&raw).into_owned()),
        Kind::Int => Value::Int(number()?),
        Kind::Uint => Value::Uint(number()?.cast_unsigned()),
        Kind::Bool => Value::Bool(raw == [1]),
        Kind::Duration => Value::Duration(number()?),
        Kind::Timestamp => Value::Timestamp(number()?),
        Kind::Headers => Value::Map(
            pairs::decode(&raw)?
                .into_iter()
                .map(|(name, value)| {
                    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
                    (text(name), Value::String(text(value)))
                })
                .collect(),
        ),
    })
}

fn to_cel(value: &Value) -> Cel {
    match value {
        Value::String(text) => Cel::String(Arc::new(text.clone())),
        Value::Bytes(bytes) | Value::Message(bytes) => match String::from_utf8(bytes.clone()) {
            Ok(text) => Cel::String(Arc::new(text)),
            Err(_) => Cel::Bytes(Arc::new(bytes.clone())),
        },
        Value::Int(number) => Cel::Int(*number),
        Value::Uint(number) => Cel::UInt(*number),
        Value::Double(number) => Cel::Float(*number),
        Value::Bool(flag) => Cel::Bool(*flag),
        Value::Timestamp(nanoseconds) => {
            Cel::Timestamp(chrono::DateTime::from_timestamp_nanos(*nanoseconds).fixed_offset())
        }
        Value::Duration(nanoseconds) => Cel::Duration(chrono::Duration::nanoseconds(*nanoseconds)),
        Value::Map(entries) => {
            let map: HashMap<Key, Cel> =
                entries.iter().map(|(key, value)| (Key::from(key.clone()), to_cel(value))).collect();
            Cel::Map(CelMap { map: Arc::new(map) })
        }
        Value::List(items) => Cel::List(Arc::new(items.iter().map(to_cel).collect())),
        Value::Null => Cel::Null,
    }
}

fn from_cel(value: &Cel) -> Option<Value> {
    Some(match value {
        Cel::String(text) => Value::String(text.as_ref().clone()),
        Cel::Bytes(bytes) => Value::Bytes(bytes.as_ref().clone()),
        Cel::Int(number) => Value::Int(*number),
        Cel::UInt(number) => Value::Uint(*number),
        Cel::Float(number) => Value::Double(*number),
        Cel::Bool(flag) => Value::Bool(*flag),
        Cel::Timestamp(time) => Value::Timestamp(time.timestamp_nanos_opt()?),
        Cel::Duration(duration) => Value::Duration(duration.num_nanoseconds()?),
        Cel::List(items) => Value::List(items.iter().map(from_cel).collect::<Option<_>>()?),
        Cel::Map(map) => {
            let mut entries = map
                .map
                .iter()
                .map(|(key, value)| Some((key.to_string(), from_cel(value)?)))
                .collect::<Option<Vec<_>>>()?;
            entries.sort_by(|one, other| one.0.cmp(&other.0));
            Value::Map(entries)
        }
        Cel::Null => Value::Null,
        _ => return None,
    })
}
