//! How a refusal looks: what a policy says about it, with the decision filled in.

use std::borrow::Cow;

use sailcloth_core::config::{Problem, Problems, Severity};
use sailcloth_core::request::Request;
use sailcloth_resources::deny_reply::DenyReply;

/// What a body may name as `${name}`.
const NAMES: [&str; 7] = ["policy", "rule", "reason", "condition", "status", "path", "requestId"];

/// What is filled in.
pub(crate) struct Facts<'f> {
    pub(crate) policy: &'f str,
    pub(crate) rule: Cow<'f, str>,
    pub(crate) reason: &'f str,
    pub(crate) condition: &'f str,
    pub(crate) status: u16,
}

/// Reports names in a body that mean nothing.
pub(crate) fn check(deny: &DenyReply, path: &str, problems: &Problems) {
    let body = deny.body.as_deref().unwrap_or_default();
    for part in body.split("${").skip(1) {
        let report = |message| {
            problems.report(Problem { severity: Severity::Error, path: path.to_owned(), message });
        };
        let Some((name, _)) = part.split_once('}') else {
            report(format!("the body of `deny` names `{part}`, which has no `}}` behind it"));
            continue;
        };
        if !NAMES.contains(&name.trim()) {
            let names: Vec<String> = NAMES.iter().map(|name| ["`${", name, "}`"].concat()).collect();
            report(format!(
                "the body of `deny` names `{}`, which it cannot; expected {}",
                name.trim(),
                names.join(", ")
            ));
        }
    }
}

/// The body with everything filled in.
pub(crate) fn fill(deny: &DenyReply, facts: &Facts<'_>, request: &Request<'_>) -> Option<String> {
    let body = deny.body.as_deref()?;
    let content = deny.headers.iter().find(|(name, _)| name == "content-type");
    let json = content.is_some_and(|(_, value)| value.contains("json"));
    let mut parts = body.split("${");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (name, rest) = part.split_once('}').unwrap_or((part, ""));
        let value: Cow<'_, [u8]> = match name.trim() {
            "policy" => facts.policy.as_bytes().into(),
            "rule" => facts.rule.as_bytes().into(),
            "reason" => facts.reason.as_bytes().into(),
            "condition" => facts.condition.as_bytes().into(),
            "status" => facts.status.to_string().into_bytes().into(),
            "path" => request.path().into(),
            _ => request.headers.first("x-request-id").unwrap_or_default().into(),
        };
        escape(&value, json, &mut out);
        out.push_str(rest);
    }
    Some(out)
}

/// What the client wrote comes back as text, whatever the body is: nothing in it can end a JSON string or begin a tag.
fn escape(value: &[u8], json: bool, out: &mut String) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for byte in value {
        let harmless = matches!(byte, b' '..=b'~') && !b"\"'<>&\\".contains(byte);
        match byte {
            byte if harmless => out.push(char::from(*byte)),
            b'"' | b'\\' if json => {
                out.push('\\');
                out.push(char::from(*byte));
            }
            byte => {
                out.push('%');
                let digit = |at: u8| HEX.get(usize::from(at)).copied().map_or('0', char::from);
                out.extend([digit(byte >> 4), digit(byte & 15)]);
            }
        }
    }
}
