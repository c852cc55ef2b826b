//! One rule, ready to work.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sailcloth_core::config::{Node, Problems, Value};
use sailcloth_core::identity::Token;
use sailcloth_resources::request_authentication::{ClaimHeader, JwtRule, KeySource, Presence};

use crate::claims::bare_audience;
use crate::places::{Place, PlaceId, Places};
use crate::verification::Verified;
use crate::{Algorithms, Claims, Environment, IssuerSettings, Jws, KeySet, Origin, Refusal, Verifier};

/// The claims that Istio always splits at spaces.
const SPACE_DELIMITED: [&str; 2] = ["scope", "permission"];

/// A rule, compiled.
#[derive(Debug)]
pub(crate) struct Rule {
    /// Number of its policy in the engine.
    pub(crate) policy: usize,
    /// Index in its policy.
    pub(crate) index: u32,
    pub(crate) issuer: Option<String>,
    /// In bare form; empty: any.
    audiences: Vec<String>,
    keys: KeySet,
    pub(crate) places: Vec<PlaceId>,
    pub(crate) forward: bool,
    pub(crate) required: bool,
    payload_header: Option<String>,
    claim_headers: Vec<ClaimHeader>,
    space_delimited: Vec<String>,
    pub(crate) settings: IssuerSettings,
}

/// A token, read but not verified.
pub(crate) struct Parsed<'t> {
    jws: Jws<'t>,
    pub(crate) claims: Claims,
}

impl<'t> Parsed<'t> {
    pub(crate) fn read(token: &'t [u8], max_bytes: usize, algorithms: Algorithms) -> Result<Self, Refusal> {
        if token.len() > max_bytes {
            return Err(Refusal::TooLarge);
        }
        let jws = Jws::parse(token)?;
        if !algorithms.contains(jws.algorithm) {
            return Err(Refusal::AlgNotInBuild);
        }
        let claims = Claims::parse(jws.raw_payload)?;
        Ok(Self { jws, claims })
    }
}

impl Rule {
    /// Compiles a rule; what this version cannot carry out is reported and refuses the configuration.
    pub(crate) fn compile(
        rule: &JwtRule,
        (policy, index): (usize, usize),
        places: &mut Places,
        settings: IssuerSettings,
        environment: &Environment,
        problems: &Problems,
    ) -> Option<Self> {
        let keys = compile_keys(rule, environment, problems)?;
        let mut space_delimited = rule.space_delimited_claims.clone();
        space_delimited.extend(SPACE_DELIMITED.map(str::to_owned));
        Some(Self {
            policy,
            index: u32::try_from(index).unwrap_or(u32::MAX),
            issuer: rule.issuer.clone(),
            audiences: rule.audiences.iter().map(|audience| bare_audience(audience).to_owned()).collect(),
            keys,
            places: Place::of(rule).into_iter().map(|place| places.number(place)).collect(),
            forward: rule.forward_original_token,
            required: rule.presence == Presence::Required || settings.presence == Presence::Required,
            payload_header: rule.payload_header.clone(),
            claim_headers: rule.claim_headers.clone(),
            space_delimited,
            settings,
        })
    }

    /// Every request header that this rule may write.
    pub(crate) fn output_headers(&self) -> impl Iterator<Item = &str> {
        self.claim_headers.iter().map(|output| output.header.as_str()).chain(self.payload_header.as_deref())
    }

    /// Verifies a token, in Envoy's order: issuer, dates, audience, signature. What the issuer's settings ask for stands
    /// before the dates: a token that lacks `exp` cannot be judged by it.
    pub(crate) fn verify(
        &self,
        token: &Parsed<'_>,
        now: Duration,
        verifier: &impl Verifier,
    ) -> Result<(), Refusal> {
        if self.issuer.is_some() && self.issuer != token.claims.issuer {
            return Err(Refusal::UnknownIssuer);
        }
        self.check_settings(token)?;
        token.claims.validity(self.settings.leeway).check(now)?;
        self.check_audience(&token.claims.audiences)?;
        self.keys.verify(&token.jws, verifier)
    }

    fn check_settings(&self, token: &Parsed<'_>) -> Result<(), Refusal> {
        if self.settings.algorithms.is_some_and(|allowed| !allowed.contains(token.jws.algorithm)) {
            return Err(Refusal::AlgNotAllowed);
        }
        let missing = |claim: &String| token.claims.at(claim).is_none_or(|claim| *claim == Node::Null);
        if self.settings.required_claims.iter().any(missing) {
            return Err(Refusal::ClaimMissing);
        }
        let Some(most) = self.settings.max_lifetime else { return Ok(()) };
        match (token.claims.issued, token.claims.expires) {
            (Some(issued), Some(expires)) if expires.saturating_sub(issued) <= most => Ok(()),
            (Some(_), Some(_)) => Err(Refusal::LivesTooLong),
            _ => Err(Refusal::ClaimMissing),
        }
    }

    /// "At least one must be in `aud`": a token without `aud` is refused by a rule with audiences.
    fn check_audience(&self, audiences: &[String]) -> Result<(), Refusal> {
        let allowed = |audience: &String| self.audiences.iter().any(|one| one == bare_audience(audience));
        if self.audiences.is_empty() || audiences.iter().any(allowed) {
            Ok(())
        } else {
            Err(Refusal::WrongAudience)
        }
    }

    /// What a verified token hands on.
    pub(crate) fn identity(&self, number: usize, place: PlaceId, token: &Parsed<'_>) -> Verified {
        let identity = Token::of_claims(&self.with_lists(&token.claims.all));
        Verified {
            rule: number,
            place,
            validity: token.claims.validity(self.settings.leeway),
            principal: identity.principal(),
            outputs: self.outputs(token),
            token: Some(identity),
        }
    }

    /// The claims, with space-delimited ones as lists: `scope: "read write"` is `["read", "write"]` to all policies.
    fn with_lists(&self, claims: &Node) -> Node {
        let Node::Map(entries) = claims else { return claims.clone() };
        let as_list = |(key, node): &(String, Node)| match node {
            Node::Text(text) if self.space_delimited.contains(key) => {
                let words = text.split(' ').filter(|word| !word.is_empty());
                (key.clone(), Node::List(words.map(|word| Node::Text(word.to_owned())).collect()))
            }
            _ => (key.clone(), node.clone()),
        };
        Node::Map(entries.iter().map(as_list).collect())
    }

    fn outputs(&self, token: &Parsed<'_>) -> Vec<(String, Vec<u8>)> {
        let claims = self.claim_headers.iter().filter_map(|output| {
            let value = header_text(token.claims.at(&output.claim)?)?;
            Some((output.header.clone(), value.into_bytes()))
        });
        let payload = self.payload_header.iter();
        claims.chain(payload.map(|header| (header.clone(), token.jws.raw_payload.to_vec()))).collect()
    }
}

fn compile_keys(rule: &JwtRule, environment: &Environment, problems: &Problems) -> Option<KeySet> {
    let nothing = Node::Null;
    let refuse = |path, message: &str| {
        Value::at(&nothing, path, problems).error(message);
        None
    };
    match &rule.keys {
        KeySource::Inline { jwks, path } => {
            KeySet::read(&Value::at(jwks.expose(), path.clone(), problems), Origin::Inline, environment)
        }
        KeySource::Uri(_) => refuse(
            rule.path.key("jwksUri"),
            "fetching keys is not supported by this version of the jwt filter; give the key set inline as `jwks`",
        ),
        KeySource::Discovery => refuse(
            rule.path.clone(),
            "has neither `jwks` nor `jwksUri`, and discovering keys at the issuer is not supported by this version of the jwt filter; give the key set inline as `jwks`",
        ),
    }
}

/// A claim as the value of a header: text as it is, numbers and booleans in text, lists and objects as base64 of their
/// JSON (Envoy's form). `None` for null, and for text that is no header value: a line end in a claim must not become a
/// line end in a header.
fn header_text(claim: &Node) -> Option<String> {
    let text = match claim {
        Node::Null => return None,
        Node::Text(text) => text.clone(),
        Node::List(_) | Node::Map(_) => STANDARD.encode(json(claim)),
        Node::Bool(_) | Node::Integer(_) | Node::Float(_) => json(claim),
    };
    (!text.chars().any(char::is_control)).then_some(text)
}

fn json(node: &Node) -> String {
    let mut out = String::new();
    write_json(node, &mut out);
    out
}

fn write_json(node: &Node, out: &mut String) {
    match node {
        Node::Null => out.push_str("null"),
        Node::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Node::Integer(number) => out.push_str(&number.to_string()),
        Node::Float(number) => out.push_str(&number.to_string()),
        Node::Text(text) => write_text(text, out),
        Node::List(items) => {
            out.push('[');
            write_separated(items, out, write_json);
            out.push(']');
        }
        Node::Map(entries) => {
            out.push('{');
            write_separated(entries, out, |(key, value), out| {
                write_text(key, out);
                out.push(':');
                write_json(value, out);
            });
            out.push('}');
        }
    }
}

fn write_separated<T>(items: &[T], out: &mut String, write: impl Fn(&T, &mut String)) {
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        write(item, out);
    }
}

fn write_text(text: &str, out: &mut String) {
    out.push('"');
    for letter in text.chars() {
        match letter {
            '"' | '\\' => out.extend(['\\', letter]),
            letter if letter.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(letter))),
            letter => out.push(letter),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn text(json: &str, path: &str) -> Option<String> {
        let claims = Claims::parse(URL_SAFE_NO_PAD.encode(json).as_bytes()).unwrap();
        claims.at(path).and_then(header_text)
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
