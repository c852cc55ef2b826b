//! One compiled rule: whom it counts, as whom, and for how much.

use std::borrow::Cow;
use std::collections::HashMap;
use std::hash::Hasher;
use std::net::IpAddr;
use std::time::Duration;

use sailcloth_core::decision::Reason;
use sailcloth_core::key::{KeyPart, Part};
use sailcloth_core::operation::OperationMatcher;
use sailcloth_core::request::Request;
use sailcloth_core::siphash::Sip;
use sailcloth_resources::deny_reply::DenyReply;
use sailcloth_resources::rate_limit::{Cost, KeyItem, MissingKey, ResponseCost, Unlisted};

use crate::tier::{Claim, Tier};
use crate::{Moment, Reasons, rls};

/// Longer values go into a descriptor as their hash: a service stores them, and some have a limit of their own.
const LONGEST_VALUE: usize = 256;

/// A compiled rule.
#[derive(Debug)]
pub(crate) struct Rule {
    /// `namespace/name` of the resource.
    pub(crate) policy: String,
    /// Index in the resource.
    pub(crate) number: u32,
    /// Its name in `RateLimit` and `RateLimit-Policy`.
    pub(crate) label: String,
    pub(crate) to: Vec<OperationMatcher>,
    pub(crate) key: Vec<KeyItem>,
    pub(crate) cost: Cost,
    pub(crate) missing: MissingKey,
    pub(crate) shadow: bool,
    pub(crate) deny: DenyReply,
    pub(crate) bound: Bound,
}

/// Who keeps count.
#[derive(Debug)]
pub(crate) enum Bound {
    Local(Table),
    Global(Remote),
}

/// The limits of a rule, and which keys have which.
#[derive(Debug)]
pub(crate) struct Table {
    /// The rule's own first.
    pub(crate) tiers: Vec<Tier>,
    /// Those with the fewest `*` first.
    pub(crate) listed: Vec<Listed>,
    pub(crate) unlisted: Unlisted,
}

/// Keys with a limit of their own, of one pattern of `*`.
#[derive(Debug)]
pub(crate) struct Listed {
    pub(crate) any: Vec<bool>,
    /// By the values without those of `*`.
    pub(crate) tiers: HashMap<Vec<u8>, usize>,
}

/// A rule that a rate limit service counts.
#[derive(Debug)]
pub(crate) struct Remote {
    /// Number of the service.
    pub(crate) service: usize,
    pub(crate) domain: String,
    pub(crate) timeout: Duration,
    /// The names of the descriptor's entries.
    pub(crate) entries: Vec<String>,
    pub(crate) fallback: Fallback,
}

/// What becomes of a request that the service gives no answer for.
#[derive(Debug)]
pub(crate) enum Fallback {
    Allow,
    Deny,
    Local(Tier),
}

/// What a rule says about a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Within(Reason),
    /// `retry_after` in nanoseconds; `None` where waiting does not help.
    Over {
        reason: Reason,
        retry_after: Option<u64>,
    },
    Failed(Reason),
}

/// A request that a rule counts.
pub(crate) struct Counted<'r> {
    pub(crate) parts: Vec<Part<'r>>,
    pub(crate) cost: u32,
}

impl Rule {
    /// The paths outside of which it never matches, if there are any.
    pub(crate) fn exact_paths(&self) -> Option<Vec<&str>> {
        let paths: Option<Vec<Vec<&str>>> = self.to.iter().map(OperationMatcher::exact_paths).collect();
        paths.map(|paths| paths.concat()).filter(|paths| !paths.is_empty())
    }

    /// Whether it looks at request headers.
    pub(crate) fn reads_headers(&self) -> bool {
        let by_headers = |item: &KeyItem| match item.part {
            KeyPart::Header(_) | KeyPart::Cookie(_) | KeyPart::QueryParameter(_) | KeyPart::Method => true,
            KeyPart::Claim(_)
            | KeyPart::SourceIp { .. }
            | KeyPart::Principal
            | KeyPart::RequestPrincipal
            | KeyPart::Constant(_) => false,
        };
        !self.to.is_empty() || matches!(self.cost, Cost::Header { .. }) || self.key.iter().any(by_headers)
    }

    /// Whether it counts a request. `Ok(None)`: it does not match. `Err`: it matches, and what it says needs no bucket.
    pub(crate) fn count<'r>(&'r self, request: &Request<'r>) -> Result<Option<Counted<'r>>, Verdict> {
        if !self.matches(request).map_err(Verdict::Failed)? {
            return Ok(None);
        }
        let mut parts = Vec::with_capacity(self.key.len());
        for item in &self.key {
            let part = item.part.read(request).map_err(|unknown| Verdict::Failed(Reasons::of(unknown)))?;
            if part == Part::Missing && self.missing == MissingKey::Skip {
                return Err(Verdict::Within(Reasons::SKIPPED));
            }
            parts.push(part);
        }
        let cost = self.cost_of(request)?;
        Ok(Some(Counted { parts, cost }))
    }

    fn matches(&self, request: &Request<'_>) -> Result<bool, Reason> {
        if self.to.is_empty() {
            return Ok(true);
        }
        for operation in &self.to {
            if operation.matches(request).map_err(|_| Reasons::NO_PORT)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What is taken when the request comes.
    fn cost_of(&self, request: &Request<'_>) -> Result<u32, Verdict> {
        let (name, default, max) = match &self.cost {
            Cost::Fixed(cost) => return Ok(*cost),
            Cost::Response(_) => return Ok(1),
            Cost::Header { name, default, max } => (name, *default, max.unwrap_or(u32::MAX)),
        };
        let mut values = request.headers.all(name);
        let cost = match (values.next(), values.next()) {
            (None, _) => return Ok(default),
            (Some(value), None) => whole_number(value),
            (Some(_), Some(_)) => None,
        };
        match cost {
            // Nothing is free: a client that says 0 would never be limited.
            Some(cost) if cost <= max => Ok(cost.max(1)),
            Some(_) => Err(Verdict::Over { reason: Reasons::TOO_LARGE, retry_after: None }),
            None => Err(Verdict::Failed(Reasons::COST_UNREADABLE)),
        }
    }
}

/// What a response costs.
pub(crate) fn response_cost(
    cost: &ResponseCost,
    status: Option<u16>,
    mut values: impl Iterator<Item = Vec<u8>>,
    burst: u32,
) -> u32 {
    let counts = |status| cost.statuses.iter().any(|statuses| statuses.contains(status));
    if !cost.statuses.is_empty() && !status.is_some_and(counts) {
        return 0;
    }
    let said = match (values.next(), values.next()) {
        (Some(value), None) => whole_number(&value),
        _ => None,
    };
    said.unwrap_or(cost.default).min(cost.max.unwrap_or(burst))
}

/// Digits and nothing else; what no `u32` holds is its greatest.
fn whole_number(text: &[u8]) -> Option<u32> {
    let text = text.trim_ascii();
    if text.is_empty() || text.len() > 20 {
        return None;
    }
    text.iter().try_fold(0_u32, |number, digit| {
        let digit = digit.is_ascii_digit().then(|| u32::from(digit - b'0'))?;
        Some(number.saturating_mul(10).saturating_add(digit))
    })
}

impl Counted<'_> {
    /// The hash of the request's key; it places the client and is its name in the row.
    pub(crate) fn claim(&self, moment: Moment) -> Claim {
        let mut hash = Sip::new(moment.seed.0);
        self.parts.iter().for_each(|part| part.feed(&mut hash));
        Claim { tag: hash.finish(), cost: self.cost }
    }
}

impl Table {
    /// The limit of a request, and its client there.
    pub(crate) fn find(&self, counted: &Counted<'_>, moment: Moment) -> Option<(usize, &Tier, Claim)> {
        let claim = counted.claim(moment);
        for listed in &self.listed {
            if let Some(number) = listed.values(&counted.parts).and_then(|values| listed.tiers.get(&values)) {
                return self.tiers.get(*number).map(|tier| (*number, tier, claim));
            }
        }
        let tier = self.tiers.first()?;
        if self.listed.is_empty() || self.unlisted == Unlisted::Separate {
            return Some((0, tier, claim));
        }
        // No list of parts feeds this.
        let mut hash = Sip::new(moment.seed.0);
        hash.write_u8(u8::MAX);
        Some((0, tier, Claim { tag: hash.finish(), cost: claim.cost }))
    }
}

impl Listed {
    /// The values of a request's key that are not `*`; `None` where one of them is not there.
    fn values(&self, parts: &[Part<'_>]) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        for (part, _) in parts.iter().zip(&self.any).filter(|(_, any)| !**any) {
            let Part::Value(value) = part else { return None };
            push_value(&mut out, value);
        }
        Some(out)
    }
}

/// Appends a value so that no two lists of values are the same bytes.
pub(crate) fn push_value(out: &mut Vec<u8>, value: &[u8]) {
    out.extend_from_slice(&value.len().to_le_bytes());
    out.extend_from_slice(value);
}

impl Remote {
    /// The descriptor of a request. A part that is not there, or there twice, is an entry without a value: where the
    /// entry were missing, the service would have no limit for it, and leaving a header out would escape.
    pub(crate) fn descriptor(&self, items: &[KeyItem], counted: &Counted<'_>) -> Vec<u8> {
        let values = items.iter().zip(&counted.parts).map(|(item, part)| match part {
            Part::Value(value) => text(&item.part, value),
            Part::Ambiguous(_) | Part::Missing => String::new(),
        });
        rls::descriptor(self.entries.iter().map(String::as_str).zip(values))
    }
}

/// A value as a descriptor's text. Protobuf's strings are UTF-8: other bytes are escaped.
fn text(part: &KeyPart, value: &[u8]) -> String {
    if let KeyPart::SourceIp { prefix, prefix_v6 } = part {
        return network(value, *prefix, *prefix_v6);
    }
    if value.len() > LONGEST_VALUE {
        return hashed(value);
    }
    match std::str::from_utf8(value) {
        Ok(text) => text.to_owned(),
        Err(_) => escaped(value).into_owned(),
    }
}

/// An address, or a network as `10.0.0.0/24`.
fn network(value: &[u8], prefix: u8, prefix_v6: u8) -> String {
    let (address, bits, whole) = if let Ok(bytes) = <[u8; 4]>::try_from(value) {
        (IpAddr::from(bytes), prefix, 32)
    } else if let Ok(bytes) = <[u8; 16]>::try_from(value) {
        (IpAddr::from(bytes), prefix_v6, 128)
    } else {
        return String::new();
    };
    if bits == whole { address.to_string() } else { format!("{address}/{bits}") }
}

/// The same in every Envoy, since all of them ask the same service: so the hash has no secret. Who can find a value of the
/// same hash knows the other value, and could use that.
fn hashed(value: &[u8]) -> String {
    let half = |key| {
        let mut hash = Sip::new([key, 0]);
        hash.write(value);
        hash.finish()
    };
    format!("hash:{:016x}{:016x}", half(1), half(2))
}

fn escaped(value: &[u8]) -> Cow<'_, str> {
    let mut out = String::with_capacity(value.len() * 3);
    for byte in value {
        match byte {
            b'%' | 0..=0x1f | 0x7f..=0xff => out.push_str(&format!("%{byte:02X}")),
            byte => out.push(char::from(*byte)),
        }
    }
    Cow::Owned(out)
}
