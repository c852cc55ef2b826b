//! A node of the configuration together with its path: what typed readers work on.

use std::cell::RefCell;
use std::time::Duration;

use super::{Node, Path, Problem, Problems, Severity, duration};

/// A node, where it is, and where to report what is wrong with it.
///
/// Every reading method reports a problem and returns `None` when the node is not what was asked for; the reader goes
/// on, so that all problems of a document come out at once.
#[derive(Debug, Clone)]
pub struct Value<'n> {
    node: &'n Node,
    path: Path,
    problems: Problems,
}

impl<'n> Value<'n> {
    /// The root of a document.
    #[must_use]
    pub fn root(node: &'n Node, problems: &Problems) -> Self {
        Self::at(node, Path::default(), problems)
    }

    /// A value at a given path, for documents that are part of a larger one.
    #[must_use]
    pub fn at(node: &'n Node, path: Path, problems: &Problems) -> Self {
        Self { node, path, problems: problems.clone() }
    }

    /// The node itself.
    #[must_use]
    pub fn node(&self) -> &'n Node {
        self.node
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The list that problems are reported into.
    #[must_use]
    pub fn problems(&self) -> &Problems {
        &self.problems
    }

    /// Reports something that refuses the configuration.
    #[inline(never)]
    pub fn error(&self, message: impl Into<String>) {
        self.report(Severity::Error, message.into());
    }

    /// Reports something the person should know although it takes effect.
    #[inline(never)]
    pub fn warn(&self, message: impl Into<String>) {
        self.report(Severity::Warning, message.into());
    }

    #[inline(never)]
    fn report(&self, severity: Severity, message: String) {
        self.problems.report(Problem { severity, path: self.path.to_string(), message });
    }

    #[inline(never)]
    fn unexpected<T>(&self, expected: &str) -> Option<T> {
        self.error(format!("expected {expected}, found {}", self.node.kind()));
        None
    }

    /// The fields of an object. Duplicate keys are reported here, unknown ones when the [`Fields`] is dropped.
    #[must_use]
    #[inline(never)]
    pub fn fields(&self) -> Option<Fields<'n>> {
        match self.node {
            Node::Map(entries) => Some(Fields::new(self.clone(), entries)),
            _ => self.unexpected("an object"),
        }
    }

    /// The entries of an object whose keys are free text (labels, headers); duplicates are reported.
    #[must_use]
    #[inline(never)]
    pub fn entries(&self) -> Option<Vec<(&'n str, Value<'n>)>> {
        let Node::Map(entries) = self.node else { return self.unexpected("an object") };
        report_duplicates(self, entries, |key| key.to_owned());
        Some(entries.iter().map(|(key, node)| (key.as_str(), self.child(node, self.path.key(key)))).collect())
    }

    /// The items of a list.
    #[must_use]
    #[inline(never)]
    pub fn items(&self) -> Option<Vec<Value<'n>>> {
        let Node::List(items) = self.node else { return self.unexpected("a list") };
        Some(items.iter().enumerate().map(|(index, node)| self.child(node, self.path.index(index))).collect())
    }

    /// The items of a list, each read by `read`; items that cannot be read have reported why and are left out.
    #[must_use]
    pub fn list<T>(&self, mut read: impl FnMut(Value<'n>) -> Option<T>) -> Option<Vec<T>> {
        // A plain loop: the collecting adapters are several kB in a module for each kind of item.
        let mut list = Vec::new();
        for item in self.items()? {
            if let Some(item) = read(item) {
                list.push(item);
            }
        }
        Some(list)
    }

    /// A string.
    #[must_use]
    #[inline(never)]
    pub fn text(&self) -> Option<&'n str> {
        self.node.text().or_else(|| self.unexpected("a string"))
    }

    /// A string that is not empty.
    #[must_use]
    #[inline(never)]
    pub fn non_empty_text(&self) -> Option<&'n str> {
        let text = self.text()?;
        if text.is_empty() {
            self.error("may not be empty");
            return None;
        }
        Some(text)
    }

    /// A list of strings.
    #[must_use]
    #[inline(never)]
    pub fn strings(&self) -> Option<Vec<String>> {
        self.list(|item| item.text().map(str::to_owned))
    }

    /// A map of strings to strings (labels, annotations).
    #[must_use]
    #[inline(never)]
    pub fn string_map(&self) -> Option<Vec<(String, String)>> {
        let entries = self.entries()?.into_iter();
        Some(entries.filter_map(|(key, value)| Some((key.to_owned(), value.text()?.to_owned()))).collect())
    }

    /// `true` or `false`.
    #[must_use]
    #[inline(never)]
    pub fn boolean(&self) -> Option<bool> {
        match self.node {
            Node::Bool(value) => Some(*value),
            _ => self.unexpected("true or false"),
        }
    }

    /// A whole number from `min` to `max`. A double without a fraction counts, since `google.protobuf.Struct` knows no
    /// other numbers.
    #[must_use]
    #[inline(never)]
    pub fn integer(&self, min: i64, max: i64) -> Option<i64> {
        let Some(number) = whole_number(self.node) else { return self.unexpected("a whole number") };
        if number < min || number > max {
            self.error(format!("{number} is out of range; expected {min} to {max}"));
            return None;
        }
        Some(number)
    }

    /// A number, whole or not. Text that reads as one counts, as in protobuf's JSON; Envoy's own reader of YAML makes text
    /// of every number with a fraction (seen on 1.40).
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "past 2^53 no number here means anything")]
    #[inline(never)]
    pub fn number(&self) -> Option<f64> {
        match self.node {
            Node::Integer(number) => Some(*number as f64),
            Node::Float(number) => Some(*number),
            Node::Text(text) => decimal(text).or_else(|| self.unexpected("a number")),
            _ => self.unexpected("a number"),
        }
    }

    /// A duration such as `10s`, `1m30s`, `250ms` (Istio writes them like Go).
    #[must_use]
    #[inline(never)]
    pub fn duration(&self) -> Option<Duration> {
        let text = self.text()?;
        let parsed = duration::parse(text);
        if parsed.is_none() {
            self.error(format!("`{text}` is not a duration; expected a form like `10s`, `1m30s` or `250ms`"));
        }
        parsed
    }

    /// One of a fixed set of words.
    #[must_use]
    pub fn word<T: Copy>(&self, words: &[(&'static str, T)]) -> Option<T> {
        let text = self.text()?;
        if let Some((_, meaning)) = words.iter().find(|(word, _)| *word == text) {
            return Some(*meaning);
        }
        let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let listed: Vec<String> = names.iter().map(|word| format!("`{word}`")).collect();
        self.error(format!("unknown value `{text}`; expected {}", listed.join(", ")));
        None
    }

    #[inline(never)]
    fn child(&self, node: &'n Node, path: Path) -> Self {
        Self { node, path, problems: self.problems.clone() }
    }
}

/// `-12.5`. By hand: the library's reader of floats would be 14 kB of every module.
fn decimal(text: &str) -> Option<f64> {
    let (sign, digits) = text.strip_prefix('-').map_or((1.0, text), |digits| (-1.0, digits));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|digit| digit.is_ascii_digit());
    if !is_number(whole) || !is_number(fraction) {
        return None;
    }
    let read = |part: &str| part.bytes().fold(0.0, |sum, digit| sum * 10.0 + f64::from(digit - b'0'));
    let scale = fraction.bytes().fold(1.0, |scale, _| scale * 10.0);
    Some(sign * (read(whole) + read(fraction) / scale))
}

#[expect(clippy::cast_possible_truncation, reason = "the range is checked before the cast")]
fn whole_number(node: &Node) -> Option<i64> {
    match node {
        Node::Integer(number) => Some(*number),
        Node::Float(number) if number.fract() == 0.0 && number.abs() < 9e15 => Some(*number as i64),
        _ => None,
    }
}

/// The fields of one object, of which a reader takes those it knows.
///
/// Istio reads `jwksUri` and `jwks_uri` alike (protobuf's JSON mapping); so does this.
#[derive(Debug)]
pub struct Fields<'n> {
    value: Value<'n>,
    entries: &'n [(String, Node)],
    known: RefCell<Vec<&'static str>>,
}

impl<'n> Fields<'n> {
    fn new(value: Value<'n>, entries: &'n [(String, Node)]) -> Self {
        report_duplicates(&value, entries, camel_case);
        Self { value, entries, known: RefCell::default() }
    }

    /// The object itself, to report problems of it as a whole.
    #[must_use]
    pub fn value(&self) -> &Value<'n> {
        &self.value
    }

    /// A field, if it is there and not `null` (null is absence in protobuf's JSON mapping).
    #[must_use]
    #[inline(never)]
    pub fn get(&self, name: &'static str) -> Option<Value<'n>> {
        if let Ok(mut known) = self.known.try_borrow_mut() {
            known.push(name);
        }
        #[cfg(not(target_family = "wasm"))]
        self.value.problems.asked(&self.value.path, name);
        let (key, node) = self.entries.iter().find(|(key, _)| is_called(key, name))?;
        (!matches!(node, Node::Null)).then(|| self.value.child(node, self.value.path.key(key)))
    }

    /// A field that must be there.
    #[must_use]
    #[inline(never)]
    pub fn required(&self, name: &'static str) -> Option<Value<'n>> {
        let found = self.get(name);
        if found.is_none() {
            self.value.error(format!("missing field `{name}`"));
        }
        found
    }

    /// Refuses a field that exists in the schema and cannot take effect here.
    #[inline(never)]
    pub fn refuse(&self, name: &'static str, why: &str) {
        if let Some(value) = self.get(name) {
            value.error(format!("`{name}` {why}"));
        }
    }

    /// Which of several exclusive fields are there.
    #[must_use]
    #[inline(never)]
    pub fn one_of(&self, names: &[&'static str]) -> Option<(&'static str, Value<'n>)> {
        let mut present: Vec<_> =
            names.iter().filter_map(|name| self.get(name).map(|value| (*name, value))).collect();
        if present.len() > 1 {
            let listed: Vec<String> = present.iter().map(|(name, _)| format!("`{name}`")).collect();
            self.value.error(format!("{} exclude each other; keep one", listed.join(" and ")));
            return None;
        }
        present.pop()
    }

    /// Whether the object was written as `{}`.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

impl Drop for Fields<'_> {
    #[inline(never)]
    fn drop(&mut self) {
        let known = self.known.try_borrow().map(|known| known.clone()).unwrap_or_default();
        let unknown = self.entries.iter().filter(|(key, _)| !known.iter().any(|name| is_called(key, name)));
        for (key, node) in unknown {
            let hint = did_you_mean(key, &known);
            self.value.child(node, self.value.path.key(key)).error(format!("unknown field{hint}"));
        }
    }
}

fn report_duplicates(value: &Value<'_>, entries: &[(String, Node)], same: impl Fn(&str) -> String) {
    let mut seen = std::collections::BTreeSet::new();
    for (key, node) in entries {
        if !seen.insert(same(key)) {
            value.child_error(node, key);
        }
    }
}

impl Value<'_> {
    #[inline(never)]
    fn child_error(&self, node: &Node, key: &str) {
        Value { node, path: self.path.key(key), problems: self.problems.clone() }
            .error("is written twice; keep one");
    }
}

fn is_called(key: &str, name: &str) -> bool {
    key == name || (key.contains('_') && camel_case(key) == name)
}

/// `jwks_uri` → `jwksUri`; text without underscores is returned as it is.
fn camel_case(key: &str) -> String {
    let mut upper = false;
    let mut out = String::with_capacity(key.len());
    for letter in key.chars() {
        if letter == '_' {
            upper = !out.is_empty();
        } else if upper {
            // Field names are ASCII; the tables of Unicode's cases would be 20 kB of every module.
            out.push(letter.to_ascii_uppercase());
            upper = false;
        } else {
            out.push(letter);
        }
    }
    out
}

/// `; did you mean `methods`?` when one of the known names is close to what was written, else nothing.
#[must_use]
pub fn did_you_mean(written: &str, known: &[&str]) -> String {
    let distance =
        |name: &&str| strsim::osa_distance(&written.to_ascii_lowercase(), &name.to_ascii_lowercase());
    let nearest = known.iter().copied().map(|name| (distance(&name), name)).min();
    match nearest {
        Some((distance, name)) if distance <= (name.len() / 3).max(1) => format!("; did you mean `{name}`?"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn read(json: &str, reader: impl FnOnce(&Value<'_>)) -> Vec<String> {
        let node = Node::from_json(json.as_bytes()).unwrap();
        let problems = Problems::default();
        reader(&Value::root(&node, &problems));
        problems.errors()
    }

    #[test]
    fn every_problem_is_reported_with_its_path() {
        let errors = read(r#"{"rules": [{"methds": []}, 5, {"methods": "GET"}]}"#, |root| {
            let fields = root.fields().unwrap();
            let _ = fields.get("rules").unwrap().list(|rule| rule.fields()?.get("methods")?.strings());
        });
        assert_eq!(
            errors,
            [
                "rules[0].methds: unknown field; did you mean `methods`?",
                "rules[1]: expected an object, found a number",
                "rules[2].methods: expected a list, found a string",
            ]
        );
    }

    #[test]
    fn a_field_nobody_asked_for_is_an_error() {
        assert_eq!(read(r#"{"surprise": 1}"#, |root| drop(root.fields())), ["surprise: unknown field"]);
    }

    #[test]
    fn duplicate_keys_are_errors_in_both_spellings() {
        let errors = read(r#"{"jwksUri": "a", "jwks_uri": "b"}"#, |root| {
            let _ = root.fields().unwrap().get("jwksUri");
        });
        assert_eq!(errors, ["jwks_uri: is written twice; keep one"]);
    }

    #[test]
    fn snake_case_names_are_read() {
        let errors = read(r#"{"jwks_uri": "a"}"#, |root| {
            assert_eq!(root.fields().unwrap().get("jwksUri").unwrap().text(), Some("a"));
        });
        assert!(errors.is_empty(), "{errors:?}");
    }

    #[test]
    fn exclusive_fields_exclude_each_other() {
        let errors = read(r#"{"uri": {"exact": "/", "prefix": "/"}}"#, |root| {
            let fields = root.fields().unwrap();
            let uri = fields.get("uri").unwrap().fields().unwrap();
            assert!(uri.one_of(&["exact", "prefix", "regex"]).is_none());
        });
        assert_eq!(errors, ["uri: `exact` and `prefix` exclude each other; keep one"]);
    }

    #[test]
    fn odd_keys_are_quoted_in_paths() {
        let errors = read(r#"{"annotations": {"sailcloth.dev/mode": 1}}"#, |root| {
            let _ = root.fields().unwrap().get("annotations").unwrap().string_map();
        });
        assert_eq!(errors, [r#"annotations["sailcloth.dev/mode"]: expected a string, found a number"#]);
    }

    #[test]
    fn numbers_may_have_fractions_and_be_written_as_text() {
        let errors = read(r#"[1, -2.5, "0.001", "-10.0", "7", "1e3", ".5", "1.", "", true]"#, |root| {
            let numbers: Vec<_> = root.items().unwrap().iter().filter_map(Value::number).collect();
            assert_eq!(numbers, [1.0, -2.5, 0.001, -10.0, 7.0]);
        });
        assert_eq!(errors.len(), 5, "{errors:?}");
    }

    #[test]
    fn whole_doubles_are_whole_numbers() {
        let errors = read("[90.0, 1e3, 0.5, 1e300]", |root| {
            let numbers: Vec<_> = root.items().unwrap().iter().map(|item| item.integer(0, 1000)).collect();
            assert_eq!(numbers, [Some(90), Some(1000), None, None]);
        });
        assert_eq!(errors.len(), 2);
    }
}
