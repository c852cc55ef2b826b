//! Istio's RequestAuthentication (`istio-api.md` 3): which tokens are valid, and where they are looked for.

use std::time::Duration;

use sailcloth_core::config::{Fields, Node, Path, Value};
use sailcloth_core::secret::Secret;

use crate::{Kind, Metadata, Resource, Scope};

/// Istio's limit on `spaceDelimitedClaims`.
const MAX_SPACE_DELIMITED: usize = 64;
/// Istio's limit on the length of `jwksUri`.
const MAX_URI: usize = 2048;
/// Istio's default of `timeout`.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A RequestAuthentication.
#[derive(Debug, Clone)]
pub struct RequestAuthentication {
    /// Where it applies.
    pub scope: Scope,
    /// `jwtRules`; none accepts every request, and identifies nobody.
    pub rules: Vec<JwtRule>,
}

/// One of `jwtRules`.
#[derive(Debug, Clone)]
pub struct JwtRule {
    /// Where it stands, for problems found when it is compiled.
    pub path: Path,
    /// `iss` must be this, byte for byte; absent: any issuer.
    pub issuer: Option<String>,
    /// One of these must be in `aud`; empty: any audience.
    pub audiences: Vec<String>,
    /// Where the keys come from.
    pub keys: KeySource,
    /// How long fetching them may take; 5 s where nothing is said.
    pub timeout: Duration,
    /// Headers that may hold the token.
    pub from_headers: Vec<FromHeader>,
    /// Query parameters that may hold it.
    pub from_params: Vec<String>,
    /// Cookies that may hold it.
    pub from_cookies: Vec<String>,
    /// Whether the upstream gets the token too.
    pub forward_original_token: bool,
    /// The request header that gets the payload of a verified token, lower case.
    pub payload_header: Option<String>,
    /// The request headers that get single claims.
    pub claim_headers: Vec<ClaimHeader>,
    /// Claims whose text is a list separated by spaces, besides `scope` and `permission`.
    pub space_delimited_claims: Vec<String>,
    /// Whether a request without a token is refused.
    pub presence: Presence,
}

/// Where the keys of a rule come from.
#[derive(Debug, Clone)]
pub enum KeySource {
    /// `jwks`: a key set, given inline. It may hold a private key by mistake, so it is never printed.
    Inline {
        /// The key set.
        jwks: Secret<Node>,
        /// Where it stands.
        path: Path,
    },
    /// `jwksUri`: `http://…` or `https://…`.
    Uri {
        /// The URL.
        uri: String,
        /// Where it stands.
        path: Path,
    },
    /// Neither: discovered at the issuer (OpenID Connect Discovery 1.0).
    Discovery,
}

/// One of `fromHeaders`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FromHeader {
    /// The header, lower case.
    pub name: String,
    /// What stands before the token; empty: the whole value is the token.
    pub prefix: String,
}

/// One of `outputClaimToHeaders`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimHeader {
    /// The header, lower case.
    pub header: String,
    /// The claim; dots reach into objects.
    pub claim: String,
}

/// Whether a token must be there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Presence {
    /// A request without a token passes, without an identity.
    #[default]
    Optional,
    /// A request without a token is refused.
    Required,
}

impl Resource for RequestAuthentication {
    const KINDS: &'static [Kind] = &[Kind::REQUEST_AUTHENTICATION];
    const ANNOTATIONS: &'static [&'static str] = &[];

    fn read(_: Kind, _: &Metadata, spec: &Value<'_>) -> Option<Self> {
        let fields = spec.fields()?;
        let scope = Scope::read(&fields);
        let rules = fields.get("jwtRules").and_then(|rules| rules.list(|rule| JwtRule::read(&rule)));
        Some(Self { scope, rules: rules.unwrap_or_default() })
    }

    fn scope(&self) -> Option<&Scope> {
        Some(&self.scope)
    }
}

impl JwtRule {
    fn read(value: &Value<'_>) -> Option<Self> {
        let fields = value.fields()?;
        let issuer = fields.get("issuer").and_then(|issuer| issuer.non_empty_text()).map(str::to_owned);
        let timeout = read_timeout(&fields);
        let keys = read_keys(&fields);
        let forward = fields.get("forwardOriginalToken").and_then(|forward| forward.boolean());
        let from_headers =
            fields.get("fromHeaders").and_then(|list| list.list(|item| read_from_header(&item)));
        let claims = fields.get("outputClaimToHeaders");
        let claims = claims.and_then(|list| list.list(|item| read_claim_header(&item)));
        Some(Self {
            path: value.path().clone(),
            issuer,
            audiences: fields.get("audiences").and_then(|value| read_audiences(&value)).unwrap_or_default(),
            keys: keys?,
            timeout,
            from_headers: from_headers.unwrap_or_default(),
            from_params: non_empty_texts(&fields, "fromParams"),
            from_cookies: non_empty_texts(&fields, "fromCookies"),
            forward_original_token: forward.unwrap_or(false),
            payload_header: fields.get("outputPayloadToHeader").and_then(|value| read_header_name(&value)),
            claim_headers: claims.unwrap_or_default(),
            space_delimited_claims: read_space_delimited(&fields),
            presence: fields.get("presence").and_then(|value| read_presence(&value)).unwrap_or_default(),
        })
    }
}

fn read_timeout(fields: &Fields<'_>) -> Duration {
    let Some(value) = fields.get("timeout") else { return TIMEOUT };
    let timeout = value.duration().unwrap_or(TIMEOUT);
    if timeout < Duration::from_millis(1) {
        value.error("must be at least `1ms`");
    }
    timeout
}

fn read_keys(fields: &Fields<'_>) -> Option<KeySource> {
    let timeout = fields.get("timeout");
    match fields.one_of(&["jwks", "jwksUri"]) {
        Some(("jwks", value)) => {
            if let Some(timeout) = timeout {
                timeout.warn("has no effect: it is the time to fetch `jwksUri`, and the keys are inline");
            }
            let jwks = read_jwks(&value)?;
            Some(KeySource::Inline { jwks: Secret::new(jwks), path: value.path().clone() })
        }
        Some((_, value)) => {
            let uri = value.non_empty_text()?;
            if !(uri.starts_with("http://") || uri.starts_with("https://")) {
                value.error("must begin with `http://` or `https://`");
            } else if uri.len() > MAX_URI {
                value.error(format!("may not be longer than {MAX_URI} bytes"));
            }
            Some(KeySource::Uri { uri: uri.to_owned(), path: value.path().clone() })
        }
        None if fields.get("jwks").is_some() => None,
        None => {
            if fields.get("issuer").is_none() {
                fields
                    .value()
                    .error("needs `issuer`, `jwksUri` or `jwks`: there is nowhere to find the keys");
            }
            Some(KeySource::Discovery)
        }
    }
}

/// The key set as a tree. No message repeats any of it.
fn read_jwks(value: &Value<'_>) -> Option<Node> {
    match Node::from_json(value.non_empty_text()?.as_bytes()) {
        Ok(jwks @ Node::Map(_)) => Some(jwks),
        Ok(other) => {
            value.error(format!("expected the JSON text of a key set (an object), found {}", other.kind()));
            None
        }
        Err(error) => {
            value.error(error.to_string());
            None
        }
    }
}

/// A list of strings. Istio refuses a bare string; people write one all the same, and it has one meaning.
fn read_audiences(value: &Value<'_>) -> Option<Vec<String>> {
    if let Some(text) = value.node().text() {
        value.warn(format!("is a list of strings in Istio, which refuses this document; read as `[{text}]`"));
        return Some(vec![value.non_empty_text()?.to_owned()]);
    }
    let audiences = value.list(|item| item.non_empty_text().map(str::to_owned))?;
    Some(audiences)
}

fn read_from_header(value: &Value<'_>) -> Option<FromHeader> {
    let fields = value.fields()?;
    let name = fields.required("name").and_then(|name| read_header_name(&name));
    let prefix = fields.get("prefix").and_then(|prefix| prefix.text()).unwrap_or_default();
    Some(FromHeader { name: name?, prefix: prefix.to_owned() })
}

fn read_claim_header(value: &Value<'_>) -> Option<ClaimHeader> {
    let fields = value.fields()?;
    let header = fields.required("header").and_then(|header| read_header_name(&header));
    let claim = fields.required("claim").and_then(|claim| claim.non_empty_text());
    Some(ClaimHeader { header: header?, claim: claim?.to_owned() })
}

/// A header name, `[-_A-Za-z0-9]+` as in Istio: no pseudo header. Envoy knows headers in lower case only.
fn read_header_name(value: &Value<'_>) -> Option<String> {
    let name = value.non_empty_text()?;
    if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')) {
        value.error(format!("`{name}` is not a header name; expected letters, digits, `-` and `_`"));
        return None;
    }
    Some(name.to_ascii_lowercase())
}

fn read_space_delimited(fields: &Fields<'_>) -> Vec<String> {
    let claims = non_empty_texts(fields, "spaceDelimitedClaims");
    if claims.len() > MAX_SPACE_DELIMITED {
        fields.value().error(format!("at most {MAX_SPACE_DELIMITED} `spaceDelimitedClaims` are allowed"));
    }
    claims
}

fn read_presence(value: &Value<'_>) -> Option<Presence> {
    let presence = value.word(&[("OPTIONAL", Presence::Optional), ("REQUIRED", Presence::Required)])?;
    if presence == Presence::Required {
        value.warn("released versions of Istio ignore `presence`; there a request without a token passes");
    }
    Some(presence)
}

fn non_empty_texts(fields: &Fields<'_>, name: &'static str) -> Vec<String> {
    let list = fields.get(name).and_then(|list| list.list(|item| item.non_empty_text().map(str::to_owned)));
    list.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn load(rule: &str) -> Result<(JwtRule, Vec<String>), Vec<String>> {
        let text = format!(
            r#"{{"resources":[{{"apiVersion":"security.istio.io/v1","kind":"RequestAuthentication",
                "metadata":{{"name":"a"}},"spec":{{"jwtRules":[{rule}]}}}}]}}"#
        );
        let texts =
            |list: Vec<sailcloth_core::config::Problem>| list.iter().map(ToString::to_string).collect();
        Config::<RequestAuthentication, ()>::load(
            text.as_bytes(),
            |_| (),
            |mut config, _| config.resources.pop().and_then(|mut resource| resource.spec.rules.pop()),
        )
        .map(|(rule, warnings)| (rule.unwrap(), texts(warnings)))
        .map_err(texts)
    }

    #[test]
    fn every_field_of_a_rule_is_read() {
        let (rule, warnings) = load(
            r#"{"issuer":"i","audiences":["a","b"],"jwks":"{\"keys\":[]}","forwardOriginalToken":true,
            "fromHeaders":[{"name":"X-Token","prefix":"JWT "}],"fromParams":["t"],"fromCookies":["c"],
            "outputPayloadToHeader":"X-Payload","outputClaimToHeaders":[{"header":"X-Sub","claim":"sub"}],
            "spaceDelimitedClaims":["roles"],"presence":"OPTIONAL"}"#,
        )
        .unwrap();
        assert!(warnings.is_empty(), "{warnings:?}");
        assert_eq!(rule.issuer.as_deref(), Some("i"));
        assert_eq!(rule.audiences, ["a", "b"]);
        assert_eq!(rule.from_headers, [FromHeader { name: "x-token".into(), prefix: "JWT ".into() }]);
        assert_eq!((rule.from_params[0].as_str(), rule.from_cookies[0].as_str()), ("t", "c"));
        assert_eq!(rule.payload_header.as_deref(), Some("x-payload"));
        assert_eq!(rule.claim_headers, [ClaimHeader { header: "x-sub".into(), claim: "sub".into() }]);
        assert!(rule.forward_original_token && rule.presence == Presence::Optional);
        assert!(matches!(rule.keys, KeySource::Inline { .. }));
    }

    #[test]
    fn one_audience_as_a_string_is_read_with_a_warning() {
        let (rule, warnings) = load(r#"{"issuer":"i","audiences":"api-service"}"#).unwrap();
        assert_eq!(rule.audiences, ["api-service"]);
        assert_eq!(
            warnings,
            [
                "resources[0].spec.jwtRules[0].audiences: is a list of strings in Istio, which refuses this document; read as `[api-service]`"
            ]
        );
    }

    #[test]
    fn what_istio_refuses_is_refused() {
        for (rule, message) in [
            (r#"{"issuer":""}"#, "issuer: may not be empty"),
            (r#"{}"#, "needs `issuer`, `jwksUri` or `jwks`"),
            (r#"{"issuer":"i","jwks":"foo"}"#, "jwks: not valid JSON"),
            (r#"{"issuer":"i","jwks":"[]"}"#, "jwks: expected the JSON text of a key set"),
            (r#"{"issuer":"i","jwks":"{}","jwksUri":"https://i"}"#, "exclude each other"),
            (r#"{"issuer":"i","jwksUri":"ftp://i"}"#, "must begin with `http://` or `https://`"),
            (r#"{"issuer":"i","timeout":"apple"}"#, "timeout: `apple` is not a duration"),
            (r#"{"issuer":"i","timeout":"1us"}"#, "timeout: must be at least `1ms`"),
            (r#"{"issuer":"i","fromHeaders":[{"name":""}]}"#, "name: may not be empty"),
            (r#"{"issuer":"i","fromHeaders":[{"prefix":"x"}]}"#, "missing field `name`"),
            (r#"{"issuer":"i","fromParams":[""]}"#, "fromParams[0]: may not be empty"),
            (r#"{"issuer":"i","fromCookies":[""]}"#, "fromCookies[0]: may not be empty"),
            (r#"{"issuer":"i","outputClaimToHeaders":[{}]}"#, "missing field `header`"),
            (
                r#"{"issuer":"i","outputClaimToHeaders":[null]}"#,
                "outputClaimToHeaders[0]: expected an object, found null",
            ),
            (
                r#"{"issuer":"i","outputClaimToHeaders":[{"header":":authority","claim":"x"}]}"#,
                "`:authority` is not a header name",
            ),
            (r#"{"issuer":"i","presence":"MANDATORY"}"#, "unknown value `MANDATORY`"),
            (r#"{"issuer":"i","audiences":[""]}"#, "audiences[0]: may not be empty"),
            (r#"{"issuer":"i","jwks_url":"x"}"#, "unknown field; did you mean `jwksUri`?"),
        ] {
            let errors = load(rule).unwrap_err().join("\n");
            assert!(errors.contains(message), "{rule}: {errors}");
        }
    }

    #[test]
    fn a_key_set_is_never_printed() {
        let (rule, _) = load(r#"{"issuer":"i","jwks":"{\"keys\":[{\"d\":\"hunter2\"}]}"}"#).unwrap();
        let printed = format!("{rule:?} {rule:#?}");
        assert!(!printed.contains("hunter2") && printed.contains("redacted"), "{printed}");
    }
}
