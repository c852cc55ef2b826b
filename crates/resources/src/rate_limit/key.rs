//! `key`: what tells one client of a rule from another.

use sailcloth_core::config::Value;
use sailcloth_core::key::KeyPart;

use crate::key::{self, PARTS};

/// One item of `key`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct KeyItem {
    /// What it is.
    pub part: KeyPart,
    /// `as`: its name in the descriptor for a rate limit service.
    pub name: Option<String>,
}

impl KeyItem {
    /// The name in a descriptor: `as`, else that of the header, cookie, parameter or claim, else Envoy's word for it
    /// (`remote_address`, `generic_key`), else ours.
    #[must_use]
    pub fn entry(&self) -> String {
        if let Some(name) = &self.name {
            return name.clone();
        }
        let word = match &self.part {
            KeyPart::Header(name) | KeyPart::Cookie(name) | KeyPart::QueryParameter(name) => name,
            KeyPart::Claim(path) => return path.join("."),
            KeyPart::SourceIp { .. } => "remote_address",
            KeyPart::Method => "method",
            KeyPart::Principal => "principal",
            KeyPart::RequestPrincipal => "request_principal",
            KeyPart::Constant(_) => "generic_key",
        };
        word.to_owned()
    }
}

/// Reads `key`.
pub(super) fn read(value: &Value<'_>) -> Option<Vec<KeyItem>> {
    if value.items()?.is_empty() {
        value.error("may not be empty; leave `key` out for one bucket that all requests share");
    }
    value.list(|item| read_item(&item))
}

fn read_item(value: &Value<'_>) -> Option<KeyItem> {
    let fields = value.fields()?;
    fields.refuse("pathTemplate", "is not supported by this version of the ratelimit filter");
    let name = fields.get("as").map(|name| name.non_empty_text().map(str::to_owned));
    if PARTS.into_iter().all(|name| fields.get(name).is_none()) {
        value.error(format!("expected one of {}", PARTS.map(|part| format!("`{part}`")).join(", ")));
    }
    let part = key::read_part(&fields, &PARTS)?;
    Some(KeyItem { part, name: name.map_or(Some(None), |name| name.map(Some))? })
}
