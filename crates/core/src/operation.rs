//! What a request does, matched as AuthorizationPolicy's `to[].operation` (`istio-api.md` 2.7).

use crate::facts::Fact;
use crate::request::Request;
use crate::text::TextSet;

/// One operation, ready to match: every field that was written must hold.
#[derive(Debug, Default)]
pub struct OperationMatcher {
    methods: Values<TextSet>,
    paths: Values<TextSet>,
    hosts: Values<TextSet>,
    ports: Values<Vec<u16>>,
    exact_paths: Vec<String>,
}

/// One field: some value of `any` (where any are given), and no value of `none`.
#[derive(Debug, Default)]
struct Values<V> {
    any: V,
    none: V,
}

impl Values<TextSet> {
    fn parse(any: &[String], none: &[String]) -> Self {
        Self { any: TextSet::parse(any), none: TextSet::parse(none) }
    }

    fn hold(&self, matches: impl Fn(&TextSet) -> bool) -> bool {
        (self.any.is_empty() || matches(&self.any)) && !matches(&self.none)
    }

    /// For header-like values, where `*` means that the header is there, be it empty.
    fn hold_on_header(&self, value: Option<&[u8]>) -> bool {
        self.hold(|texts| value.is_some_and(|value| texts.has_any() || texts.contains(value)))
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
        self.paths = Values { any: TextSet::of_paths(any), none: TextSet::of_paths(none) };
        if any.iter().all(|path| !path.contains(['*', '{'])) {
            self.exact_paths = any.to_vec();
        }
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
        let Values { any, none } = &self.ports;
        let matches = self.methods.hold_on_header(headers.first(":method"))
            && self.paths.hold(|paths| paths.contains(request.path()))
            && self.host_holds(headers.first(":authority"));
        if !matches || (any.is_empty() && none.is_empty()) {
            return Ok(matches);
        }
        match request.facts.destination_port() {
            Fact::Known(port) => Ok((any.is_empty() || any.contains(&port)) && !none.contains(&port)),
            Fact::Absent => Err("destination.port is not known"),
            Fact::Unavailable(why) => Err(why),
        }
    }

    fn host_holds(&self, host: Option<&[u8]>) -> bool {
        if self.hosts.any.is_empty() && self.hosts.none.is_empty() {
            return true;
        }
        let lower = host.map(<[u8]>::to_ascii_lowercase);
        self.hosts.hold_on_header(lower.as_deref())
    }

    /// The paths outside of which it never matches, where all of them are exact: what an index can be made of.
    #[must_use]
    pub fn exact_paths(&self) -> Option<Vec<&str>> {
        (!self.exact_paths.is_empty()).then(|| self.exact_paths.iter().map(String::as_str).collect())
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
