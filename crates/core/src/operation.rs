//! What a request does, matched as AuthorizationPolicy's `to[].operation` (`istio-api.md` 2.7).

use crate::facts::Fact;
use crate::request::Request;
use crate::text::Pattern;

/// One operation, ready to match: every field that was written must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OperationMatcher {
    methods: Values<Pattern>,
    paths: Values<Pattern>,
    hosts: Values<Pattern>,
    ports: Values<u16>,
}

/// One field: some value of `any` (where any are given), and no value of `none`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Values<V> {
    any: Vec<V>,
    none: Vec<V>,
}

impl<V> Default for Values<V> {
    fn default() -> Self {
        Self { any: Vec::new(), none: Vec::new() }
    }
}

impl<V> Values<V> {
    fn is_free(&self) -> bool {
        self.any.is_empty() && self.none.is_empty()
    }

    fn hold(&self, matches: impl Fn(&V) -> bool) -> bool {
        (self.any.is_empty() || self.any.iter().any(&matches)) && !self.none.iter().any(&matches)
    }
}

impl Values<Pattern> {
    fn parse(any: &[String], none: &[String]) -> Self {
        let parse = |texts: &[String]| texts.iter().map(|text| Pattern::parse(text)).collect();
        Self { any: parse(any), none: parse(none) }
    }

    /// For header-like values, where `*` means that the header is there, be it empty.
    fn hold_on_header(&self, value: Option<&[u8]>) -> bool {
        self.hold(|pattern| match (pattern, value) {
            (_, None) => false,
            (Pattern::Present, Some(_)) => true,
            (pattern, Some(value)) => pattern.matches(value),
        })
    }
}

impl OperationMatcher {
    /// Adds `methods` and `notMethods`: `:method`, case-sensitive.
    #[must_use]
    pub fn methods(mut self, any: &[String], none: &[String]) -> Self {
        self.methods = Values::parse(any, none);
        self
    }

    /// Adds `paths` and `notPaths`: the path without query, as Envoy normalized it, case-sensitive.
    #[must_use]
    pub fn paths(mut self, any: &[String], none: &[String]) -> Self {
        self.paths = Values::parse(any, none);
        self
    }

    /// Adds `hosts` and `notHosts`: `:authority` without regard to case, port included, as in Istio.
    #[must_use]
    pub fn hosts(mut self, any: &[String], none: &[String]) -> Self {
        let lower = |texts: &[String]| texts.iter().map(|text| text.to_ascii_lowercase()).collect::<Vec<_>>();
        self.hosts = Values::parse(&lower(any), &lower(none));
        self
    }

    /// Adds `ports` and `notPorts`: the port that the connection was made to.
    #[must_use]
    pub fn ports(mut self, any: &[u16], none: &[u16]) -> Self {
        self.ports = Values { any: any.to_vec(), none: none.to_vec() };
        self
    }

    /// Whether a request does this.
    ///
    /// # Errors
    /// Why the connection's port, which the operation asks for, cannot be known; the caller fails closed.
    pub fn matches(&self, request: &Request<'_>) -> Result<bool, &'static str> {
        let headers = request.headers;
        let matches = self.methods.hold_on_header(headers.first(":method"))
            && self.paths.hold(|pattern| pattern.matches(request.path()))
            && self.host_holds(headers.first(":authority"));
        if !matches || self.ports.is_free() {
            return Ok(matches);
        }
        match request.facts.destination_port() {
            Fact::Known(port) => Ok(self.ports.hold(|wanted| *wanted == port)),
            Fact::Absent => Err("destination.port is not known"),
            Fact::Unavailable(why) => Err(why),
        }
    }

    fn host_holds(&self, host: Option<&[u8]>) -> bool {
        if self.hosts.is_free() {
            return true;
        }
        let lower = host.map(<[u8]>::to_ascii_lowercase);
        self.hosts.hold_on_header(lower.as_deref())
    }

    /// The paths outside of which it never matches, where all of them are exact: what an index can be made of.
    #[must_use]
    pub fn exact_paths(&self) -> Option<Vec<&str>> {
        let exact = self.paths.any.iter().map(|pattern| match pattern {
            Pattern::Exact(path) => Some(path.as_str()),
            _ => None,
        });
        exact.collect::<Option<Vec<_>>>().filter(|paths| !paths.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::{Facts, NoProperties, Properties, Sources};
    use crate::headers::HeaderBlock;
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    struct Port(i64);

    impl Properties for Port {
        fn property(&self, path: &[&str]) -> Fact<Vec<u8>> {
            if path == ["destination", "port"] {
                Fact::Known(self.0.to_le_bytes().to_vec())
            } else {
                Fact::Absent
            }
        }
    }

    fn texts(list: &[&str]) -> Vec<String> {
        list.iter().map(|text| (*text).to_owned()).collect()
    }

    fn on(matcher: &OperationMatcher, method: &str, path: &str, host: &str) -> bool {
        let headers = HeaderBlock::from_pairs([(":method", method), (":path", path), (":authority", host)]);
        let sources = Sources::default();
        let request = Request { headers: &headers, facts: Facts::new(&NoProperties, &sources) };
        matcher.matches(&request).unwrap()
    }

    #[test]
    fn operations_mean_what_istio_means() {
        let methods =
            |any: &[&str], none: &[&str]| OperationMatcher::default().methods(&texts(any), &texts(none));
        let paths =
            |any: &[&str], none: &[&str]| OperationMatcher::default().paths(&texts(any), &texts(none));
        let hosts =
            |any: &[&str], none: &[&str]| OperationMatcher::default().hosts(&texts(any), &texts(none));
        for (name, matcher, expected) in [
            ("no field", OperationMatcher::default(), true),
            ("method", methods(&["POST", "GET"], &[]), true),
            ("method in another case", methods(&["get"], &[]), false),
            ("not method", methods(&[], &["GET"]), false),
            ("exact path, query aside", paths(&["/api/a"], &[]), true),
            ("prefix", paths(&["/api/*"], &[]), true),
            ("prefix with exception", paths(&["/api/*"], &["*a"]), false),
            ("host in another case", hosts(&["shop.EXAMPLE:8080"], &[]), true),
            ("host without its port", hosts(&["shop.example"], &[]), false),
            ("host with any port", hosts(&["shop.example:*"], &[]), true),
            ("any host", hosts(&["*"], &[]), true),
        ] {
            assert_eq!(on(&matcher, "GET", "/api/a?b=1", "Shop.Example:8080"), expected, "{name}");
        }
    }

    #[test]
    fn any_value_includes_an_empty_header_but_not_an_absent_one() {
        let any = OperationMatcher::default().hosts(&texts(&["*"]), &[]);
        assert!(on(&any, "GET", "/", ""));
        let headers = HeaderBlock::from_pairs([(":method", "GET")]);
        let sources = Sources::default();
        let request = Request { headers: &headers, facts: Facts::new(&NoProperties, &sources) };
        assert_eq!(any.matches(&request), Ok(false));
    }

    #[test]
    fn an_unknown_port_is_an_error_and_no_mismatch() {
        let matcher = OperationMatcher::default().ports(&[8080], &[]);
        let headers = HeaderBlock::from_pairs([(":method", "GET")]);
        let sources = Sources::default();
        let with = |properties: &dyn Properties| {
            matcher.matches(&Request { headers: &headers, facts: Facts::new(properties, &sources) })
        };
        assert_eq!((with(&Port(8080)), with(&Port(9090))), (Ok(true), Ok(false)));
        assert!(with(&NoProperties).is_err());
    }

    #[test]
    fn only_exact_paths_can_be_indexed() {
        let paths = |list: &[&str]| OperationMatcher::default().paths(&texts(list), &[]);
        assert_eq!(paths(&["/a", "/b"]).exact_paths(), Some(vec!["/a", "/b"]));
        assert_eq!(paths(&["/a", "/b*"]).exact_paths(), None);
        assert_eq!(paths(&[]).exact_paths(), None);
    }
}
