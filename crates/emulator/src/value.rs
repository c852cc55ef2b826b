//! Typed attribute values and the byte form in which `proxy_get_property` hands them out.

use crate::abi::Status;
use crate::pairs;

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Raw bytes of the text.
    String(String),
    /// Raw bytes.
    Bytes(Vec<u8>),
    /// 8 bytes, little-endian.
    Int(i64),
    /// 8 bytes, little-endian.
    Uint(u64),
    /// 8 bytes, little-endian. Numbers in dynamic metadata are always this.
    Double(f64),
    /// One byte.
    Bool(bool),
    /// Nanoseconds since the Unix epoch, 8 bytes.
    Timestamp(i64),
    /// Nanoseconds, 8 bytes.
    Duration(i64),
    /// A serialized protobuf message.
    Message(Vec<u8>),
    /// A pairs block.
    Map(Vec<(String, Value)>),
    /// A pairs block with each element in the key slot and an empty value.
    List(Vec<Value>),
    /// Has no byte form: `SerializationFailure`.
    Null,
}

impl Value {
    /// The byte form.
    ///
    /// # Errors
    /// [`Status::SerializationFailure`] for [`Value::Null`], also inside a map or a list.
    pub fn encode(&self) -> Result<Vec<u8>, Status> {
        Ok(match self {
            Self::String(text) => text.as_bytes().to_vec(),
            Self::Bytes(bytes) | Self::Message(bytes) => bytes.clone(),
            Self::Int(n) | Self::Timestamp(n) | Self::Duration(n) => n.to_le_bytes().to_vec(),
            Self::Uint(n) => n.to_le_bytes().to_vec(),
            Self::Double(n) => n.to_le_bytes().to_vec(),
            Self::Bool(b) => vec![u8::from(*b)],
            Self::Map(entries) => pairs::encode(
                &entries
                    .iter()
                    .map(|(key, value)| Ok((key.as_bytes().to_vec(), value.encode()?)))
                    .collect::<Result<Vec<_>, Status>>()?,
            ),
            Self::List(items) => {
                pairs::encode(&items.iter().map(|item| Ok((item.encode()?, Vec::new()))).collect::<Result<
                    Vec<_>,
                    Status,
                >>(
                )?)
            }
            Self::Null => return Err(Status::SerializationFailure),
        })
    }

    /// Steps into a map by key or into a list by index.
    pub(crate) fn child(&self, name: &str) -> Option<&Self> {
        match self {
            Self::Map(entries) => entries.iter().find(|(key, _)| key == name).map(|(_, value)| value),
            Self::List(items) => items.get(name.parse::<usize>().ok()?),
            _ => None,
        }
    }

    pub(crate) fn set_path(&mut self, path: &[&str], value: Self) {
        let Some((name, rest)) = path.split_first() else {
            *self = value;
            return;
        };
        if !matches!(self, Self::Map(_)) {
            *self = Self::Map(Vec::new());
        }
        let Self::Map(entries) = self else { return };
        if let Some((_, child)) = entries.iter_mut().find(|(key, _)| key == name) {
            child.set_path(rest, value);
        } else {
            let mut child = Self::Null;
            child.set_path(rest, value);
            entries.push(((*name).to_owned(), child));
        }
    }

    pub(crate) fn at(&self, path: &[&str]) -> Option<&Self> {
        path.iter().try_fold(self, |value, name| value.child(name))
    }
}

macro_rules! from {
    ($($source:ty => $variant:ident),*) => { $(
        impl From<$source> for Value {
            fn from(value: $source) -> Self { Self::$variant(value.into()) }
        }
    )* };
}
from!(&str => String, String => String, &[u8] => Bytes, Vec<u8> => Bytes, i64 => Int, u64 => Uint, f64 => Double, bool => Bool);
