//! Absolute URLs of key sets and issuers, taken apart as a callout needs them.

use std::fmt;

/// An `http` or `https` URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    /// Whether it is `https`.
    pub https: bool,
    /// The host, lower case; an IPv6 address without its brackets.
    pub host: String,
    /// The port, written or implied.
    pub port: u16,
    /// Host and port as they go into `:authority`.
    pub authority: String,
    /// Path and query, at least `/`.
    pub path: String,
}

impl Url {
    /// Takes a URL apart.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("is no URL: it holds spaces, control characters or letters outside ASCII");
        }
        let (https, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (_, Some(rest)) => (false, rest),
            _ => return Err("must begin with `http://` or `https://`"),
        };
        if rest.contains('#') {
            return Err("may not have a fragment (`#`)");
        }
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at_checked(end).unwrap_or((rest, ""));
        if authority.contains('@') {
            return Err("may not name a user (`@`): it would be sent to whoever answers");
        }
        let (host, port) = host_and_port(authority, if https { 443 } else { 80 })?;
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Ok(Self { https, host, port, authority: authority.to_ascii_lowercase(), path })
    }

    /// The cluster that Istio makes for the host: `outbound|443||host`.
    #[must_use]
    pub fn istio_cluster(&self) -> String {
        format!("outbound|{}||{}", self.port, self.host)
    }
}

fn host_and_port(authority: &str, default: u16) -> Result<(String, u16), &'static str> {
    let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, rest)) => (host, if rest.is_empty() { None } else { Some(rest.strip_prefix(':')) }),
        None => match authority.rsplit_once(':') {
            Some((host, port)) => (host, Some(Some(port))),
            None => (authority, None),
        },
    };
    let part = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':');
    if host.is_empty() || !host.bytes().all(part) || (host.contains(':') && !authority.starts_with('[')) {
        return Err("has no host that can be called");
    }
    let port = match port {
        None => default,
        Some(port) => port
            .filter(|port| port.bytes().all(|byte| byte.is_ascii_digit()))
            .and_then(|port| port.parse().ok())
            .filter(|port| *port > 0)
            .ok_or("has no port number from 1 to 65535 after its `:`")?,
    };
    Ok((host.to_ascii_lowercase(), port))
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", if self.https { "https" } else { "http" }, self.authority, self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn a_url_comes_apart() {
        for (text, cluster, authority, path) in [
            ("https://a.example/keys", "outbound|443||a.example", "a.example", "/keys"),
            ("http://A.example", "outbound|80||a.example", "a.example", "/"),
            ("https://a.example:8443/x?y=/z", "outbound|8443||a.example", "a.example:8443", "/x?y=/z"),
            ("https://a.example?y", "outbound|443||a.example", "a.example", "/?y"),
            ("http://[::1]:8090/k", "outbound|8090||::1", "[::1]:8090", "/k"),
            ("http://[::1]", "outbound|80||::1", "[::1]", "/"),
            ("http://127.0.0.1:1/", "outbound|1||127.0.0.1", "127.0.0.1:1", "/"),
        ] {
            let url = Url::parse(text).unwrap();
            assert_eq!(
                (url.istio_cluster().as_str(), url.authority.as_str(), url.path.as_str()),
                (cluster, authority, path),
                "{text}"
            );
            assert_eq!(Url::parse(&url.to_string()), Ok(url), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_called_is_refused() {
        for (text, why) in [
            ("", "must begin"),
            ("a.example/keys", "must begin"),
            ("ftp://a.example", "must begin"),
            ("HTTPS://a.example", "must begin"),
            ("https://", "no host"),
            ("https:///keys", "no host"),
            ("https://:443/", "no host"),
            ("https://a|b/", "no host"),
            ("https://::1/", "no host"),
            ("https://[::1", "no host"),
            ("https://[::1]x/", "no port"),
            ("https://a.example:/", "no port"),
            ("https://a.example:0/", "no port"),
            ("https://a.example:65536/", "no port"),
            ("https://a.example:+80/", "no port"),
            ("https://user:pw@a.example/", "user"),
            ("https://a.example/#keys", "fragment"),
            ("https://a.example/a b", "spaces"),
            ("https://a.example/\r\nx: y", "spaces"),
            ("https://\u{e9}.example/", "ASCII"),
        ] {
            let found = Url::parse(text).unwrap_err();
            assert!(found.contains(why), "{text:?}: {found}");
        }
    }
}
