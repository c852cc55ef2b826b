//! `{{token …}}` and `{{jwks …}}` in a case file: what cannot be written down because it depends on keys and time.
//!
//! `{{token key=rsa1 alg=RS256 iss=https://issuer.example sub=alice aud=api exp=+300s}}` is a signed token. Times are
//! relative to the case's `now` (`+300s`, `-2m`) or absolute seconds; `none` leaves a claim out that would be there. Other
//! arguments: `nbf`, `iat`, `jti`, `kid` (the key's name unless given), `typ`, `claims={…}` and `header={…}` (JSON, merged
//! last), `tamper=signature|payload|alg-none|truncated|extra-segment|empty-signature`. A value that starts with `[` or `{`
//! is JSON, one in double quotes may hold blanks. `{{jwks rsa1 ec1}}` is a key set, `{{jwks-any rsa1}}` one
//! whose keys name no `alg`.

use sailcloth_core::config::Node;
use serde_json::{Map, Value, json};

use crate::keys::{TestKey, base64url};

/// Expands the templates of one text; `now` is in seconds since the Unix epoch.
///
/// # Errors
/// What is wrong with a template.
pub fn expand(text: &str, now: u64) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        let end = template_end(after).ok_or_else(|| format!("`{{{{` without `}}}}` in `{text}`"))?;
        out.push_str(before);
        out.push_str(&call(&after[..end], now)?);
        rest = &after[end + 2..];
    }
    Ok(out + rest)
}

/// Expands the templates in every text of a tree.
///
/// # Errors
/// What is wrong with a template.
pub fn expand_node(node: &Node, now: u64) -> Result<Node, String> {
    Ok(match node {
        Node::Text(text) => Node::Text(expand(text, now)?),
        Node::List(items) => {
            Node::List(items.iter().map(|item| expand_node(item, now)).collect::<Result<_, _>>()?)
        }
        Node::Map(entries) => Node::Map(
            entries
                .iter()
                .map(|(key, value)| Ok((key.clone(), expand_node(value, now)?)))
                .collect::<Result<_, String>>()?,
        ),
        other => other.clone(),
    })
}

/// Where `}}` closes the template: not inside JSON or quotes.
fn template_end(text: &str) -> Option<usize> {
    let (mut depth, mut quoted, mut escaped) = (0_usize, false, false);
    for (index, letter) in text.char_indices() {
        if quoted {
            (escaped, quoted) = (letter == '\\' && !escaped, letter != '"' || escaped);
            continue;
        }
        match letter {
            '"' => quoted = true,
            '{' | '[' => depth += 1,
            '}' if depth == 0 => return text[index..].starts_with("}}").then_some(index),
            '}' | ']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    None
}

fn call(text: &str, now: u64) -> Result<String, String> {
    let words = words(text.trim());
    match words.split_first() {
        Some((&"token", arguments)) => token(arguments, now),
        Some((&"jwks", names)) => {
            let keys: Vec<String> =
                names.iter().map(|name| TestKey::named(name).map(TestKey::jwk)).collect::<Result<_, _>>()?;
            Ok(format!(r#"{{"keys":[{}]}}"#, keys.join(",")))
        }
        Some((&"jwks-any", names)) => {
            let keys: Vec<String> =
                names.iter().map(|name| TestKey::named(name).map(without_alg)).collect::<Result<_, _>>()?;
            Ok(format!(r#"{{"keys":[{}]}}"#, keys.join(",")))
        }
        _ => Err(format!("unknown template `{{{{{text}}}}}`; expected `token`, `jwks` or `jwks-any`")),
    }
}

fn without_alg(key: TestKey) -> String {
    let name = key.default_algorithm();
    key.jwk().replace(&format!(r#","alg":"{name}""#), "")
}

/// Splits at blanks outside of JSON and quotes.
fn words(text: &str) -> Vec<&str> {
    let (mut words, mut start, mut depth, mut quoted) = (Vec::new(), 0, 0_usize, false);
    for (index, letter) in text.char_indices().chain([(text.len(), ' ')]) {
        match letter {
            '"' => quoted = !quoted,
            '{' | '[' if !quoted => depth += 1,
            '}' | ']' if !quoted => depth = depth.saturating_sub(1),
            letter if letter.is_whitespace() && !quoted && depth == 0 => {
                if start < index {
                    words.push(&text[start..index]);
                }
                start = index + letter.len_utf8();
            }
            _ => {}
        }
    }
    words
}

#[derive(Default)]
struct Token<'t> {
    key: Option<TestKey>,
    algorithm: Option<&'t str>,
    tamper: Option<&'t str>,
    kid: Option<&'t str>,
    typ: Option<&'t str>,
    claims: Map<String, Value>,
    header: Map<String, Value>,
}

fn token(arguments: &[&str], now: u64) -> Result<String, String> {
    let mut token = Token::default();
    let mut more = Map::new();
    for argument in arguments {
        let (name, value) =
            argument.split_once('=').ok_or_else(|| format!("token argument `{argument}` has no `=`"))?;
        match name {
            "key" => token.key = Some(TestKey::named(value)?),
            "alg" => token.algorithm = Some(value),
            "tamper" => token.tamper = Some(value),
            "kid" => token.kid = Some(value),
            "typ" => token.typ = Some(value),
            "claims" => more = object(name, value)?,
            "header" => token.header = object(name, value)?,
            "exp" | "nbf" | "iat" if value == "none" => {}
            "exp" | "nbf" | "iat" => drop(token.claims.insert(name.to_owned(), time(value, now)?)),
            "iss" | "sub" | "aud" | "jti" => drop(token.claims.insert(name.to_owned(), word(value)?)),
            _ => {
                return Err(format!(
                    "unknown token argument `{name}`; expected key, alg, iss, sub, aud, jti, exp, nbf, iat, kid, typ, claims, header or tamper"
                ));
            }
        }
    }
    token.claims.append(&mut more);
    token.write()
}

impl Token<'_> {
    fn write(self) -> Result<String, String> {
        let key = self.key.ok_or("a token needs `key=…`")?;
        let algorithm = self.algorithm.unwrap_or(key.default_algorithm());
        let name = if self.tamper == Some("alg-none") { "none" } else { algorithm };
        let mut header = Map::from_iter([
            ("alg".to_owned(), json!(name)),
            ("typ".to_owned(), json!(self.typ.unwrap_or("JWT"))),
        ]);
        if self.typ == Some("none") {
            header.remove("typ");
        }
        match self.kid {
            Some("none") => {}
            Some(kid) => drop(header.insert("kid".to_owned(), json!(kid))),
            None => {
                let jwk: Value = serde_json::from_str(&key.jwk()).map_err(|error| error.to_string())?;
                header.insert("kid".to_owned(), jwk["kid"].clone());
            }
        }
        header.extend(self.header);
        let signed = format!("{}.{}", part(header), part(self.claims.clone()));
        let mut signature = key.sign(algorithm, signed.as_bytes())?;
        let whole = |signed: &str, signature: &[u8]| format!("{signed}.{}", base64url(signature));
        Ok(match self.tamper {
            None => whole(&signed, &signature),
            Some("signature") => {
                if let Some(byte) = signature.get_mut(10) {
                    *byte ^= 0x55;
                }
                whole(&signed, &signature)
            }
            Some("payload") => {
                let mut claims = self.claims;
                claims.insert("sub".to_owned(), json!("mallory"));
                let head = signed.split('.').next().unwrap_or_default();
                whole(&format!("{head}.{}", part(claims)), &signature)
            }
            Some("alg-none" | "empty-signature") => format!("{signed}."),
            Some("truncated") => signed,
            Some("extra-segment") => whole(&signed, &signature) + ".AAAA",
            Some(other) => {
                return Err(format!(
                    "unknown tamper `{other}`; expected signature, payload, alg-none, empty-signature, truncated or extra-segment"
                ));
            }
        })
    }
}

fn part(object: Map<String, Value>) -> String {
    base64url(Value::Object(object).to_string().as_bytes())
}

fn object(name: &str, value: &str) -> Result<Map<String, Value>, String> {
    match serde_json::from_str(value) {
        Ok(Value::Object(object)) => Ok(object),
        _ => Err(format!("token argument `{name}` is not a JSON object: `{value}`")),
    }
}

fn word(value: &str) -> Result<Value, String> {
    if value.starts_with(['[', '{', '"']) {
        return serde_json::from_str(value).map_err(|error| format!("`{value}` is not JSON: {error}"));
    }
    Ok(json!(value))
}

/// `+300s`, `-2m`, `+1h`: relative to now; digits alone: seconds since the epoch; anything in JSON form as it is.
fn time(value: &str, now: u64) -> Result<Value, String> {
    let wrong =
        || format!("`{value}` is not a time; expected a form like `+300s`, `-2m` or seconds since the epoch");
    if value.starts_with(['[', '{', '"']) {
        return word(value);
    }
    let Some(sign) = value.chars().next().filter(|sign| matches!(sign, '+' | '-')) else {
        return serde_json::from_str::<Value>(value).ok().filter(Value::is_number).ok_or_else(wrong);
    };
    let now = i64::try_from(now).map_err(|_| wrong())?;
    let seconds = seconds(&value[1..]).ok_or_else(wrong)?;
    Ok(json!(if sign == '+' { now + seconds } else { now - seconds }))
}

/// `90s`, `5m`, `1h` in seconds.
fn seconds(text: &str) -> Option<i64> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let factor = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return None,
    };
    number.parse::<i64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_has_three_parts_and_times_relative_to_now() {
        let text = expand(
            r#"Bearer {{token key=ec1 iss=https://a sub=alice aud=["x","y"] exp=+5m claims={"n":{"m":1}}}}!"#,
            1000,
        )
        .unwrap();
        let token = text.strip_prefix("Bearer ").unwrap().strip_suffix('!').unwrap();
        let parts: Vec<&str> = token.split('.').collect();
        assert_eq!(parts.len(), 3);
        let claims =
            base64url(br#"{"aud":["x","y"],"exp":1300,"iss":"https://a","n":{"m":1},"sub":"alice"}"#);
        assert_eq!(parts[1], claims);
        assert_eq!(parts[0], base64url(br#"{"alg":"ES256","kid":"ec1","typ":"JWT"}"#));
    }

    #[test]
    fn what_is_wrong_with_a_template_is_said() {
        for (text, part) in [
            ("{{token key=rsa9}}", "no test key `rsa9`"),
            ("{{token iss=x}}", "needs `key="),
            ("{{token key=rsa1 xep=+1s}}", "unknown token argument `xep`"),
            ("{{token key=rsa1 exp=soon}}", "is not a time"),
            ("{{token key=rsa1 tamper=all}}", "unknown tamper"),
            ("{{tokens}}", "unknown template"),
            ("{{token key=rsa1", "without `}}`"),
        ] {
            let error = expand(text, 0).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
        assert_eq!(expand("/a/{*}/{**}", 0).unwrap(), "/a/{*}/{**}");
    }

    #[test]
    fn a_key_set_is_json() {
        let keys: Value = serde_json::from_str(&expand("{{jwks rsa1 ec1}}", 0).unwrap()).unwrap();
        assert_eq!(keys["keys"][1]["crv"], "P-256");
    }

    #[test]
    fn tampering_changes_what_it_says() {
        let of = |tamper: &str| expand(&format!("{{{{token key=ed1 sub=a {tamper}}}}}"), 0).unwrap();
        let good = of("");
        for tamper in ["signature", "payload", "alg-none", "empty-signature", "truncated", "extra-segment"] {
            assert_ne!(of(&format!("tamper={tamper}")), good, "{tamper}");
        }
        assert_eq!(of(""), good);
    }
}
