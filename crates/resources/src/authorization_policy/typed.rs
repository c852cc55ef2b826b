//! What our own kind can ask of a value beside Istio's strings (`filters/authz/README.md`).

use std::cmp::Ordering;

use sailcloth_core::config::{Fields, Node, Value};
use sailcloth_core::regex::Regex;

use super::when::{Key, read_key};
use super::{Dialect, text};

/// Reads the typed tests of a `when`.
pub(super) struct Typed;

/// One typed test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TypedTest {
    /// `regexes`: the whole value matches one of them.
    Regexes(Vec<Regex>),
    /// `notRegexes`: no value matches one of them.
    NotRegexes(Vec<Regex>),
    /// `allOf`: each of these strings is among the values.
    AllOf(Vec<String>),
    /// `bool`: the claim is this truth value.
    Bool(bool),
    /// `number`: the claim is a number within these bounds.
    Number(Bounds<Decimal>),
    /// `timestamp`: the claim is a moment within these bounds.
    Timestamp(Bounds<Moment>),
    /// `equals`: the value is one of those of another key.
    Equals(Key),
    /// `notEquals`: no value is one of those of another key, as with `notValues` also where either is not there.
    NotEquals(Key),
}

/// Bounds, each of them part of what they bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds<T> {
    /// Not less than this.
    pub min: Option<T>,
    /// Not more than this.
    pub max: Option<T>,
}

/// A decimal number, compared as what it is.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Decimal(pub f64);

// A configuration never holds one that is not a number, so equality is what it should be.
impl Eq for Decimal {}

/// A moment: seconds since the Unix epoch, or the present with an offset in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Seconds since the Unix epoch.
    At(i64),
    /// Seconds after the present; before it where negative.
    Now(i64),
}

/// Only two of a form can be told apart without a clock.
impl PartialOrd for Moment {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::At(one), Self::At(other)) | (Self::Now(one), Self::Now(other)) => one.partial_cmp(other),
            _ => None,
        }
    }
}

impl Typed {
    /// Every typed test of the fields; `None` when one was written that could not be read.
    pub(super) fn read(fields: &Fields<'_>, key: Option<&Key>) -> Option<Vec<TypedTest>> {
        let is_list = matches!(key, Some(Key::Claim(_) | Key::Audiences));
        let is_claim = matches!(key, Some(Key::Claim(_)));
        let mut tests = Vec::new();
        let mut complete = true;
        let mut add =
            |name: &'static str, of_claims: bool, read: &dyn Fn(&Value<'_>) -> Option<TypedTest>| {
                let Some(value) = fields.get(name) else { return };
                if of_claims && key.is_some() && !is_claim {
                    value.error(format!("`{name}` goes with a key `request.auth.claims[…]`"));
                }
                match read(&value) {
                    Some(test) => tests.push(test),
                    None => complete = false,
                }
            };
        add("regexes", false, &|value| read_regexes(value).map(TypedTest::Regexes));
        add("notRegexes", false, &|value| read_regexes(value).map(TypedTest::NotRegexes));
        add("allOf", false, &|value| {
            if key.is_some() && !is_list {
                value.error(
                    "`allOf` goes with a claim or `request.auth.audiences`, which can have several values",
                );
            }
            if value.items()?.is_empty() {
                value.error("may not be empty; it would hold for every request");
            }
            value.list(|item| text(&item)).map(TypedTest::AllOf)
        });
        add("bool", true, &|value| value.boolean().map(TypedTest::Bool));
        add("number", true, &|value| read_bounds(value, ["min", "max"], read_number).map(TypedTest::Number));
        add("timestamp", true, &|value| {
            read_bounds(value, ["notBefore", "notAfter"], read_moment).map(TypedTest::Timestamp)
        });
        add("equals", false, &|value| read_key(value, Dialect::Ours).map(TypedTest::Equals));
        add("notEquals", false, &|value| read_key(value, Dialect::Ours).map(TypedTest::NotEquals));
        complete.then_some(tests)
    }
}

fn read_regexes(value: &Value<'_>) -> Option<Vec<Regex>> {
    if value.items()?.is_empty() {
        value.error("may not be empty");
    }
    value.list(|item| match Regex::new(item.non_empty_text()?) {
        Ok(regex) => Some(regex),
        Err(error) => {
            item.error(format!("is not a regular expression of RE2: {error}"));
            None
        }
    })
}

fn read_bounds<T: PartialOrd>(
    value: &Value<'_>,
    [min, max]: [&'static str; 2],
    read: impl Fn(&Value<'_>) -> Option<T>,
) -> Option<Bounds<T>> {
    let fields = value.fields()?;
    let bounds = Bounds {
        min: fields.get(min).and_then(|value| read(&value)),
        max: fields.get(max).and_then(|value| read(&value)),
    };
    if fields.get(min).is_none() && fields.get(max).is_none() {
        value.error(format!("needs at least one of `{min}` and `{max}`"));
    }
    if let (Some(low), Some(high)) = (&bounds.min, &bounds.max)
        && low > high
    {
        value.error(format!("`{min}` is above `{max}`, so nothing lies in between"));
    }
    Some(bounds)
}

/// A number, also one in quotes: Envoy hands a fraction in its YAML over as a text.
fn read_number(value: &Value<'_>) -> Option<Decimal> {
    let quoted = value.node().text().and_then(|text| Node::from_json(text.as_bytes()).ok());
    match quoted.as_ref().unwrap_or(value.node()) {
        Node::Float(number) => Some(Decimal(*number)),
        #[expect(clippy::cast_precision_loss, reason = "claims past 2^53 are doubles in JSON too")]
        Node::Integer(number) => Some(Decimal(*number as f64)),
        other => {
            value.error(format!("expected a number, found {}", other.kind()));
            None
        }
    }
}

/// `2026-01-31T12:00:00Z`, `now`, `now+1h30m`, `now-10s`.
fn read_moment(value: &Value<'_>) -> Option<Moment> {
    let text = value.non_empty_text()?;
    let moment = match text.strip_prefix("now") {
        Some("") => Some(Moment::Now(0)),
        Some(offset) => {
            offset.strip_prefix(['+', '-']).and_then(sailcloth_core::config::parse_duration).map(|duration| {
                let seconds = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
                Moment::Now(if offset.starts_with('-') { -seconds } else { seconds })
            })
        }
        None => rfc3339(text.as_bytes()).map(Moment::At),
    };
    if moment.is_none() {
        value.error(format!(
            "`{text}` is not a moment; expected a form like `2026-01-31T12:00:00Z`, `now` or `now-1h`"
        ));
    }
    moment
}

/// Seconds since the Unix epoch of a date and time of RFC 3339, fractions of a second dropped.
#[must_use]
pub fn rfc3339(text: &[u8]) -> Option<i64> {
    let number = |range: std::ops::Range<usize>| -> Option<i64> {
        let digits = text.get(range)?;
        digits.iter().try_fold(0_i64, |number, digit| {
            digit.is_ascii_digit().then(|| number * 10 + i64::from(*digit - b'0'))
        })
    };
    let is = |at: usize, expected: &[u8]| text.get(at).is_some_and(|byte| expected.contains(byte));
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    let shape = is(4, b"-") && is(7, b"-") && is(10, b"Tt ") && is(13, b":") && is(16, b":");
    let ranges =
        (1..=12).contains(&month) && (1..=31).contains(&day) && hour < 24 && minute < 60 && second <= 60;
    let mut rest = text.get(19..)?;
    if let Some(fraction) = rest.strip_prefix(b".") {
        let digits = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
        rest = fraction.get(digits..).filter(|_| digits > 0)?;
    }
    let offset = match rest {
        b"Z" | b"z" => 0,
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let two = |a: &u8, b: &u8| {
                (a.is_ascii_digit() && b.is_ascii_digit())
                    .then(|| i64::from(*a - b'0') * 10 + i64::from(*b - b'0'))
            };
            let seconds = two(h1, h2)? * 3600 + two(m1, m2)? * 60;
            if *sign == b'-' { -seconds } else { seconds }
        }
        _ => return None,
    };
    (shape && ranges).then(|| days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset)
}

/// Days from 1970-01-01 to a date of the Gregorian calendar: years are counted from March, so that the leap day is last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn moments_are_seconds_since_the_epoch() {
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2000-02-29T12:30:15Z", Some(951_827_415)),
            ("2026-11-23T03:08:00.5+01:00", Some(1_795_399_680)),
            ("1969-12-31T23:59:59z", Some(-1)),
            ("2026-13-01T00:00:00Z", None),
            ("2026-11-23", None),
            ("2026-11-23T03:08:00", None),
            ("x026-11-23T03:08:00Z", None),
            ("", None),
        ] {
            assert_eq!(rfc3339(text.as_bytes()), expected, "{text}");
        }
    }
}
