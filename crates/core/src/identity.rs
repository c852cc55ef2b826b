//! The caller's verified token, as the `jwt` filter hands it to the filters after it.
//!
//! The form is compact and read without parsing JSON: a version byte, then the claims as a tagged tree in which every
//! value carries its length, so that a reader steps over what it does not want.
//!
//! ```text
//! state  = version                      ; the filter ran, the request carries no token
//!        | version object               ; a verified token
//! value  = tag length:u32le bytes       ; tag: 0 null, 1 false, 2 true, 3 integer i64le, 4 double f64le,
//!                                       ;      5 text, 6 list of values, 7 object
//! object = *( length:u16le key value )  ; the payload of tag 7, and the top level of a token
//! ```

mod json;

use crate::config::Node;

pub use json::PayloadError;

/// The version that this build writes and reads; any other is refused, and a refusal denies.
const VERSION: u8 = 1;

const NULL: u8 = 0;
const FALSE: u8 = 1;
const TRUE: u8 = 2;
const INTEGER: u8 = 3;
const DOUBLE: u8 = 4;
const TEXT: u8 = 5;
const LIST: u8 = 6;
const OBJECT: u8 = 7;

/// A verified token's claims.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token(Vec<u8>);

/// What the hand-over says about the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenState {
    /// A token was verified.
    Verified(Token),
    /// The `jwt` filter ran and the request carries no token.
    Anonymous,
    /// Not written by a filter this build understands.
    Unreadable,
}

/// A claim, read in place.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Claim<'t> {
    /// `null`.
    Null,
    /// A boolean.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// Any other number.
    Double(f64),
    /// A string (UTF-8, since it came from JSON).
    Text(&'t [u8]),
    /// A list.
    List(Items<'t>),
    /// An object.
    Object(Members<'t>),
}

impl Token {
    /// A token with these claims; `claims` is the payload's JSON object.
    #[must_use]
    pub fn of_claims(claims: &Node) -> Self {
        let mut out = vec![VERSION];
        if let Node::Map(entries) = claims {
            write_members(entries, &mut out);
        }
        Self(out)
    }

    /// A token of which only issuer and subject are known.
    #[must_use]
    pub fn of_principal(issuer: &[u8], subject: &[u8]) -> Self {
        let mut out = vec![VERSION];
        for (key, text) in [(b"iss", issuer), (b"sub", subject)] {
            write_key(key, &mut out);
            write_value(TEXT, text, &mut out);
        }
        Self(out)
    }

    /// Reads a hand-over.
    #[must_use]
    pub fn decode(state: Vec<u8>) -> TokenState {
        match state.split_first() {
            Some((&VERSION, [])) => TokenState::Anonymous,
            Some((&VERSION, claims)) if Members(claims).all_readable() => TokenState::Verified(Self(state)),
            _ => TokenState::Unreadable,
        }
    }

    /// The hand-over of a verified token.
    #[must_use]
    pub fn state(&self) -> &[u8] {
        &self.0
    }

    /// The hand-over that says: the filter ran, and there is no token.
    #[must_use]
    pub fn anonymous_state() -> &'static [u8] {
        &[VERSION]
    }

    /// All claims.
    #[must_use]
    pub fn claims(&self) -> Members<'_> {
        Members(self.0.get(1..).unwrap_or_default())
    }

    /// The claim at a path of keys; `["realm_access", "roles"]` reaches into nested objects.
    #[must_use]
    pub fn claim(&self, path: &[&str]) -> Option<Claim<'_>> {
        let (first, rest) = path.split_first()?;
        let mut claim = self.claims().get(first)?;
        for key in rest {
            let Claim::Object(members) = claim else { return None };
            claim = members.get(key)?;
        }
        Some(claim)
    }

    /// The claim at a path if it is a string.
    #[must_use]
    pub fn text(&self, path: &[&str]) -> Option<&[u8]> {
        match self.claim(path)? {
            Claim::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The token with the top-level texts whose key `is_list` names as lists of their words: `scope: "read write"` is
    /// `["read", "write"]` to all policies.
    #[must_use]
    pub fn with_lists(&self, is_list: impl Fn(&[u8]) -> bool) -> Self {
        let mut out = vec![VERSION];
        let mut rest = self.claims();
        loop {
            let before = rest.0;
            let Some((key, claim)) = rest.next() else { return Self(out) };
            match claim {
                Claim::Text(text) if is_list(key) => {
                    write_key(key, &mut out);
                    let mut words = Vec::with_capacity(text.len() * 2);
                    for word in text.split(|byte| *byte == b' ').filter(|word| !word.is_empty()) {
                        write_value(TEXT, word, &mut words);
                    }
                    write_value(LIST, &words, &mut out);
                }
                _ => out.extend_from_slice(before.get(..before.len() - rest.0.len()).unwrap_or_default()),
            }
        }
    }

    /// `iss/sub` (Istio's `request.auth.principal`); none when either is missing or empty.
    #[must_use]
    pub fn principal(&self) -> Option<Vec<u8>> {
        let present = |name| self.text(&[name]).filter(|text| !text.is_empty());
        Some([present("iss")?, b"/", present("sub")?].concat())
    }
}

/// The members of an object, in the order of the token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Members<'t>(&'t [u8]);

impl<'t> Members<'t> {
    /// The member with this key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<Claim<'t>> {
        self.clone().find(|(name, _)| *name == key.as_bytes()).map(|(_, claim)| claim)
    }

    fn all_readable(&self) -> bool {
        let mut members = *self;
        while members.next().is_some() {}
        members.0.is_empty()
    }
}

impl<'t> Iterator for Members<'t> {
    type Item = (&'t [u8], Claim<'t>);

    fn next(&mut self) -> Option<Self::Item> {
        let (length, rest) = self.0.split_first_chunk::<2>()?;
        let (key, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
        let (claim, rest) = read_value(rest)?;
        self.0 = rest;
        Some((key, claim))
    }
}

/// The items of a list.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Items<'t>(&'t [u8]);

impl<'t> Iterator for Items<'t> {
    type Item = Claim<'t>;

    fn next(&mut self) -> Option<Self::Item> {
        let (claim, rest) = read_value(self.0)?;
        self.0 = rest;
        Some(claim)
    }
}

fn read_value(bytes: &[u8]) -> Option<(Claim<'_>, &[u8])> {
    let (tag, rest) = bytes.split_first()?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let (payload, rest) = rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
    let claim = match *tag {
        NULL => Claim::Null,
        FALSE => Claim::Bool(false),
        TRUE => Claim::Bool(true),
        INTEGER => Claim::Integer(i64::from_le_bytes(payload.try_into().ok()?)),
        DOUBLE => Claim::Double(f64::from_le_bytes(payload.try_into().ok()?)),
        TEXT => Claim::Text(payload),
        LIST => Claim::List(Items(payload)),
        OBJECT => Claim::Object(Members(payload)),
        _ => return None,
    };
    Some((claim, rest))
}

fn write_members(entries: &[(String, Node)], out: &mut Vec<u8>) {
    // A key past 64 KiB cannot be named by any policy; it is left out rather than cut into another key.
    for (key, node) in entries.iter().filter(|(key, _)| u16::try_from(key.len()).is_ok()) {
        write_key(key.as_bytes(), out);
        write_node(node, out);
    }
}

fn write_key(key: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&u16::try_from(key.len()).unwrap_or(u16::MAX).to_le_bytes());
    out.extend_from_slice(key);
}

fn write_node(node: &Node, out: &mut Vec<u8>) {
    match node {
        Node::Null => write_value(NULL, &[], out),
        Node::Bool(false) => write_value(FALSE, &[], out),
        Node::Bool(true) => write_value(TRUE, &[], out),
        Node::Integer(number) => write_value(INTEGER, &number.to_le_bytes(), out),
        Node::Float(number) => write_value(DOUBLE, &number.to_le_bytes(), out),
        Node::Text(text) => write_value(TEXT, text.as_bytes(), out),
        Node::List(items) => {
            let mut inner = Vec::new();
            items.iter().for_each(|item| write_node(item, &mut inner));
            write_value(LIST, &inner, out);
        }
        Node::Map(entries) => {
            let mut inner = Vec::new();
            write_members(entries, &mut inner);
            write_value(OBJECT, &inner, out);
        }
    }
}

fn write_value(tag: u8, payload: &[u8], out: &mut Vec<u8>) {
    out.push(tag);
    out.extend_from_slice(&u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(payload);
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const CLAIMS: &str = r#"{"iss":"https://a","sub":"b","n":7,"f":1.5,"ok":true,"none":null,
        "aud":["x","y"],"realm":{"roles":["admin",1]},"a.b":"dotted"}"#;

    fn token() -> Token {
        Token::of_claims(&Node::from_json(CLAIMS.as_bytes()).unwrap())
    }

    #[test]
    fn claims_read_back_with_their_types() {
        let TokenState::Verified(token) = Token::decode(token().state().to_vec()) else {
            panic!("not verified")
        };
        assert_eq!(token.principal().unwrap(), b"https://a/b");
        assert_eq!(token.claim(&["n"]), Some(Claim::Integer(7)));
        assert_eq!(token.claim(&["f"]), Some(Claim::Double(1.5)));
        assert_eq!(token.claim(&["ok"]), Some(Claim::Bool(true)));
        assert_eq!(token.claim(&["none"]), Some(Claim::Null));
        assert_eq!(token.text(&["a.b"]), Some(b"dotted".as_slice()));
        let Some(Claim::List(roles)) = token.claim(&["realm", "roles"]) else { panic!("no list") };
        assert_eq!(roles.collect::<Vec<_>>(), [Claim::Text(b"admin"), Claim::Integer(1)]);
        assert_eq!(token.claim(&["realm", "missing"]), None);
        assert_eq!(token.claim(&["iss", "deeper"]), None);
    }

    #[test]
    fn no_token_is_not_an_unreadable_token() {
        assert_eq!(Token::decode(Token::anonymous_state().to_vec()), TokenState::Anonymous);
        assert_eq!(Token::decode(Vec::new()), TokenState::Unreadable);
        assert_eq!(Token::decode(vec![VERSION + 1, 0]), TokenState::Unreadable);
    }

    #[test]
    fn no_truncation_reads_as_a_whole_token() {
        let state = token().state().to_vec();
        let whole: Vec<_> = token().claims().map(|(key, _)| key.to_vec()).collect();
        for end in 2..state.len() {
            if let TokenState::Verified(cut) = Token::decode(state[..end].to_vec()) {
                // A cut at a member border is a shorter token, never a changed one.
                let keys: Vec<_> = cut.claims().map(|(key, _)| key.to_vec()).collect();
                assert!(whole.starts_with(&keys) && keys.len() < whole.len(), "cut at {end}");
            }
        }
    }

    #[test]
    fn a_principal_needs_both_parts() {
        for claims in
            [r#"{"iss":"a"}"#, r#"{"sub":"b"}"#, r#"{"iss":"","sub":"b"}"#, r#"{"iss":"a","sub":7}"#]
        {
            let token = Token::of_claims(&Node::from_json(claims.as_bytes()).unwrap());
            assert_eq!(token.principal(), None, "{claims}");
        }
    }
}
