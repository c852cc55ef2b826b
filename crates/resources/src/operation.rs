//! `to[].operation`, shared by AuthorizationPolicy and RateLimit (`istio-api.md` 2.7).

use sailcloth_core::config::{Fields, Node, Value};
use sailcloth_core::operation::OperationMatcher;
use sailcloth_core::path_template::PathTemplate;

/// One `operation`: lists as they were written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Operation {
    /// `methods`.
    pub methods: Vec<String>,
    /// `notMethods`.
    pub not_methods: Vec<String>,
    /// `paths`.
    pub paths: Vec<String>,
    /// `notPaths`.
    pub not_paths: Vec<String>,
    /// `hosts`.
    pub hosts: Vec<String>,
    /// `notHosts`.
    pub not_hosts: Vec<String>,
    /// `ports`.
    pub ports: Vec<u16>,
    /// `notPorts`.
    pub not_ports: Vec<u16>,
}

impl Operation {
    /// Reads one item of `to`: `{operation: {…}}`.
    #[must_use]
    pub fn read_to(item: &Value<'_>) -> Option<Self> {
        let operation = item.fields()?.required("operation")?;
        Self::read(&operation)
    }

    /// Reads an `operation`, which must say something.
    #[must_use]
    pub fn read(value: &Value<'_>) -> Option<Self> {
        let fields = value.fields()?;
        let operation = Self {
            methods: texts(&fields, "methods"),
            not_methods: texts(&fields, "notMethods"),
            paths: paths(&fields, "paths"),
            not_paths: paths(&fields, "notPaths"),
            hosts: texts(&fields, "hosts"),
            not_hosts: texts(&fields, "notHosts"),
            ports: ports(&fields, "ports"),
            not_ports: ports(&fields, "notPorts"),
        };
        // An operation without a field would match every request; Istio refuses it too. Where a list was written, what
        // is wrong with it has been reported already.
        let names = ["methods", "notMethods", "paths", "notPaths", "hosts", "notHosts", "ports", "notPorts"];
        let written = |name| {
            fields.get(name).is_some_and(|list| !matches!(list.node(), Node::List(items) if items.is_empty()))
        };
        if !names.into_iter().any(written) {
            value.error("an operation needs at least one of `methods`, `paths`, `hosts`, `ports` or their `not…` forms");
            return None;
        }
        Some(operation)
    }

    /// Makes it ready to match.
    #[must_use]
    pub fn matcher(&self) -> OperationMatcher {
        OperationMatcher::default()
            .methods(&self.methods, &self.not_methods)
            .paths(&self.paths, &self.not_paths)
            .hosts(&self.hosts, &self.not_hosts)
            .ports(&self.ports, &self.not_ports)
    }
}

fn texts(fields: &Fields<'_>, name: &'static str) -> Vec<String> {
    read_list(fields, name, |item| item.non_empty_text().map(str::to_owned))
}

fn paths(fields: &Fields<'_>, name: &'static str) -> Vec<String> {
    read_list(fields, name, |item| {
        let path = item.non_empty_text()?;
        if PathTemplate::is_template(path) {
            if let Err(error) = PathTemplate::parse(path) {
                item.error(format!("`{path}`: {error}"));
            }
        } else if path.contains(['{', '}']) {
            item.error(format!("`{path}` contains `{{` or `}}`, which Istio reserves for path templates"));
        }
        Some(path.to_owned())
    })
}

fn ports(fields: &Fields<'_>, name: &'static str) -> Vec<u16> {
    read_list(fields, name, port)
}

/// A port, which Istio writes as a string.
pub(crate) fn port(item: &Value<'_>) -> Option<u16> {
    let text = item.text()?;
    let port = text.parse::<u16>().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
    if port.is_none() {
        item.error(format!("`{text}` is not a port; expected \"1\" to \"65535\""));
    }
    port
}

fn read_list<T>(fields: &Fields<'_>, name: &'static str, read: impl Fn(&Value<'_>) -> Option<T>) -> Vec<T> {
    fields.get(name).and_then(|list| list.list(|item| read(&item))).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use sailcloth_core::config::Problems;
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn problems(json: &str) -> Vec<String> {
        let node = Node::from_json(json.as_bytes()).unwrap();
        let problems = Problems::default();
        let _ = Operation::read(&Value::root(&node, &problems));
        problems.errors()
    }

    #[test]
    fn what_istio_refuses_is_refused() {
        let nothing =
            "an operation needs at least one of `methods`, `paths`, `hosts`, `ports` or their `not…` forms";
        for (json, expected) in [
            ("{}", nothing),
            (r#"{"paths": []}"#, nothing),
            (r#"{"methods": [""]}"#, "methods[0]: may not be empty"),
            (r#"{"method": ["GET"], "paths": ["/"]}"#, "method: unknown field; did you mean `methods`?"),
            (r#"{"ports": ["+80"]}"#, "ports[0]: `+80` is not a port; expected \"1\" to \"65535\""),
            (r#"{"ports": ["65536"]}"#, "ports[0]: `65536` is not a port; expected \"1\" to \"65535\""),
            (r#"{"ports": [80]}"#, "ports[0]: expected a string, found a number"),
            (
                r#"{"paths": ["/a/{*}b"]}"#,
                "paths[0]: `/a/{*}b`: `{*}` and `{**}` must be whole segments of a path template",
            ),
            (
                r#"{"paths": ["/a/{id}"]}"#,
                "paths[0]: `/a/{id}` contains `{` or `}`, which Istio reserves for path templates",
            ),
        ] {
            assert_eq!(problems(json), [expected], "{json}");
        }
    }

    #[test]
    fn every_field_is_read() {
        let json = r#"{"methods":["GET"],"notMethods":["PUT"],"paths":["/a"],"notPaths":["/b"],
            "hosts":["c"],"notHosts":["d"],"ports":["80"],"notPorts":["0"]}"#;
        assert_eq!(problems(json), Vec::<String>::new());
    }
}
