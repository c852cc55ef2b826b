//! Where tokens are looked for, and how a request looks without them.

use std::borrow::Cow;

use sailcloth_core::headers::HeaderBlock;
use sailcloth_resources::request_authentication::JwtRule;

/// A place that may hold a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// A header, and what stands before the token in it.
    Header { name: String, prefix: String },
    /// A query parameter.
    Param(String),
    /// A cookie.
    Cookie(String),
}

impl Place {
    /// The places of a rule. Any place that is named switches all defaults off (`istio-api.md` 3.2).
    pub(crate) fn of(rule: &JwtRule) -> Vec<Self> {
        let header = |name: &str, prefix: &str| Self::Header { name: name.into(), prefix: prefix.into() };
        let headers = rule.from_headers.iter().map(|from| header(&from.name, &from.prefix));
        let params = rule.from_params.iter().cloned().map(Self::Param);
        let cookies = rule.from_cookies.iter().cloned().map(Self::Cookie);
        let named: Vec<Self> = headers.chain(params).chain(cookies).collect();
        if named.is_empty() {
            return vec![header("authorization", "Bearer "), Self::Param("access_token".into())];
        }
        named
    }
}

/// Number of a place in [`Places`].
pub(crate) type PlaceId = usize;

/// A token, and where it was found.
pub(crate) struct Found<'r> {
    pub(crate) place: PlaceId,
    pub(crate) token: Cow<'r, [u8]>,
}

/// All places of all rules, each looked at once per request.
#[derive(Debug, Default)]
pub(crate) struct Places {
    places: Vec<Place>,
    /// Sorted by name: a search costs the logarithm of their number.
    headers: Vec<(String, PlaceId)>,
    /// The lengths of their names, a bit each (64 and more share one): most headers are passed over by it.
    header_lengths: u64,
    params: Vec<(String, PlaceId)>,
    cookies: Vec<(String, PlaceId)>,
}

impl Places {
    /// The number of a place, which is new or known.
    pub(crate) fn number(&mut self, place: Place) -> PlaceId {
        if let Some(known) = self.places.iter().position(|known| *known == place) {
            return known;
        }
        let id = self.places.len();
        let (names, name) = match &place {
            Place::Header { name, .. } => (&mut self.headers, name),
            Place::Param(name) => (&mut self.params, name),
            Place::Cookie(name) => (&mut self.cookies, name),
        };
        let at = names.partition_point(|(known, _)| known <= name);
        names.insert(at, (name.clone(), id));
        if let Place::Header { name, .. } = &place {
            self.header_lengths |= length_bit(name.as_bytes());
        }
        self.places.push(place);
        id
    }

    /// The place of a number.
    pub(crate) fn place(&self, id: PlaceId) -> Option<&Place> {
        self.places.get(id)
    }

    /// Every token of a request: of headers first, then of query parameters, then of cookies, as Envoy orders them.
    pub(crate) fn find<'r>(&self, headers: &'r HeaderBlock) -> Vec<Found<'r>> {
        let mut found = Vec::new();
        for (name, value) in headers.iter().filter(|(name, _)| self.header_lengths & length_bit(name) != 0) {
            for id in named(&self.headers, name) {
                if let Some(Place::Header { prefix, .. }) = self.places.get(id)
                    && let Some(token) = after_prefix(value, prefix.as_bytes())
                {
                    found.push(Found { place: id, token: Cow::Borrowed(token) });
                }
            }
        }
        if !self.params.is_empty() {
            self.find_params(headers.first(":path").unwrap_or_default(), &mut found);
        }
        if !self.cookies.is_empty() {
            headers.all("cookie").for_each(|cookies| self.find_cookies(cookies, &mut found));
        }
        found
    }

    /// The first occurrence of each parameter, percent-decoded.
    fn find_params<'r>(&self, target: &'r [u8], found: &mut Vec<Found<'r>>) {
        for piece in query(target).split(|byte| *byte == b'&') {
            let (key, value) = split_pair(piece);
            for id in named(&self.params, &percent_decoded(key)) {
                if !found.iter().any(|earlier| earlier.place == id) {
                    found.push(Found { place: id, token: percent_decoded(value) });
                }
            }
        }
    }

    /// The first occurrence of each cookie, without the double quotes around its value.
    fn find_cookies<'r>(&self, cookies: &'r [u8], found: &mut Vec<Found<'r>>) {
        for piece in cookies.split(|byte| *byte == b';') {
            let (key, value) = split_pair(piece.trim_ascii());
            let unquoted = value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\""));
            for id in named(&self.cookies, key) {
                if !found.iter().any(|earlier| earlier.place == id) {
                    found.push(Found { place: id, token: Cow::Borrowed(unquoted.unwrap_or(value)) });
                }
            }
        }
    }
}

fn length_bit(name: &[u8]) -> u64 {
    1 << name.len().min(63)
}

/// The places with this name.
fn named<'p>(names: &'p [(String, PlaceId)], name: &[u8]) -> impl Iterator<Item = PlaceId> + use<'p> {
    let start = names.partition_point(|(known, _)| known.as_bytes() < name);
    let end = names.partition_point(|(known, _)| known.as_bytes() <= name);
    names.get(start..end).unwrap_or_default().iter().map(|(_, id)| *id)
}

/// What stands after a prefix, which is looked for anywhere in the value; letters that no token has are skipped after
/// it, as Envoy does. A value without the prefix holds no token.
fn after_prefix<'v>(value: &'v [u8], prefix: &[u8]) -> Option<&'v [u8]> {
    if prefix.is_empty() {
        return Some(value);
    }
    let at = value.windows(prefix.len()).position(|window| window == prefix)?;
    let rest = value.get(at + prefix.len()..)?;
    // Nothing but other letters: the rest is what was sent as a token, and will be refused.
    let start = rest.iter().position(|byte| of_token(*byte)).unwrap_or(0);
    rest.get(start..)
}

/// The letters of base64url, and the dot.
fn of_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')
}

/// The query of a request target; empty when it has none.
fn query(target: &[u8]) -> &[u8] {
    let after = target.iter().position(|byte| *byte == b'?').and_then(|mark| target.get(mark + 1..));
    let query = after.unwrap_or_default();
    let end = query.iter().position(|byte| *byte == b'#').unwrap_or(query.len());
    query.get(..end).unwrap_or(query)
}

fn split_pair(piece: &[u8]) -> (&[u8], &[u8]) {
    let at = piece.iter().position(|byte| *byte == b'=').unwrap_or(piece.len());
    (piece.get(..at).unwrap_or_default(), piece.get(at + 1..).unwrap_or_default())
}

/// Decodes `%XX`; anything else stays as it is.
fn percent_decoded(text: &[u8]) -> Cow<'_, [u8]> {
    if !text.contains(&b'%') {
        return Cow::Borrowed(text);
    }
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, tail)) = rest.split_first() {
        let decoded = (*first == b'%').then(|| tail.split_first_chunk::<2>()).flatten();
        match decoded.and_then(|([high, low], tail)| Some((hex(*high)? * 16 + hex(*low)?, tail))) {
            Some((byte, tail)) => {
                out.push(byte);
                rest = tail;
            }
            None => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    Cow::Owned(out)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// A request target without all occurrences of some query parameters; the others stay byte for byte.
pub(crate) fn without_params(target: &[u8], names: &[&str]) -> Vec<u8> {
    let query = query(target);
    let Some(start) = target.iter().position(|byte| *byte == b'?') else { return target.to_vec() };
    let kept: Vec<&[u8]> = query
        .split(|byte| *byte == b'&')
        .filter(|piece| {
            let key = percent_decoded(split_pair(piece).0);
            !names.iter().any(|name| name.as_bytes() == key.as_ref())
        })
        .collect();
    let mut out = target.get(..start).unwrap_or_default().to_vec();
    if !kept.is_empty() {
        out.push(b'?');
        out.extend_from_slice(&kept.join(&b'&'));
    }
    out.extend_from_slice(target.get(start + 1 + query.len()..).unwrap_or_default());
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn places(list: &[Place]) -> Places {
        let mut places = Places::default();
        for place in list {
            places.number(place.clone());
        }
        places
    }

    fn header(name: &str, prefix: &str) -> Place {
        Place::Header { name: name.into(), prefix: prefix.into() }
    }

    fn found(list: &[Place], headers: &[(&str, &str)]) -> Vec<(usize, String)> {
        let block = HeaderBlock::from_pairs(headers.iter().copied());
        let found = places(list).find(&block);
        found.iter().map(|found| (found.place, String::from_utf8(found.token.to_vec()).unwrap())).collect()
    }

    #[test]
    fn prefixes_are_found_anywhere_and_other_letters_skipped_after_them() {
        for (prefix, value, token) in [
            ("Bearer ", "Bearer a.b.c", Some("a.b.c")),
            ("Bearer ", "Bearer   a.b.c", Some("a.b.c")),
            ("Bearer ", "bearer a.b.c", None),
            ("Bearer ", "Bearer-invalid", None),
            ("Bearer ", "Bearer ", Some("")),
            ("Bearer ", "Bearer \"", Some("\"")),
            ("CCCDDD", "preamble CCCDDD=jwt_token,extra=more", Some("jwt_token,extra=more")),
            ("", "  a.b.c", Some("  a.b.c")),
            ("", "", Some("")),
        ] {
            let expected: Vec<_> = token.map(|token| (0, token.to_owned())).into_iter().collect();
            assert_eq!(found(&[header("h", prefix)], &[("h", value)]), expected, "{prefix}|{value}");
        }
    }

    #[test]
    fn one_header_serves_several_places_and_repeats_are_several_tokens() {
        let list = [header("p", "AAA"), header("p", "AAABBB")];
        assert_eq!(
            found(&list, &[("p", "AAABBBjwt"), ("q", "AAAx")]),
            [(0, "BBBjwt".into()), (1, "jwt".into())]
        );
        assert_eq!(found(&[header("t", "")], &[("t", "a"), ("t", "b")]), [(0, "a".into()), (0, "b".into())]);
    }

    #[test]
    fn parameters_are_decoded_and_the_first_of_a_name_counts() {
        let list = [Place::Param("t".into()), Place::Param("é".into())];
        for (path, tokens) in [
            ("/?t=a.b", vec![(0, "a.b")]),
            ("/?x=1&t=a%2Eb&t=c", vec![(0, "a.b")]),
            ("/?%74=a", vec![(0, "a")]),
            ("/?%c3%a9=a%", vec![(1, "a%")]),
            ("/?t", vec![(0, "")]),
            ("/?tt=a&T=b", vec![]),
            ("/t=a", vec![]),
            ("/?x=#t=a", vec![]),
            ("", vec![]),
        ] {
            let expected: Vec<_> =
                tokens.into_iter().map(|(place, token)| (place, token.to_owned())).collect();
            assert_eq!(found(&list, &[(":path", path)]), expected, "{path}");
        }
    }

    #[test]
    fn cookies_lose_their_quotes() {
        let list = [Place::Cookie("a".into()), Place::Cookie("b".into())];
        let headers = [("cookie", "x=1; a=t1;b=\"t2\""), ("cookie", "a=second")];
        assert_eq!(found(&list, &headers), [(0, "t1".into()), (1, "t2".into())]);
        assert_eq!(found(&list, &[("cookie", "a=\"open; aa=x")]), [(0, "\"open".into())]);
    }

    #[test]
    fn targets_lose_the_named_parameters_only() {
        for (target, kept) in [
            ("/p?t=a", "/p"),
            ("/p?t=a&x=1", "/p?x=1"),
            ("/p?x=%31&t=a&y&t=b", "/p?x=%31&y"),
            ("/p?%74=a&tt=b", "/p?tt=b"),
            ("/p?x=1#t=a", "/p?x=1#t=a"),
            ("/p", "/p"),
            ("/p?", "/p?"),
        ] {
            let left = without_params(target.as_bytes(), &["t"]);
            assert_eq!(String::from_utf8(left).unwrap(), kept, "{target}");
        }
    }

    #[test]
    fn no_bytes_panic() {
        let list = [header("h", "Bearer "), Place::Param("t".into()), Place::Cookie("c".into())];
        for value in [b"\xff\xfe".as_slice(), b"%", b"%f", b"%ff%", b"t=%zz", b"?&&=;=\"", b"Bearer \xff"] {
            let block = HeaderBlock::from_pairs([("h", value), (":path", value), ("cookie", value)]);
            places(&list).find(&block);
            without_params(value, &["t"]);
        }
    }
}
