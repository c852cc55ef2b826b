//! The configuration as a tree that keeps everything that was written, duplicate keys included.

use std::collections::BTreeSet;
use std::fmt;

use super::protobuf_struct;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

/// A configuration tree. Maps keep their order and their duplicate keys, so that a duplicate can be reported instead
/// of silently losing one of its values.
#[derive(Debug, Clone, PartialEq)]
pub enum Node {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number without a fraction that fits 64 bits.
    Integer(i64),
    /// Any other number. `google.protobuf.Struct` makes every number a double.
    Float(f64),
    /// A string.
    Text(String),
    /// A list.
    List(Vec<Node>),
    /// A map, in the order written.
    Map(Vec<(String, Node)>),
}

/// Text that is not one value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MalformedText(String);

impl Node {
    /// Parses JSON text (RFC 8259).
    ///
    /// # Errors
    /// When the bytes are not exactly one JSON value; the message names line and column.
    pub fn from_json(text: &[u8]) -> Result<Self, MalformedText> {
        serde_json::from_slice(text).map_err(|error| MalformedText(error.to_string()))
    }

    /// Reads a plugin configuration as Envoy hands it over: JSON text (Istio, `StringValue`), or an encoded
    /// `google.protobuf.Struct`. No Struct with known keys is also JSON: its first key would have to contain a quote.
    /// Nothing at all is [`Node::Null`].
    ///
    /// # Errors
    /// When the bytes are neither; the message is about the JSON.
    pub fn from_plugin_configuration(bytes: &[u8]) -> Result<Self, MalformedText> {
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(Self::Null);
        }
        Self::from_json(bytes).or_else(|MalformedText(error)| {
            let neither =
                || MalformedText(format!("{error}; nor a google.protobuf.Struct of at most 64 levels"));
            protobuf_struct::decode(bytes).ok_or_else(neither)
        })
    }

    /// Reads one namespace of Envoy's dynamic metadata from its encoded message, types and all; none where that namespace
    /// is not there.
    ///
    /// # Errors
    /// When the bytes are no `envoy.config.core.v3.Metadata`.
    pub fn from_filter_metadata(bytes: &[u8], namespace: &str) -> Result<Option<Self>, MalformedText> {
        protobuf_struct::decode_metadata(bytes, namespace)
            .ok_or_else(|| MalformedText("not an encoded Metadata message".to_owned()))
    }

    /// What this node is, for error messages.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Integer(_) | Self::Float(_) => "a number",
            Self::Text(_) => "a string",
            Self::List(_) => "a list",
            Self::Map(_) => "an object",
        }
    }

    /// A number that tells two configurations apart, whatever the order of keys (a `Struct` has none). FNV-1a; not a
    /// security measure.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        let mut hash = Fnv::default();
        self.feed(&mut hash);
        hash.0
    }

    fn feed(&self, hash: &mut Fnv) {
        match self {
            Self::Null => hash.write(b"~"),
            Self::Bool(flag) => hash.write(if *flag { b"T" } else { b"F" }),
            #[expect(
                clippy::cast_precision_loss,
                reason = "a Struct has only doubles; both forms must agree"
            )]
            Self::Integer(number) => hash.number(*number as f64),
            Self::Float(number) => hash.number(*number),
            Self::Text(text) => hash.text(text),
            Self::List(items) => {
                hash.write(b"[");
                items.iter().for_each(|item| item.feed(hash));
                hash.write(b"]");
            }
            Self::Map(entries) => {
                // A sum has no order, and needs much less code than a sort.
                let sum = entries.iter().fold(0_u64, |sum, (key, node)| {
                    let mut entry = Fnv::default();
                    entry.text(key);
                    node.feed(&mut entry);
                    sum.wrapping_add(entry.0)
                });
                hash.write(b"{");
                hash.write(&u64::try_from(entries.len()).unwrap_or(u64::MAX).to_le_bytes());
                hash.write(&sum.to_le_bytes());
                hash.write(b"}");
            }
        }
    }

    /// The value of a key of a map; the first one where the key is written twice.
    #[must_use]
    pub fn field(&self, key: &str) -> Option<&Node> {
        match self {
            Self::Map(entries) => entries.iter().find(|(name, _)| name == key).map(|(_, node)| node),
            _ => None,
        }
    }

    /// The text of a string.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Whether some map in the tree has the same key twice.
    #[must_use]
    pub fn has_duplicate_keys(&self) -> bool {
        match self {
            Self::List(items) => items.iter().any(Self::has_duplicate_keys),
            Self::Map(entries) => {
                repeats(&mut entries.iter().map(|(key, _)| key.as_bytes()))
                    || entries.iter().any(|(_, node)| node.has_duplicate_keys())
            }
            _ => false,
        }
    }
}

/// Whether a key comes twice. A set, not a search per key: strangers choose the keys of a token, and their number.
pub(crate) fn repeats(keys: &mut dyn Iterator<Item = &[u8]>) -> bool {
    let mut seen = BTreeSet::new();
    for key in keys {
        if !seen.insert(key) {
            return true;
        }
    }
    false
}

/// FNV-1a of a canonical form.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    fn write(&mut self, bytes: &[u8]) {
        let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        self.0 = bytes.iter().fold(self.0, step);
    }

    fn number(&mut self, number: f64) {
        self.write(b"#");
        self.write(&number.to_bits().to_le_bytes());
    }

    /// The length first, so that no two texts run into each other.
    fn text(&mut self, text: &str) {
        self.write(&u64::try_from(text.len()).unwrap_or(u64::MAX).to_le_bytes());
        self.write(text.as_bytes());
    }
}

impl fmt::Display for MalformedText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not valid JSON: {}", self.0)
    }
}

impl std::error::Error for MalformedText {}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Integer(value))
    }

    #[expect(clippy::cast_precision_loss, reason = "a number past 63 bits is only ever compared or refused")]
    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(i64::try_from(value).map_or(Node::Float(value as f64), Node::Integer))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        Ok(Node::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Node, E> {
        Ok(Node::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        // Most lists and maps are short, and a large configuration is held whole: what growing took in advance goes back.
        items.shrink_to_fit();
        Ok(Node::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        entries.shrink_to_fit();
        Ok(Node::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::Node;
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn the_fingerprint_ignores_the_order_of_keys_and_nothing_else() {
        let of = |json: &str| Node::from_json(json.as_bytes()).unwrap().fingerprint();
        assert_eq!(of(r#"{"a":1,"b":[true,null]}"#), of(r#"{"b":[true,null],"a":1.0}"#));
        for other in
            [r#"{"a":1,"b":[null,true]}"#, r#"{"a":2,"b":[true,null]}"#, r#"{"a":"1","b":[true,null]}"#]
        {
            assert_ne!(of(r#"{"a":1,"b":[true,null]}"#), of(other), "{other}");
        }
    }
}
