//! The messages of `envoy.service.ratelimit.v3.RateLimitService`, method `ShouldRateLimit`.
//!
//! ```text
//! RateLimitRequest    { string domain = 1; repeated RateLimitDescriptor descriptors = 2; uint32 hits_addend = 3 }
//! RateLimitDescriptor { repeated Entry entries = 1 }          Entry { string key = 1; string value = 2 }
//! RateLimitResponse   { Code overall_code = 1; repeated DescriptorStatus statuses = 2;
//!                       repeated HeaderValue response_headers_to_add = 3; repeated HeaderValue request_headers_to_add = 4;
//!                       bytes raw_body = 5 }
//! DescriptorStatus    { Code code = 1; RateLimit current_limit = 2; uint32 limit_remaining = 3; Duration duration_until_reset = 4 }
//! RateLimit           { uint32 requests_per_unit = 1; Unit unit = 2; string name = 3 }
//! HeaderValue         { string key = 1; string value = 2; bytes raw_value = 3 }        Code { UNKNOWN = 0, OK = 1, OVER_LIMIT = 2 }
//! ```

use sailcloth_core::protobuf::{Field, read_field, write_bytes, write_number};

/// The protobuf service, with its package.
pub const SERVICE: &str = "envoy.service.ratelimit.v3.RateLimitService";
/// Its only method.
pub const METHOD: &str = "ShouldRateLimit";

/// What a service says to one descriptor or to all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    Within,
    Over,
}

/// A response, as far as it has a use here.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) overall: Option<Code>,
    pub(crate) statuses: Vec<Status>,
    pub(crate) response_headers: Vec<(String, Vec<u8>)>,
    pub(crate) request_headers: Vec<(String, Vec<u8>)>,
    pub(crate) body: Vec<u8>,
}

/// What a service says to one descriptor.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Status {
    pub(crate) code: Option<Code>,
    /// Requests and, where the unit has a length that is always the same, its seconds.
    pub(crate) limit: Option<(u32, Option<u32>)>,
    pub(crate) remaining: u32,
    /// Seconds until the limit begins anew.
    pub(crate) reset: u64,
}

/// An encoded descriptor of these entries.
pub(crate) fn descriptor<'e>(entries: impl Iterator<Item = (&'e str, String)>) -> Vec<u8> {
    let mut out = Vec::new();
    for (key, value) in entries {
        let mut entry = Vec::with_capacity(key.len() + value.len() + 8);
        write_bytes(&mut entry, 1, key.as_bytes());
        write_bytes(&mut entry, 2, value.as_bytes());
        write_bytes(&mut out, 1, &entry);
    }
    out
}

/// An encoded request.
pub(crate) fn request<'d>(
    domain: &str,
    descriptors: impl Iterator<Item = &'d [u8]>,
    hits_addend: u32,
) -> Vec<u8> {
    let mut out = Vec::new();
    write_bytes(&mut out, 1, domain.as_bytes());
    descriptors.for_each(|descriptor| write_bytes(&mut out, 2, descriptor));
    // 1 is what the absence of the field means.
    if hits_addend != 1 {
        write_number(&mut out, 3, u64::from(hits_addend));
    }
    out
}

/// Reads a response; `None` when the bytes are not one.
pub(crate) fn response(mut bytes: &[u8]) -> Option<Response> {
    let mut response = Response::default();
    while !bytes.is_empty() {
        match read_field(&mut bytes)? {
            (1, Field::Varint(raw)) => response.overall = code(raw),
            (2, Field::Bytes(inner)) => response.statuses.push(status(inner)?),
            (3, Field::Bytes(inner)) => response.response_headers.extend(header(inner)?),
            (4, Field::Bytes(inner)) => response.request_headers.extend(header(inner)?),
            (5, Field::Bytes(body)) => response.body = body.to_vec(),
            (1..=5, _) => return None,
            _ => {}
        }
    }
    Some(response)
}

fn code(raw: u64) -> Option<Code> {
    match raw {
        1 => Some(Code::Within),
        2 => Some(Code::Over),
        _ => None,
    }
}

fn status(mut bytes: &[u8]) -> Option<Status> {
    let mut status = Status::default();
    while !bytes.is_empty() {
        match read_field(&mut bytes)? {
            (1, Field::Varint(raw)) => status.code = code(raw),
            (2, Field::Bytes(inner)) => status.limit = Some(limit(inner)?),
            (3, Field::Varint(remaining)) => status.remaining = u32::try_from(remaining).unwrap_or(u32::MAX),
            (4, Field::Bytes(inner)) => status.reset = duration(inner)?,
            (1..=4, _) => return None,
            _ => {}
        }
    }
    Some(status)
}

fn limit(mut bytes: &[u8]) -> Option<(u32, Option<u32>)> {
    let (mut requests, mut seconds) = (0, None);
    while !bytes.is_empty() {
        match read_field(&mut bytes)? {
            (1, Field::Varint(number)) => requests = u32::try_from(number).ok()?,
            (2, Field::Varint(unit)) => {
                seconds = match unit {
                    1 => Some(1),
                    2 => Some(60),
                    3 => Some(3600),
                    4 => Some(24 * 3600),
                    7 => Some(7 * 24 * 3600),
                    // Months (5) and years (6) are of different lengths.
                    _ => None,
                }
            }
            _ => {}
        }
    }
    Some((requests, seconds))
}

/// Whole seconds, rounded up: a client that waits that long does not come too early.
fn duration(mut bytes: &[u8]) -> Option<u64> {
    let (mut seconds, mut more) = (0, false);
    while !bytes.is_empty() {
        match read_field(&mut bytes)? {
            (1, Field::Varint(number)) => seconds = number,
            (2, Field::Varint(nanoseconds)) => more = nanoseconds != 0,
            _ => {}
        }
    }
    // A negative one is a varint of ten bytes.
    Some(if i64::try_from(seconds).is_err() { 0 } else { seconds.saturating_add(u64::from(more)) })
}

/// A header that may be set: no pseudo header, no name or value that would break the message.
fn header(mut bytes: &[u8]) -> Option<Option<(String, Vec<u8>)>> {
    let (mut key, mut value) = (None, Vec::new());
    while !bytes.is_empty() {
        match read_field(&mut bytes)? {
            (1, Field::Bytes(text)) => key = std::str::from_utf8(text).ok(),
            (2 | 3, Field::Bytes(text)) if !text.is_empty() => value = text.to_vec(),
            _ => {}
        }
    }
    let fine = |key: &&str| {
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        !key.is_empty() && key.bytes().all(token) && !key.eq_ignore_ascii_case("host")
    };
    let clean = !value.iter().any(|byte| matches!(byte, 0 | b'\r' | b'\n'));
    Some(key.filter(fine).filter(|_| clean).map(|key| (key.to_ascii_lowercase(), value)))
}
