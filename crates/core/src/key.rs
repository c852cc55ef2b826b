//! Parts of a request that tell callers apart: what a limit counts by, what keeps a user on one version.

use std::borrow::Cow;
use std::hash::Hasher;
use std::net::IpAddr;

use crate::facts::Fact;
use crate::identity::{Claim, Token};
use crate::request::Request;
use crate::siphash::Sip;

/// One part of a key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum KeyPart {
    /// `header`: the value of a request header, by its lower-case name.
    Header(String),
    /// `cookie`: the value of a cookie.
    Cookie(String),
    /// `queryParameter`: the decoded value of a query parameter.
    QueryParameter(String),
    /// `claim`: a claim of the verified token, by the path to it.
    Claim(Vec<String>),
    /// `sourceIp`: the network of the TCP peer.
    SourceIp {
        /// Bits of an IPv4 address that count.
        prefix: u8,
        /// Bits of an IPv6 address that count.
        prefix_v6: u8,
    },
    /// `method`: the request method.
    Method,
    /// `principal`: the identity of the peer's certificate.
    Principal,
    /// `requestPrincipal`: `iss/sub` of the verified token.
    RequestPrincipal,
    /// `constant`: a text.
    Constant(String),
}

/// What a part depends on and cannot be known. Whatever depends on it fails closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unknown {
    /// The peer's address.
    Address,
    /// The peer's identity.
    Peer,
    /// The caller's token: no filter has verified one.
    Token,
}

/// What one part of a key is in a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part<'r> {
    /// It is there.
    Value(Cow<'r, [u8]>),
    /// It is there more than once; this is the first. An upstream may read another one than we do, so where it matters none
    /// of them is a key: all such requests share a bucket, whatever `onMissingKey` says.
    Ambiguous(Cow<'r, [u8]>),
    /// It is not there.
    Missing,
}

impl Part<'_> {
    /// Feeds the part so that no two lists of parts feed the same bytes.
    pub fn feed(&self, hash: &mut Sip) {
        match self {
            Self::Missing => hash.write_u8(0),
            Self::Ambiguous(_) => hash.write_u8(1),
            Self::Value(value) => {
                hash.write_u8(2);
                hash.write_usize(value.len());
                hash.write(value);
            }
        }
    }
}

impl KeyPart {
    /// Reads the part in a request.
    ///
    /// # Errors
    /// When it depends on a fact that cannot be known.
    pub fn read<'r>(&'r self, request: &Request<'r>) -> Result<Part<'r>, Unknown> {
        Ok(match self {
            Self::Header(name) => single(request.headers.all(name).map(Cow::Borrowed)),
            Self::Cookie(name) => single(cookies(request, name.as_bytes())),
            Self::QueryParameter(name) => single(parameters(request.target(), name.as_bytes())),
            Self::Method => Part::Value(Cow::Borrowed(request.method())),
            Self::Constant(text) => Part::Value(Cow::Borrowed(text.as_bytes())),
            Self::SourceIp { prefix, prefix_v6 } => match request.facts.peer_address() {
                Fact::Known(address) => Part::Value(Cow::Owned(network(address, *prefix, *prefix_v6))),
                Fact::Absent | Fact::Unavailable(_) => return Err(Unknown::Address),
            },
            Self::Principal => known(request.facts.peer_identity(), Unknown::Peer)?,
            Self::RequestPrincipal => from_token(request, Token::principal)?,
            Self::Claim(path) => from_token(request, |token| claim(token, path))?,
        })
    }
}

impl KeyPart {
    /// The value that a text in a configuration stands for: what [`KeyPart::read`] gives for it. An address stands for its
    /// network; `None` when the part is an address and the text is none.
    #[must_use]
    pub fn literal(&self, text: &str) -> Option<Vec<u8>> {
        match self {
            Self::SourceIp { prefix, prefix_v6 } => Some(network(text.parse().ok()?, *prefix, *prefix_v6)),
            _ => Some(text.as_bytes().to_vec()),
        }
    }
}

fn single<'r>(mut values: impl Iterator<Item = Cow<'r, [u8]>>) -> Part<'r> {
    match (values.next(), values.next()) {
        (None, _) => Part::Missing,
        (Some(value), None) => Part::Value(value),
        (Some(first), Some(_)) => Part::Ambiguous(first),
    }
}

fn known<'r>(fact: Fact<Vec<u8>>, unavailable: Unknown) -> Result<Part<'r>, Unknown> {
    match fact {
        Fact::Known(value) => Ok(Part::Value(Cow::Owned(value))),
        Fact::Absent => Ok(Part::Missing),
        Fact::Unavailable(_) => Err(unavailable),
    }
}

fn from_token<'r>(
    request: &Request<'_>,
    read: impl Fn(&Token) -> Option<Vec<u8>>,
) -> Result<Part<'r>, Unknown> {
    match request.facts.token() {
        Fact::Known(token) => Ok(read(&token).map_or(Part::Missing, |value| Part::Value(Cow::Owned(value)))),
        Fact::Absent => Ok(Part::Missing),
        Fact::Unavailable(_) => Err(Unknown::Token),
    }
}

/// A claim as bytes; lists, objects and fractions are no key.
fn claim(token: &Token, path: &[String]) -> Option<Vec<u8>> {
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    match token.claim(&path)? {
        Claim::Text(text) => Some(text.to_vec()),
        Claim::Integer(number) => Some(number.to_string().into_bytes()),
        Claim::Bool(value) => Some(if value { b"true".to_vec() } else { b"false".to_vec() }),
        Claim::Null | Claim::Double(_) | Claim::List(_) | Claim::Object(_) => None,
    }
}

/// The values of a cookie (RFC 6265 4.2.1), over all `cookie` headers: HTTP/2 may split them.
fn cookies<'r>(request: &Request<'r>, name: &'r [u8]) -> impl Iterator<Item = Cow<'r, [u8]>> {
    let headers = request.headers.all("cookie");
    headers.flat_map(|header| header.split(|byte| *byte == b';')).filter_map(move |pair| {
        let equals = pair.iter().position(|byte| *byte == b'=')?;
        let (found, value) = pair.split_at_checked(equals)?;
        (found.trim_ascii() == name).then(|| Cow::Borrowed(value.get(1..).unwrap_or_default().trim_ascii()))
    })
}

/// The values of a query parameter, decoded: `a` and `%61` must not be two buckets.
pub fn parameters<'r>(target: &'r [u8], name: &'r [u8]) -> impl Iterator<Item = Cow<'r, [u8]>> {
    let target = target.split(|byte| *byte == b'#').next().unwrap_or_default();
    let query = target.iter().position(|byte| *byte == b'?').and_then(|mark| target.get(mark + 1..));
    query.unwrap_or_default().split(|byte| *byte == b'&').filter_map(move |pair| {
        let equals = pair.iter().position(|byte| *byte == b'=');
        let (found, value) = equals.and_then(|at| pair.split_at_checked(at)).unwrap_or((pair, b"="));
        (decoded(found).as_ref() == name).then(|| decoded(value.get(1..).unwrap_or_default()))
    })
}

/// Percent-decoding with `+` as space, as forms write it; what is not an escape stays as it is.
fn decoded(text: &[u8]) -> Cow<'_, [u8]> {
    if !text.iter().any(|byte| matches!(byte, b'%' | b'+')) {
        return Cow::Borrowed(text);
    }
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        let escape = tail
            .first_chunk::<2>()
            .filter(|_| *first == b'%')
            .and_then(|[high, low]| Some(hex(*high)? << 4 | hex(*low)?));
        if escape.is_some() {
            rest = tail.get(2..).unwrap_or_default();
        }
        out.push(escape.unwrap_or(if *first == b'+' { b' ' } else { *first }));
    }
    Cow::Owned(out)
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// The network of an address; an IPv4 address written as IPv6 (`::ffff:…`) is the IPv4 address.
fn network(address: IpAddr, prefix: u8, prefix_v6: u8) -> Vec<u8> {
    let mask =
        |bits: u8, width: u8| u128::MAX.checked_shl(u32::from(width.saturating_sub(bits))).unwrap_or(0);
    match address.to_canonical() {
        IpAddr::V4(address) => {
            let bits = u128::from(address.to_bits()) & mask(prefix, 32);
            u32::try_from(bits).unwrap_or_default().to_be_bytes().to_vec()
        }
        IpAddr::V6(address) => (address.to_bits() & mask(prefix_v6, 128)).to_be_bytes().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Node;
    use crate::facts::{Facts, NoProperties, Properties, Sources, TOKEN_STATE};
    use crate::headers::HeaderBlock;
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn part_of(
        part: &KeyPart,
        pairs: &[(&str, &str)],
        properties: &dyn Properties,
    ) -> Result<Part<'static>, Unknown> {
        let headers = HeaderBlock::from_pairs(pairs.iter().copied());
        let sources = Sources::default();
        let request = Request { headers: &headers, facts: Facts::new(properties, &sources) };
        Ok(match part.read(&request)? {
            Part::Value(value) => Part::Value(Cow::Owned(value.into_owned())),
            Part::Ambiguous(value) => Part::Ambiguous(Cow::Owned(value.into_owned())),
            Part::Missing => Part::Missing,
        })
    }

    fn value(text: &str) -> Part<'static> {
        Part::Value(Cow::Owned(text.as_bytes().to_vec()))
    }

    fn first(text: &str) -> Part<'static> {
        Part::Ambiguous(Cow::Owned(text.as_bytes().to_vec()))
    }

    struct Peer(&'static str);

    impl Properties for Peer {
        fn property(&self, path: &[&str]) -> Fact<Vec<u8>> {
            match path {
                ["filter_state", "sailcloth.source_ip"] => Fact::Known(self.0.as_bytes().to_vec()),
                [TOKEN_STATE] => {
                    let claims = r#"{"iss":"i","sub":"s","n":7,"roles":["a"],"realm":{"id":"r"}}"#;
                    Fact::Known(
                        Token::of_claims(&Node::from_json(claims.as_bytes()).unwrap()).state().to_vec(),
                    )
                }
                _ => Fact::Absent,
            }
        }
    }

    #[test]
    fn headers_cookies_and_parameters_are_read() {
        let header = KeyPart::Header("x-api-key".into());
        let cookie = KeyPart::Cookie("sid".into());
        let parameter = KeyPart::QueryParameter("key".into());
        for (part, pairs, expected) in [
            (&header, vec![("x-api-key", "a")], value("a")),
            (&header, vec![("x-api-key", "")], value("")),
            (&header, vec![("x-other", "a")], Part::Missing),
            (&header, vec![("x-api-key", "a"), ("x-api-key", "b")], first("a")),
            (&cookie, vec![("cookie", "a=1; sid=x=y ;b")], value("x=y")),
            (&cookie, vec![("cookie", "a=1"), ("cookie", "sid=2")], value("2")),
            (&cookie, vec![("cookie", "sid=1; sid=2")], first("1")),
            (&cookie, vec![("cookie", "sidx=1; xsid=2; sid")], Part::Missing),
            (&parameter, vec![(":path", "/a?b=1&key=x%20y+z")], value("x y z")),
            (&parameter, vec![(":path", "/a?k%65y=%41%zz%4")], value("A%zz%4")),
            (&parameter, vec![(":path", "/a?key")], value("")),
            (&parameter, vec![(":path", "/key=1#?key=2")], Part::Missing),
            (&parameter, vec![(":path", "/a?key=1&key=2")], first("1")),
        ] {
            assert_eq!(part_of(part, &pairs, &NoProperties), Ok(expected), "{part:?} of {pairs:?}");
        }
    }

    #[test]
    fn claims_are_read_from_the_verified_token() {
        let claim = |path: &[&str]| KeyPart::Claim(path.iter().map(|key| (*key).to_owned()).collect());
        for (part, expected) in [
            (claim(&["sub"]), value("s")),
            (claim(&["n"]), value("7")),
            (claim(&["realm", "id"]), value("r")),
            (claim(&["roles"]), Part::Missing),
            (claim(&["none"]), Part::Missing),
            (KeyPart::RequestPrincipal, value("i/s")),
        ] {
            assert_eq!(part_of(&part, &[], &Peer("10.0.0.1")), Ok(expected), "{part:?}");
        }
        assert_eq!(part_of(&claim(&["sub"]), &[], &NoProperties), Err(Unknown::Token));
    }

    #[test]
    fn addresses_are_cut_to_their_network() {
        let part = KeyPart::SourceIp { prefix: 24, prefix_v6: 64 };
        let of = |text| part_of(&part, &[("x-forwarded-for", "9.9.9.9")], &Peer(text)).unwrap();
        assert_eq!(of("10.1.2.3"), Part::Value(Cow::Owned(vec![10, 1, 2, 0])));
        assert_eq!(of("10.1.2.3"), of("::ffff:10.1.2.99"));
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        let all = KeyPart::SourceIp { prefix: 0, prefix_v6: 0 };
        assert_eq!(part_of(&all, &[], &Peer("10.1.2.3")), Ok(Part::Value(Cow::Owned(vec![0; 4]))));
    }

    #[test]
    fn a_forwarded_for_header_is_no_address() {
        let part = KeyPart::SourceIp { prefix: 32, prefix_v6: 64 };
        let spoofed = part_of(&part, &[("x-forwarded-for", "9.9.9.9")], &NoProperties);
        assert_eq!(spoofed, Err(Unknown::Address));
    }

    #[test]
    fn different_parts_never_feed_the_same_bytes() {
        let hash = |parts: &[Part<'_>]| {
            let mut sip = Sip::new([1, 2]);
            parts.iter().for_each(|part| part.feed(&mut sip));
            sip.finish()
        };
        let lists = [
            vec![value("ab"), value("c")],
            vec![value("a"), value("bc")],
            vec![value(""), value("abc")],
            vec![Part::Missing, value("abc")],
            vec![first("a"), value("abc")],
            vec![value("abc")],
        ];
        let hashes: std::collections::HashSet<u64> = lists.iter().map(|list| hash(list)).collect();
        assert_eq!(hashes.len(), lists.len());
    }
}
