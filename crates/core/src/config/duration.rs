//! Durations as Go and Istio write them: `1h`, `1m30s`, `250ms`.

use std::time::Duration;

/// Parses a Go duration of units `h`, `m`, `s`, `ms`, `us`, `ns`; no sign, no bare number (`0` aside).
pub(super) fn parse(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut total: f64 = 0.0;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'.').count();
        let (number, tail) = rest.split_at_checked(digits)?;
        let letters = tail.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, tail) = tail.split_at_checked(letters)?;
        total += number.parse::<f64>().ok()? * nanoseconds(unit)?;
        rest = tail;
    }
    (!text.is_empty() && total.is_finite()).then(|| Duration::try_from_secs_f64(total / 1e9).ok())?
}

fn nanoseconds(unit: &str) -> Option<f64> {
    Some(match unit {
        "h" => 3.6e12,
        "m" => 6e10,
        "s" => 1e9,
        "ms" => 1e6,
        "us" => 1e3,
        "ns" => 1.0,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_durations_are_read() {
        for (text, milliseconds) in
            [("1h", 3_600_000), ("1m30s", 90_000), ("10s", 10_000), ("250ms", 250), ("1.5s", 1500)]
        {
            assert_eq!(parse(text), Some(Duration::from_millis(milliseconds)), "{text}");
        }
        assert_eq!(parse("0"), Some(Duration::ZERO));
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["", "10", "s", "-1s", "1 s", "1d", "1s2", "1..5s", "infs"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
