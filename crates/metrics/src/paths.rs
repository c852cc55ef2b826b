//! Path templates (`settings.paths`): `/users/4711` becomes `/users/{id}`.

use sailcloth_core::config::{Node, Value};

/// The value of a path that no template has.
const NONE: &str = "other";

/// Templates as a tree of segments. The most specific wins, segment by segment: a text before `{name}`, that before
/// `{**}`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Paths {
    root: Branch,
}

#[derive(Debug, Clone, Default)]
struct Branch {
    texts: Vec<(String, Branch)>,
    any: Option<Box<Branch>>,
    /// The template that ends here.
    here: Option<String>,
    /// The template that takes all that follows, nothing included.
    rest: Option<String>,
}

impl Paths {
    /// Reads `templates` (written), `openapi` (the keys of `paths`) and `virtualServices` (their `uri` matches).
    pub(crate) fn read(value: &Value<'_>) -> Self {
        let mut paths = Self::default();
        let Some(fields) = value.fields() else { return paths };
        for template in fields.get("templates").and_then(|list| list.items()).unwrap_or_default() {
            if let Some(text) = template.non_empty_text() {
                paths.add(text, &template);
            }
        }
        if let Some(openapi) = fields.get("openapi") {
            let known = openapi.node().field("paths");
            match known {
                Some(Node::Map(entries)) => entries.iter().for_each(|(path, _)| paths.add(path, &openapi)),
                _ => openapi.error("expected an OpenAPI document with `paths`"),
            }
        }
        for service in fields.get("virtualServices").and_then(|list| list.items()).unwrap_or_default() {
            paths.learn(&service);
        }
        paths
    }

    /// The `uri` matches of a VirtualService: what is exact is a template, what is a prefix takes all that follows.
    fn learn(&mut self, service: &Value<'_>) {
        let spec = service.node().field("spec").unwrap_or(service.node());
        let Some(Node::List(routes)) = spec.field("http") else {
            return service.error("expected a VirtualService with `http` routes");
        };
        let matches = routes.iter().filter_map(|route| match route.field("match") {
            Some(Node::List(matches)) => Some(matches),
            _ => None,
        });
        for uri in matches.flatten().filter_map(|entry| entry.field("uri")) {
            let text = |kind| uri.field(kind).and_then(Node::text);
            if let Some(exact) = text("exact") {
                self.add(exact, service);
            } else if let Some(prefix) = text("prefix") {
                self.add(&format!("{}/{{**}}", prefix.trim_end_matches('/')), service);
            } else if let Some(regex) = text("regex") {
                service.warn(format!("`{regex}` is no path template; write one for it in `templates`"));
            }
        }
    }

    fn add(&mut self, template: &str, place: &Value<'_>) {
        if !template.starts_with('/') || template.contains(['?', ';', '"', '\\']) {
            place.error(format!("`{template}` is not a path template; expected a form like `/users/{{id}}`"));
            return;
        }
        let mut branch = &mut self.root;
        let mut segments = template.split('/').skip(1).peekable();
        while let Some(segment) = segments.next() {
            let wild = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
            match wild {
                Some("**") if segments.peek().is_none() => {
                    branch.rest = Some(template.to_owned());
                    return;
                }
                Some("**") | None if segment.contains(['{', '}']) => {
                    place.error(format!(
                        "`{template}`: `{{name}}` is a whole segment, and `{{**}}` the last one"
                    ));
                    return;
                }
                Some(_) => branch = branch.any.get_or_insert_with(Box::default),
                None => branch = branch.text(segment),
            }
        }
        branch.here = Some(template.to_owned());
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.root.texts.is_empty() && self.root.any.is_none() && self.root.rest.is_none()
    }

    /// The template of a path.
    pub(crate) fn template(&self, path: &str) -> &str {
        let rest = path.strip_prefix('/').unwrap_or(path);
        self.root.find(Some(rest)).unwrap_or(NONE)
    }
}

impl Branch {
    fn text(&mut self, segment: &str) -> &mut Self {
        let found = self.texts.binary_search_by(|(known, _)| known.as_str().cmp(segment));
        let place = found.unwrap_or_else(|place| {
            self.texts.insert(place, (segment.to_owned(), Self::default()));
            place
        });
        #[expect(clippy::indexing_slicing, reason = "the search found the place, or the insertion made it")]
        &mut self.texts[place].1
    }

    /// Goes down each branch of the tree at most once, so a path costs no more than there are templates.
    fn find(&self, rest: Option<&str>) -> Option<&str> {
        let Some(rest) = rest else { return self.here.as_deref().or(self.rest.as_deref()) };
        let (segment, after) = match rest.split_once('/') {
            Some((segment, after)) => (segment, Some(after)),
            None => (rest, None),
        };
        let text = self.texts.binary_search_by(|(known, _)| known.as_str().cmp(segment)).ok();
        let text = text.and_then(|place| self.texts.get(place)).and_then(|(_, branch)| branch.find(after));
        let any = || self.any.as_ref().filter(|_| !segment.is_empty()).and_then(|branch| branch.find(after));
        text.or_else(any).or(self.rest.as_deref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sailcloth_core::config::Problems;
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn read(text: &str) -> (Paths, Vec<String>) {
        let node = Node::from_json(text.as_bytes()).unwrap();
        let problems = Problems::default();
        let paths = Paths::read(&Value::root(&node, &problems));
        (paths, problems.list().iter().map(ToString::to_string).collect())
    }

    #[test]
    fn the_most_specific_template_wins() {
        let (paths, problems) = read(
            r#"{"templates": ["/users/{id}", "/users/me", "/users/{id}/orders/{order}", "/static/{**}", "/"],
                "openapi": {"paths": {"/pets/{pet}": {}}},
                "virtualServices": [{"spec": {"http": [{"match": [{"uri": {"exact": "/health"}}, {"uri": {"prefix": "/api/"}}]}, {}]}}]}"#,
        );
        assert!(problems.is_empty(), "{problems:?}");
        for (path, expected) in [
            ("/users/4711", "/users/{id}"),
            ("/users/me", "/users/me"),
            ("/users/me/orders/1", "/users/{id}/orders/{order}"),
            ("/users/", "other"),
            ("/users", "other"),
            ("/users/1/", "other"),
            ("/static/a/b.css", "/static/{**}"),
            ("/static/", "/static/{**}"),
            ("/static", "/static/{**}"),
            ("/statics", "other"),
            ("/", "/"),
            ("/pets/rex", "/pets/{pet}"),
            ("/health", "/health"),
            ("/api", "/api/{**}"),
            ("/api/v1/x", "/api/{**}"),
            ("*", "other"),
            ("", "/"),
        ] {
            assert_eq!(paths.template(path), expected, "{path}");
        }
    }

    #[test]
    fn a_hostile_path_costs_no_more_than_the_tree() {
        let templates: Vec<String> = (0..12)
            .map(|n| {
                format!(
                    "\"/{}x\"",
                    (0..12).map(|bit| if n == bit { "a/" } else { "{b}/" }).collect::<String>()
                )
            })
            .collect();
        let (paths, _) = read(&format!(r#"{{"templates": [{}]}}"#, templates.join(",")));
        let path = "/a".repeat(30_000);
        assert_eq!(paths.template(&path), "other");
    }

    #[test]
    fn mistakes_are_told() {
        for (text, expected) in [
            (
                r#"{"templates": ["users"]}"#,
                "templates[0]: `users` is not a path template; expected a form like `/users/{id}`",
            ),
            (
                r#"{"templates": ["/a/{**}/b"]}"#,
                "templates[0]: `/a/{**}/b`: `{name}` is a whole segment, and `{**}` the last one",
            ),
            (
                r#"{"templates": ["/a-{x}"]}"#,
                "templates[0]: `/a-{x}`: `{name}` is a whole segment, and `{**}` the last one",
            ),
            (r#"{"openapi": {}}"#, "openapi: expected an OpenAPI document with `paths`"),
            (
                r#"{"virtualServices": [{}]}"#,
                "virtualServices[0]: expected a VirtualService with `http` routes",
            ),
            (r#"{"template": []}"#, "template: unknown field; did you mean `templates`?"),
        ] {
            assert_eq!(read(text).1, [expected], "{text}");
        }
    }
}
