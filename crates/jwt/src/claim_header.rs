//! A claim as the value of a request header (`outputClaimToHeaders`).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sailcloth_core::identity::Claim;

/// Text as it is, numbers and booleans in text, lists and objects as base64 of their JSON (Envoy's form). `None` for null,
/// and for text that is no header value: a line end in a claim must not become a line end in a header.
pub(crate) fn header_value(claim: Claim<'_>) -> Option<Vec<u8>> {
    let value = match claim {
        Claim::Null => return None,
        Claim::Text(text) => text.to_vec(),
        Claim::List(_) | Claim::Object(_) => STANDARD.encode(json(claim)).into_bytes(),
        Claim::Bool(_) | Claim::Integer(_) | Claim::Double(_) => json(claim),
    };
    let text = std::str::from_utf8(&value).ok()?;
    (!text.chars().any(char::is_control)).then_some(value)
}

fn json(claim: Claim<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    write_json(claim, &mut out);
    out
}

fn write_json(claim: Claim<'_>, out: &mut Vec<u8>) {
    match claim {
        Claim::Null => out.extend_from_slice(b"null"),
        Claim::Bool(true) => out.extend_from_slice(b"true"),
        Claim::Bool(false) => out.extend_from_slice(b"false"),
        Claim::Integer(number) => out.extend_from_slice(number.to_string().as_bytes()),
        Claim::Double(number) => out.extend_from_slice(number.to_string().as_bytes()),
        Claim::Text(text) => write_text(text, out),
        Claim::List(items) => {
            out.push(b'[');
            for (index, item) in items.enumerate() {
                separate(index, out);
                write_json(item, out);
            }
            out.push(b']');
        }
        Claim::Object(members) => {
            out.push(b'{');
            for (index, (key, value)) in members.enumerate() {
                separate(index, out);
                write_text(key, out);
                out.push(b':');
                write_json(value, out);
            }
            out.push(b'}');
        }
    }
}

fn separate(index: usize, out: &mut Vec<u8>) {
    if index > 0 {
        out.push(b',');
    }
}

fn write_text(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    for byte in text {
        match byte {
            b'"' | b'\\' => out.extend([b'\\', *byte]),
            0..0x20 => out.extend(format!("\\u{byte:04x}").bytes()),
            byte => out.push(*byte),
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Claims;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn text(json: &str, path: &str) -> Option<String> {
        let claims = Claims::parse(URL_SAFE_NO_PAD.encode(json).as_bytes()).unwrap();
        claims.at(path).and_then(header_value).map(|value| String::from_utf8(value).unwrap())
    }

    #[test]
    fn claims_become_header_values() {
        const CLAIMS: &str =
            r#"{"s":"a b","n":{"i":7,"f":1.5,"t":true,"z":null},"l":["x",{"k":"\"\n"}],"bad":"a\r\nx: y"}"#;
        for (path, value) in [
            ("s", Some("a b")),
            ("n.i", Some("7")),
            ("n.f", Some("1.5")),
            ("n.t", Some("true")),
            ("n.z", None),
            ("n.none", None),
            ("s.deeper", None),
            ("bad", None),
        ] {
            assert_eq!(text(CLAIMS, path).as_deref(), value, "{path}");
        }
        let list = STANDARD.decode(text(CLAIMS, "l").unwrap()).unwrap();
        assert_eq!(String::from_utf8(list).unwrap(), r#"["x",{"k":"\"\u000a"}]"#);
    }
}
