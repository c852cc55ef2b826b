//! Durations as Go and Istio write them: `1h`, `1m30s`, `250ms`.

use std::time::Duration;

/// Parses a Go duration of units `h`, `m`, `s`, `ms`, `us`, `ns`; no sign, no bare number (`0` aside).
#[must_use]
pub fn parse(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'.').count();
        let (number, tail) = rest.split_at_checked(digits)?;
        let letters = tail.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, tail) = tail.split_at_checked(letters)?;
        total = total.checked_add(times(number, nanoseconds(unit)?)?)?;
        rest = tail;
    }
    (!text.is_empty()).then(|| Duration::from_nanos(total))
}

/// A decimal number times a unit, in whole nanoseconds; what is less is dropped, as Go does. In integers: reading a
/// float would put 14 kB of tables into every module.
fn times(number: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
        return None;
    }
    let mut total = match whole {
        "" => 0,
        digits => digits.parse::<u64>().ok()?.checked_mul(unit)?,
    };
    let mut place = unit;
    for digit in fraction.bytes() {
        place /= 10;
        total = total.checked_add(u64::from(digit - b'0').checked_mul(place)?)?;
    }
    Some(total)
}

fn nanoseconds(unit: &str) -> Option<u64> {
    Some(match unit {
        "h" => 3_600_000_000_000,
        "m" => 60_000_000_000,
        "s" => 1_000_000_000,
        "ms" => 1_000_000,
        "us" => 1_000,
        "ns" => 1,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn go_durations_are_read() {
        for (text, milliseconds) in [
            ("1h", 3_600_000),
            ("1m30s", 90_000),
            ("10s", 10_000),
            ("250ms", 250),
            ("1.5s", 1500),
            (".5s", 500),
            ("1.s", 1000),
            ("0.001s", 1),
        ] {
            assert_eq!(parse(text), Some(Duration::from_millis(milliseconds)), "{text}");
        }
        assert_eq!(parse("0"), Some(Duration::ZERO));
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "10",
            "s",
            "-1s",
            "1 s",
            "1d",
            "1s2",
            "1..5s",
            "infs",
            ".s",
            "1.2.3s",
            "99999999999999999999s",
            "9999999999h",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
