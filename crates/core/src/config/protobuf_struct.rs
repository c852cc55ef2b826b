//! `google.protobuf.Struct` in its binary encoding.
//!
//! Envoy's documentation says that a Struct reaches a plugin as JSON; Envoy 1.40 hands over the encoded message
//! (observed). Both are read.
//!
//! ```text
//! Struct    { map<string, Value> fields = 1 }           map entry: { string key = 1; Value value = 2 }
//! Value     { null = 1 varint | number = 2 double | string = 3 | bool = 4 varint | Struct = 5 | ListValue = 6 }
//! ListValue { repeated Value values = 1 }
//! ```

use super::Node;
use crate::protobuf::{Field, read_field};

/// Protobuf's own limit on nesting is 100 messages; each level of a Struct takes up to three.
const MAX_DEPTH: usize = 64;

/// Reads an encoded Struct; `None` when the bytes are not exactly one.
pub(super) fn decode(bytes: &[u8]) -> Option<Node> {
    read_struct(bytes, MAX_DEPTH)
}

/// The Struct of one namespace in an encoded `envoy.config.core.v3.Metadata`
/// (`{ map<string, Struct> filter_metadata = 1 }`); `Some(None)` where that namespace is not there, `None` when the bytes
/// are no such message.
pub(super) fn decode_metadata(mut bytes: &[u8], namespace: &str) -> Option<Option<Node>> {
    let mut found = None;
    while !bytes.is_empty() {
        let (1, Field::Bytes(mut entry)) = read_field(&mut bytes)? else { continue };
        let (mut key, mut value) = (&b""[..], &b""[..]);
        while !entry.is_empty() {
            match read_field(&mut entry)? {
                (1, Field::Bytes(text)) => key = text,
                (2, Field::Bytes(message)) => value = message,
                _ => return None,
            }
        }
        if key == namespace.as_bytes() {
            found = Some(decode(value)?);
        }
    }
    Some(found)
}

fn read_struct(mut bytes: &[u8], depth: usize) -> Option<Node> {
    let mut entries = Vec::new();
    while !bytes.is_empty() {
        let (1, Field::Bytes(entry)) = read_field(&mut bytes)? else { return None };
        entries.push(read_entry(entry, depth)?);
    }
    entries.shrink_to_fit();
    Some(Node::Map(entries))
}

fn read_entry(mut bytes: &[u8], depth: usize) -> Option<(String, Node)> {
    // Absent fields have their defaults: the empty key, the value that is not set.
    let mut entry = (String::new(), Node::Null);
    while !bytes.is_empty() {
        match read_field(&mut bytes)? {
            (1, Field::Bytes(key)) => entry.0 = String::from_utf8(key.to_vec()).ok()?,
            (2, Field::Bytes(value)) => entry.1 = read_value(value, depth)?,
            _ => return None,
        }
    }
    Some(entry)
}

fn read_value(mut bytes: &[u8], depth: usize) -> Option<Node> {
    let depth = depth.checked_sub(1)?;
    let mut node = Node::Null;
    while !bytes.is_empty() {
        node = match read_field(&mut bytes)? {
            (1, Field::Varint(_)) => Node::Null,
            (2, Field::Fixed64(number)) => Node::Float(f64::from_le_bytes(number)),
            (3, Field::Bytes(text)) => Node::Text(String::from_utf8(text.to_vec()).ok()?),
            (4, Field::Varint(flag)) => Node::Bool(flag != 0),
            (5, Field::Bytes(inner)) => read_struct(inner, depth)?,
            (6, Field::Bytes(inner)) => read_list(inner, depth)?,
            _ => return None,
        };
    }
    Some(node)
}

fn read_list(mut bytes: &[u8], depth: usize) -> Option<Node> {
    let mut items = Vec::new();
    while !bytes.is_empty() {
        let (1, Field::Bytes(item)) = read_field(&mut bytes)? else { return None };
        items.push(read_value(item, depth)?);
    }
    items.shrink_to_fit();
    Some(Node::List(items))
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn message(field: u8, content: &[u8]) -> Vec<u8> {
        let mut out = vec![field << 3 | 2];
        let mut length = content.len();
        while length >= 0x80 {
            out.push(u8::try_from(length & 0x7f).unwrap() | 0x80);
            length >>= 7;
        }
        out.push(u8::try_from(length).unwrap());
        [out, content.to_vec()].concat()
    }

    fn entry(key: &str, value: &[u8]) -> Vec<u8> {
        message(1, &[message(1, key.as_bytes()), message(2, value)].concat())
    }

    #[test]
    fn a_struct_reads_like_the_same_json() {
        let number = [&[0x11][..], &90f64.to_le_bytes()].concat();
        let list = message(6, &message(1, &message(3, b"GET")));
        let inner = message(5, &entry("app", &message(3, b"api")));
        let bytes = [
            entry("weight", &number),
            entry("on", &[0x20, 1]),
            entry("nothing", &[0x08, 0]),
            entry("methods", &list),
            entry("labels", &inner),
        ]
        .concat();
        let json = r#"{"weight":90.0,"on":true,"nothing":null,"methods":["GET"],"labels":{"app":"api"}}"#;
        assert_eq!(decode(&bytes), Node::from_json(json.as_bytes()).ok());
    }

    #[test]
    fn truncations_and_other_messages_are_refused() {
        let whole = entry("labels", &message(5, &entry("app", &message(3, b"api"))));
        for end in 1..whole.len() {
            assert_eq!(decode(&whole[..end]), None, "cut at {end}");
        }
        for other in [b"{}".as_slice(), b"\x08\x01", b"\x12\x00", b"\xff"] {
            assert_eq!(decode(other), None, "{other:?}");
        }
    }

    #[test]
    fn nesting_is_bounded() {
        let mut value = message(3, b"x");
        for _ in 0..30 {
            value = message(6, &message(1, &value));
        }
        assert!(decode(&entry("a", &value)).is_some());
        let deep = (0..500).fold(vec![], |inner, _| message(6, &message(1, &inner)));
        assert_eq!(read_value(&deep, MAX_DEPTH), None);
    }
}
