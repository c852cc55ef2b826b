//! Header values with Envoy's substitution commands
//! (<https://www.envoyproxy.io/docs/envoy/latest/configuration/observability/access_log/usage#command-operators>).
//!
//! A filter can carry out those that are about the request and its connection; the others are refused by name.

use std::borrow::Cow;
use std::fmt::Write as _;

use sailcloth_core::config::did_you_mean;
use sailcloth_core::facts::Fact;

use crate::edit::Edited;

/// A value, ready to be computed.
#[derive(Debug, Clone)]
pub(crate) struct Template(Vec<Part>);

#[derive(Debug, Clone)]
enum Part {
    Text(String),
    /// `%REQ(a?b):10%`: of the first header of these that is there, at most so many bytes.
    Header {
        name: String,
        other: Option<String>,
        max: usize,
    },
    /// An attribute that is text.
    Attribute(&'static [&'static str]),
    /// The name that the client wrote into its TLS hello.
    ServerName,
    /// An attribute `address:port`, without the port.
    Address(&'static [&'static str]),
    /// The address of the TCP peer.
    Peer,
    /// The port that the connection was made to.
    LocalPort,
    /// When the request came, as `2018-12-18T01:50:34.000Z`.
    StartTime,
}

/// Something asked for could not be known; the request cannot be carried out as written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unavailable;

/// How commands of Envoy's begin that say what is not known when a request goes on, or what no attribute shows.
const OTHERS: [&str; 16] = [
    "HOSTNAME",
    "RESP",
    "TRAILER",
    "REQUEST_DURATION",
    "DURATION",
    "COMMON_DURATION",
    "BYTES_",
    "UPSTREAM_",
    "DYNAMIC_METADATA",
    "CLUSTER_METADATA",
    "FILTER_STATE",
    "ROUTE_NAME",
    "CONNECTION_ID",
    "STREAM_ID",
    "DOWNSTREAM_",
    "ENVIRONMENT",
];

/// Commands that are carried out.
const KNOWN: [&str; 12] = [
    "REQ",
    "PROTOCOL",
    "START_TIME",
    "REQUESTED_SERVER_NAME",
    "DOWNSTREAM_REMOTE_ADDRESS",
    "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
    "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT",
    "DOWNSTREAM_LOCAL_ADDRESS",
    "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT",
    "DOWNSTREAM_LOCAL_PORT",
    "DOWNSTREAM_PEER_URI_SAN",
    "DOWNSTREAM_LOCAL_URI_SAN",
];

impl Template {
    /// Reads a value; the message says what is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut parts: Vec<Part> = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('%') {
            literal.push_str(before);
            if let Some(after) = after.strip_prefix('%') {
                literal.push('%');
                rest = after;
                continue;
            }
            let (part, after) = command(after).map_err(|problem| {
                format!("`{text}` is not a header value: {problem}; a literal `%` is `%%`")
            })?;
            if !literal.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut literal)));
            }
            parts.push(part);
            rest = after;
        }
        literal.push_str(rest);
        if !literal.is_empty() || parts.is_empty() {
            parts.push(Part::Text(literal));
        }
        Ok(Self(parts))
    }

    /// The value for a request. What is not there is empty, as in Envoy.
    pub(crate) fn evaluate<'e>(&'e self, seen: &Edited<'_, 'e>) -> Result<Cow<'e, [u8]>, Unavailable> {
        if let [Part::Text(text)] = self.0.as_slice() {
            return Ok(Cow::Borrowed(text.as_bytes()));
        }
        let mut value = Vec::new();
        for part in &self.0 {
            part.write(seen, &mut value)?;
        }
        // Headers of a request have none of these; what a certificate says might.
        if value.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)) {
            return Err(Unavailable);
        }
        Ok(Cow::Owned(value))
    }
}

/// `NAME(argument):length%`
fn command(text: &str) -> Result<(Part, &str), String> {
    let length = text
        .bytes()
        .take_while(|byte| byte.is_ascii_uppercase() || *byte == b'_' || byte.is_ascii_digit())
        .count();
    let (name, mut rest) = text.split_at_checked(length).unwrap_or((text, ""));
    if name.is_empty() || name.starts_with(|first: char| first.is_ascii_digit()) {
        return Err("`%` is followed by no command".to_owned());
    }
    let mut argument = None;
    if let Some(inside) = rest.strip_prefix('(') {
        let (inside, after) = inside.split_once(')').ok_or_else(|| format!("`{name}(` has no `)`"))?;
        argument = Some(inside);
        rest = after;
    }
    let mut max = usize::MAX;
    if let Some(after) = rest.strip_prefix(':') {
        let digits = after.bytes().take_while(u8::is_ascii_digit).count();
        let (number, after) = after.split_at_checked(digits).unwrap_or((after, ""));
        max = number.parse().map_err(|_| format!("`{name}` has no length after `:`"))?;
        rest = after;
    }
    let rest = rest.strip_prefix('%').ok_or_else(|| format!("`%{name}` is not closed by `%`"))?;
    let part = part_of(name, argument, max)?;
    Ok((part, rest))
}

fn part_of(name: &str, argument: Option<&str>, max: usize) -> Result<Part, String> {
    if name == "REQ" {
        let names = argument.filter(|names| !names.is_empty()).ok_or("`REQ` needs the name of a header")?;
        let (first, other) =
            names.split_once('?').map_or((names, None), |(first, other)| (first, Some(other)));
        return Ok(Part::Header { name: header(first), other: other.map(header), max });
    }
    let part = match name {
        "PROTOCOL" => Part::Attribute(&["request", "protocol"]),
        "REQUESTED_SERVER_NAME" => Part::ServerName,
        "DOWNSTREAM_REMOTE_ADDRESS" => Part::Attribute(&["source", "address"]),
        "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => Part::Address(&["source", "address"]),
        "DOWNSTREAM_LOCAL_ADDRESS" => Part::Attribute(&["destination", "address"]),
        "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => Part::Address(&["destination", "address"]),
        "DOWNSTREAM_PEER_URI_SAN" => Part::Attribute(&["connection", "uri_san_peer_certificate"]),
        "DOWNSTREAM_LOCAL_URI_SAN" => Part::Attribute(&["connection", "uri_san_local_certificate"]),
        "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT" => Part::Peer,
        "DOWNSTREAM_LOCAL_PORT" => Part::LocalPort,
        "START_TIME" => Part::StartTime,
        _ if OTHERS.iter().any(|start| name.starts_with(start)) => {
            return Err(format!(
                "`%{name}%` is not supported by a filter; use `request_headers_to_add` or \
                 `response_headers_to_add` of the native route"
            ));
        }
        _ => {
            return Err(format!("`{name}` is no command of Envoy{}", did_you_mean(name, &KNOWN)));
        }
    };
    match argument {
        Some(_) => Err(format!("`{name}(…)` is not supported by a filter; write it without an argument")),
        None if max != usize::MAX => Err(format!("`{name}` takes no length")),
        None => Ok(part),
    }
}

fn header(name: &str) -> String {
    let lower = name.to_ascii_lowercase();
    if lower == "host" { ":authority".to_owned() } else { lower }
}

impl Part {
    fn write(&self, seen: &Edited<'_, '_>, out: &mut Vec<u8>) -> Result<(), Unavailable> {
        let facts = &seen.request.facts;
        let attribute = |path| match facts.property(path) {
            Fact::Known(text) => Ok(text),
            Fact::Absent => Ok(Vec::new()),
            Fact::Unavailable(_) => Err(Unavailable),
        };
        match self {
            Self::Text(text) => out.extend_from_slice(text.as_bytes()),
            Self::Header { name, other, max } => {
                let value = seen.first(name).or_else(|| seen.first(other.as_deref()?)).unwrap_or_default();
                out.extend_from_slice(value.get(..*max).unwrap_or(value));
            }
            Self::Attribute(path) => out.extend(attribute(path)?),
            Self::ServerName => out.extend(server_name(attribute(&["connection", "requested_server_name"])?)),
            Self::Address(path) => {
                let address = attribute(path)?;
                let colon = address.iter().rposition(|byte| *byte == b':').unwrap_or(address.len());
                let bare = address.get(..colon).unwrap_or(&address);
                // Envoy writes a version 6 address without brackets here.
                let bare = bare.strip_prefix(b"[").and_then(|rest| rest.strip_suffix(b"]")).unwrap_or(bare);
                out.extend_from_slice(bare);
            }
            Self::Peer => match facts.peer_address() {
                Fact::Known(address) => out.extend(address.to_string().bytes()),
                Fact::Absent => {}
                Fact::Unavailable(_) => return Err(Unavailable),
            },
            Self::LocalPort => match facts.destination_port() {
                Fact::Known(port) => out.extend(port.to_string().bytes()),
                Fact::Absent => {}
                Fact::Unavailable(_) => return Err(Unavailable),
            },
            Self::StartTime => {
                let raw = attribute(&["request", "time"])?;
                let nanoseconds = sailcloth_core::facts::integer(&raw).ok_or(Unavailable)?;
                out.extend(timestamp(nanoseconds).bytes());
            }
        }
        Ok(())
    }
}

/// A client may write any bytes there, a line's end too: as Envoy writes a name that is none (`sanitizeInvalidHostname`).
fn server_name(mut name: Vec<u8>) -> Vec<u8> {
    let is_allowed = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
    if name.iter().all(is_allowed) {
        return name;
    }
    name.iter_mut().filter(|byte| !is_allowed(byte)).for_each(|byte| *byte = b'_');
    [b"invalid:", name.as_slice()].concat()
}

/// ISO 8601 in UTC with milliseconds, Envoy's default for `%START_TIME%`.
fn timestamp(nanoseconds: i64) -> String {
    let milliseconds = nanoseconds.div_euclid(1_000_000);
    let (seconds, fraction) = (milliseconds.div_euclid(1000), milliseconds.rem_euclid(1000));
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write!(
        text,
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{fraction:03}Z",
        second / 3600,
        second / 60 % 60,
        second % 60
    );
    text
}

/// Days since 1970-01-01 to year, month and day (Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let day_of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sailcloth_core::facts::{Facts, NoProperties, Properties, Sources};
    use sailcloth_core::headers::HeaderBlock;
    use sailcloth_core::request::Request;
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn values_are_computed() {
        let headers = HeaderBlock::from_pairs([(":path", "/a"), ("x", "12345"), (":authority", "h")]);
        let sources = Sources::default();
        let request = Request { headers: &headers, facts: Facts::new(&NoProperties, &sources) };
        let seen = Edited { request: &request, edits: &[] };
        for (text, value) in [
            ("", ""),
            ("plain", "plain"),
            ("100%%", "100%"),
            ("%%REQ(x)%%", "%REQ(x)%"),
            ("<%REQ(X)%>", "<12345>"),
            ("%REQ(x):3%%REQ(y?x):1%", "1231"),
            ("%REQ(y)%", ""),
            ("%REQ(Host)%%REQ(:path)%", "h/a"),
            ("%PROTOCOL%", ""),
        ] {
            let template = Template::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(template.evaluate(&seen).unwrap().as_ref(), value.as_bytes(), "{text}");
        }
    }

    struct Connection {
        server_name: &'static [u8],
        san: &'static [u8],
    }

    impl Properties for Connection {
        fn property(&self, path: &[&str]) -> Fact<Vec<u8>> {
            match path {
                ["connection", "requested_server_name"] => Fact::Known(self.server_name.to_vec()),
                ["connection", "uri_san_peer_certificate"] => Fact::Known(self.san.to_vec()),
                _ => Fact::Absent,
            }
        }
    }

    /// Nothing that a client says outside of its headers begins another header.
    #[test]
    fn no_value_ends_its_line() {
        let headers = HeaderBlock::from_pairs([(":path", "/a")]);
        let sources = Sources::default();
        for (server_name, san, text, value) in [
            (b"a.example".as_slice(), b"".as_slice(), "<%REQUESTED_SERVER_NAME%>", Ok("<a.example>")),
            (b"a\r\nx-admin: 1", b"", "%REQUESTED_SERVER_NAME%", Ok("invalid:a__x-admin__1")),
            (b"", b"", "<%REQUESTED_SERVER_NAME%>", Ok("<>")),
            (b"", b"spiffe://a/b", "%DOWNSTREAM_PEER_URI_SAN%", Ok("spiffe://a/b")),
            (b"", b"spiffe://a\nx: 1", "%DOWNSTREAM_PEER_URI_SAN%", Err(Unavailable)),
        ] {
            let connection = Connection { server_name, san };
            let request = Request { headers: &headers, facts: Facts::new(&connection, &sources) };
            let template = Template::parse(text).unwrap();
            let made = template.evaluate(&Edited { request: &request, edits: &[] });
            assert_eq!(made, value.map(|value| value.as_bytes().into()), "{text}");
        }
    }

    #[test]
    fn what_is_no_value_is_refused() {
        for text in
            ["%", "a%b", "%START_TIME%%", "abc%123", "%REQ(x%", "%REQ%", "%REQ()%", "%NONE%", "%PROTOCOL:3%"]
        {
            assert!(Template::parse(text).is_err(), "{text}");
        }
        let error = Template::parse("%RESPONSE_CODE%").unwrap_err();
        assert!(error.contains("`%RESPONSE_CODE%` is not supported"), "{error}");
    }

    #[test]
    fn times_are_written_as_envoy_writes_them() {
        for (nanoseconds, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (1_545_097_834_000_000_000, "2018-12-18T01:50:34.000Z"),
            (951_782_400_123_456_789, "2000-02-29T00:00:00.123Z"),
            (4_107_542_399_999_000_000, "2100-02-28T23:59:59.999Z"),
        ] {
            assert_eq!(timestamp(nanoseconds), text);
        }
    }
}
