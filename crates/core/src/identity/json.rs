//! JSON text straight into the compact form. A tree in between would cost an allocation per key and value, twice what the
//! rest of reading a token costs.

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::{DOUBLE, FALSE, INTEGER, LIST, Members, NULL, OBJECT, TEXT, TRUE, Token, VERSION, write_value};
use crate::config::repeats;

/// Why a text is no token's payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PayloadError {
    /// It is not one JSON object (RFC 8259), or has a key of more than 64 KiB.
    NotObject,
    /// An object in it has a key twice.
    DuplicateKey,
}

impl Token {
    /// A token with the claims of a payload.
    ///
    /// # Errors
    /// Why it is none.
    pub fn of_json(payload: &[u8]) -> Result<Self, PayloadError> {
        let mut out = Vec::with_capacity(payload.len() + payload.len() / 2);
        let mut duplicate = false;
        let mut json = serde_json::Deserializer::from_slice(payload);
        let value = Compact { out: &mut out, duplicate: &mut duplicate };
        value.deserialize(&mut json).and_then(|()| json.end()).map_err(|_| PayloadError::NotObject)?;
        if out.first() != Some(&OBJECT) {
            return Err(PayloadError::NotObject);
        }
        if duplicate {
            return Err(PayloadError::DuplicateKey);
        }
        // A token is its members after the version: the tag and its length of four bytes go.
        out.drain(..4);
        if let Some(first) = out.first_mut() {
            *first = VERSION;
        }
        Ok(Self(out))
    }
}

/// Appends one value.
struct Compact<'o> {
    out: &'o mut Vec<u8>,
    duplicate: &'o mut bool,
}

/// Appends one key.
struct Key<'o>(&'o mut Vec<u8>);

impl Compact<'_> {
    /// Writes the head of a value whose length is not known yet.
    fn open(&mut self, tag: u8) -> usize {
        let start = self.out.len();
        write_value(tag, &[], self.out);
        start
    }

    fn close(&mut self, start: usize) {
        let payload = start + 5;
        let length = u32::try_from(self.out.len() - payload).unwrap_or(u32::MAX);
        let head = self.out.get_mut(start + 1..payload).unwrap_or_default();
        head.iter_mut().zip(length.to_le_bytes()).for_each(|(place, byte)| *place = byte);
    }
}

impl<'de> DeserializeSeed<'de> for Compact<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Compact<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        write_value(NULL, &[], self.out);
        Ok(())
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        write_value(if value { TRUE } else { FALSE }, &[], self.out);
        Ok(())
    }

    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        write_value(INTEGER, &value.to_le_bytes(), self.out);
        Ok(())
    }

    #[expect(clippy::cast_precision_loss, reason = "a number past 63 bits becomes a double, as in a tree")]
    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        match i64::try_from(value) {
            Ok(value) => self.visit_i64(value),
            Err(_) => self.visit_f64(value as f64),
        }
    }

    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        write_value(DOUBLE, &value.to_le_bytes(), self.out);
        Ok(())
    }

    fn visit_str<E>(self, value: &str) -> Result<(), E> {
        write_value(TEXT, value.as_bytes(), self.out);
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<(), A::Error> {
        let start = self.open(LIST);
        while items.next_element_seed(Compact { out: self.out, duplicate: self.duplicate })?.is_some() {}
        self.close(start);
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut members: A) -> Result<(), A::Error> {
        let start = self.open(OBJECT);
        while members.next_key_seed(Key(self.out))?.is_some() {
            members.next_value_seed(Compact { out: self.out, duplicate: self.duplicate })?;
        }
        self.close(start);
        let written = Members(self.out.get(start + 5..).unwrap_or_default());
        *self.duplicate |= repeats(&mut written.map(|(key, _)| key));
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Key<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<(), E> {
        let length = u16::try_from(key.len()).map_err(|_| E::custom("the key is too long"))?;
        self.0.extend_from_slice(&length.to_le_bytes());
        self.0.extend_from_slice(key.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Node;
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn it_writes_what_a_tree_would() {
        for json in [
            "{}",
            r#"{"iss":"https://a","sub":"b","n":-7,"big":18446744073709551615,"f":1.5e3,"ok":true,"no":false,"z":null}"#,
            r#"{"aud":["x",[],{}],"realm":{"roles":["admin",1,{"deep":{"er":"\u00e9\n"}}]},"":"empty key"}"#,
            r#" { "a" : "\ud83d\ude00" } "#,
        ] {
            let tree = Token::of_claims(&Node::from_json(json.as_bytes()).unwrap());
            assert_eq!(Token::of_json(json.as_bytes()), Ok(tree), "{json}");
        }
    }

    #[test]
    fn what_is_no_payload_is_refused_and_duplicates_are_found_at_every_depth() {
        let long = format!(r#"{{"{}":1}}"#, "k".repeat(70_000));
        let deep = format!("{}{}", r#"{"a":"#.repeat(10_000), "}".repeat(10_000));
        for json in ["", "7", "[]", "null", "\"{}\"", "{} {}", "{", r#"{"a"}"#, r#"{1:2}"#, &long, &deep] {
            assert_eq!(Token::of_json(json.as_bytes()), Err(PayloadError::NotObject), "{json:.40}");
        }
        assert_eq!(Token::of_json(b"{\"a\":\"\xff\"}"), Err(PayloadError::NotObject));
        for json in [r#"{"a":1,"a":1}"#, r#"{"b":{"a":1,"c":2,"a":3}}"#, r#"{"l":[{"a":1,"\u0061":2}]}"#] {
            assert_eq!(Token::of_json(json.as_bytes()), Err(PayloadError::DuplicateKey), "{json}");
        }
        assert!(Token::of_json(br#"{"a":{"a":{"a":1}},"l":[{"x":1},{"x":1}]}"#).is_ok());
    }
}
