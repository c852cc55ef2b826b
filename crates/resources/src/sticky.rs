//! The annotation `sailcloth.dev/sticky`: what keeps a user on one version.
//!
//! ```yaml
//! sailcloth.dev/sticky: '{"header": "x-user-id"}'
//! sailcloth.dev/sticky: '{"claim": "sub", "issue": {"cookie": "canary", "key": "${env:STICKY_KEY}", "maxAge": "720h"}}'
//! ```

use std::time::Duration;

use sailcloth_core::config::{Fields, Node, Value};
use sailcloth_core::key::KeyPart;

use crate::Metadata;
use crate::key::{is_token, read_part};

/// Its name.
pub const STICKY: &str = "sailcloth.dev/sticky";

/// What may tell users apart. `method` and `constant` tell nobody apart.
const PARTS: [&str; 7] =
    ["header", "cookie", "queryParameter", "claim", "sourceIp", "principal", "requestPrincipal"];

/// What keeps a user on one destination of a weighted rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sticky {
    /// What tells users apart; nothing where only [`Sticky::issue`] does.
    pub key: Option<KeyPart>,
    /// The cookie given to those who have no key.
    pub issue: Option<IssuedCookie>,
    /// Rules of the same salt put their users alike; else each rule by itself.
    pub salt: Option<String>,
}

/// A cookie of our own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuedCookie {
    /// Its name.
    pub name: String,
    /// The secret it is signed with, as written; `${env:NAME}` is not resolved here.
    pub key: Option<String>,
    /// `Path`.
    pub path: String,
    /// `Domain`.
    pub domain: Option<String>,
    /// `Max-Age`; without it the cookie lasts as long as the browser's session.
    pub max_age: Option<Duration>,
    /// `SameSite`.
    pub same_site: &'static str,
    /// Whether it has `Secure`; where it is not said, it has it on https.
    pub secure: Option<bool>,
}

impl Sticky {
    /// Reads the annotation, where it is; problems are reported at the path inside it.
    #[must_use]
    pub fn read(metadata: &Metadata, document: &Value<'_>) -> Option<Self> {
        let (text, path) = metadata.annotation_with_path(STICKY)?;
        let nothing = Node::Null;
        let place = Value::at(&nothing, path.clone(), document.problems());
        let node = match Node::from_json(text.as_bytes()) {
            Ok(node @ Node::Map(_)) => node,
            Ok(other) => {
                place.error(format!(
                    "expected a JSON object such as `{{\"header\": \"x-user-id\"}}`, found {}",
                    other.kind()
                ));
                return None;
            }
            Err(error) => {
                place.error(format!(
                    "expected a JSON object such as `{{\"header\": \"x-user-id\"}}`: {error}"
                ));
                return None;
            }
        };
        read(&Value::at(&node, path.clone(), document.problems()))
    }
}

fn read(value: &Value<'_>) -> Option<Sticky> {
    let fields = value.fields()?;
    for (name, why) in [
        ("method", "tells no users apart"),
        ("constant", "tells no users apart; for the same choice in several rules write `salt`"),
    ] {
        fields.refuse(name, why);
    }
    let sticky = Sticky {
        key: read_part(&fields, &PARTS),
        issue: fields.get("issue").and_then(|issue| read_issue(&issue)),
        salt: fields.get("salt").and_then(|salt| salt.non_empty_text()).map(str::to_owned),
    };
    if !PARTS.iter().any(|part| fields.get(part).is_some()) && fields.get("issue").is_none() {
        let parts = PARTS.map(|part| format!("`{part}`")).join(", ");
        value.error(format!(
            "says nothing that tells users apart; expected one of {parts}, or `issue` for a cookie of our own"
        ));
    }
    Some(sticky)
}

fn read_issue(value: &Value<'_>) -> Option<IssuedCookie> {
    let fields = value.fields()?;
    let name = fields.required("cookie")?;
    let written = name.non_empty_text()?;
    if !is_token(written) {
        name.error(format!("`{written}` is not the name of a cookie"));
    }
    let same_site = fields
        .get("sameSite")
        .and_then(|value| value.word(&[("Lax", "Lax"), ("Strict", "Strict"), ("None", "None")]))
        .unwrap_or("Lax");
    let secure = fields.get("secure").and_then(|value| value.boolean());
    if same_site == "None" && secure == Some(false) {
        value.error("`sameSite: None` needs `secure`: browsers drop such a cookie otherwise");
    }
    Some(IssuedCookie {
        name: written.to_owned(),
        key: fields.get("key").and_then(|key| key.non_empty_text()).map(str::to_owned),
        path: attribute(&fields, "path").unwrap_or_else(|| "/".to_owned()),
        domain: attribute(&fields, "domain"),
        max_age: fields.get("maxAge").and_then(|value| read_age(&value)),
        same_site,
        secure,
    })
}

/// A text that can stand in `Set-Cookie` (RFC 6265 4.1.1).
fn attribute(fields: &Fields<'_>, name: &'static str) -> Option<String> {
    let value = fields.get(name)?;
    let text = value.non_empty_text()?;
    if !text.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b';') {
        value.error(format!("`{text}` cannot stand in a cookie: printable ASCII without `;` can"));
    }
    Some(text.to_owned())
}

fn read_age(value: &Value<'_>) -> Option<Duration> {
    let age = value.duration()?;
    if age < Duration::from_secs(1) || age.subsec_nanos() != 0 {
        value.error("must be in whole seconds, at least `1s`");
        return None;
    }
    Some(age)
}
