//! Durations as arguments: `20ms`, `1.5s`, `2m`, `1h`.

use std::time::Duration;

/// Reads a duration with its unit.
///
/// # Errors
/// A sentence for the person who typed it.
pub fn parse(text: &str) -> Result<Duration, String> {
    let unit_at = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(unit_at).unwrap_or((text, ""));
    let seconds = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("`{text}` is not a duration such as `20ms`, `1.5s`, `2m` or `1h`")),
    };
    let number: f64 = number.parse().map_err(|_| format!("`{number}` in `{text}` is not a number"))?;
    Duration::try_from_secs_f64(number * seconds).map_err(|error| format!("`{text}`: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_has_a_number_and_a_unit() {
        assert_eq!(parse("20ms"), Ok(Duration::from_millis(20)));
        assert_eq!(parse("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse("2m"), Ok(Duration::from_secs(120)));
        for bad in ["", "5", "s", "-1s", "1d", "1e400s", "é"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
