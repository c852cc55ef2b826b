//! Names of metrics in Envoy's stats.

/// A flat metric name with its labels, in the order given: another order would be another series.
#[must_use]
pub fn flat_name(metric: &str, labels: &[(&str, &str)]) -> String {
    let mut flat = metric.to_owned();
    for (label, value) in labels {
        flat.push_str(";.;");
        flat.push_str(label);
        flat.push_str("=.=");
        flat.extend(value.chars().map(clean));
    }
    flat
}

/// What would end a label value early (`;`), break the extraction (control bytes) or the exposition format.
fn clean(letter: char) -> char {
    if letter == ';' || letter == '"' || letter == '\\' || letter.is_control() { '_' } else { letter }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn no_value_forges_another_label() {
        for (value, expected) in [
            ("a;.;b=.=c", "m;.;l=.=a_._b=.=c"),
            ("a\nb\u{7f}\"\\", "m;.;l=.=a_b___"),
            ("é-?=.=", "m;.;l=.=é-?=.="),
        ] {
            assert_eq!(flat_name("m", &[("l", value)]), expected);
        }
    }
}
