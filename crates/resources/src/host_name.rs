//! Host names as Istio's resources write them (`istio-api.md` 1.4).

use std::net::IpAddr;

/// Whether a text is an IP address.
#[must_use]
pub fn is_ip(host: &str) -> bool {
    host.parse::<IpAddr>().is_ok()
}

/// The full name of a host: a name without a dot means a service in the resource's namespace.
#[must_use]
pub fn full_name(host: &str, namespace: &str, domain: &str) -> String {
    if host.contains(['.', '*', ':']) { host.to_owned() } else { format!("{host}.{namespace}.svc.{domain}") }
}

/// Whether `pattern` is a wildcard that stands for `host`, itself perhaps a wildcard.
#[must_use]
pub fn is_wildcard_of(pattern: &str, host: &str) -> bool {
    pattern.strip_prefix('*').is_some_and(|suffix| {
        let split = host.len().checked_sub(suffix.len()).filter(|split| *split > 0);
        split.and_then(|split| host.get(split..)).is_some_and(|tail| tail.eq_ignore_ascii_case(suffix))
    })
}

/// Why a text is not a host (DNS labels, the first of which may be or begin with `*`); none if it is one.
#[must_use]
pub fn problem_of_host(host: &str) -> Option<&'static str> {
    if host == "*" {
        return None;
    }
    if host.len() > 255 {
        return Some("it is longer than 255 characters");
    }
    let bare = host.strip_suffix('.').unwrap_or(host);
    let (wildcard, bare) = bare.strip_prefix('*').map_or((false, bare), |rest| (true, rest));
    let bare = if wildcard { bare.strip_prefix(['.', '-']).unwrap_or(bare) } else { bare };
    if bare.contains('*') {
        return Some("only its beginning may be `*`");
    }
    bare.split('.').find_map(problem_of_label)
}

fn problem_of_label(label: &str) -> Option<&'static str> {
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric();
    let edges =
        label.bytes().next().is_some_and(is_letter) && label.bytes().next_back().is_some_and(is_letter);
    if label.is_empty() {
        Some("a label is empty")
    } else if label.len() > 63 {
        Some("a label is longer than 63 characters")
    } else if !edges || !label.bytes().all(|byte| is_letter(byte) || byte == b'-') {
        Some("labels are letters, digits and inner `-`")
    } else {
        None
    }
}
