//! YAML to [`Node`] and back to JSON: everything that was written is kept, duplicate keys included.

use std::fmt::Write as _;

use sailcloth_core::config::Node;
use serde_saphyr::{DuplicateKeyPolicy, Options};

fn options() -> Options {
    serde_saphyr::options! {
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        strict_booleans: true,
        // Conformance tables are long, and read from disk by us alone.
        budget: None,
    }
}

/// Reads one document.
///
/// # Errors
/// What the parser says, with line and column.
pub fn parse(text: &str) -> Result<Node, String> {
    serde_saphyr::from_str_with_options(text, options()).map_err(|error| error.to_string())
}

/// Reads all documents of a text; empty ones are left out.
///
/// # Errors
/// What the parser says, with line and column.
pub fn documents(text: &str) -> Result<Vec<Node>, String> {
    let all: Vec<Node> =
        serde_saphyr::from_multiple_with_options(text, options()).map_err(|error| error.to_string())?;
    Ok(all.into_iter().filter(|node| !matches!(node, Node::Null)).collect())
}

/// The tree as JSON text, which is also YAML. Duplicate keys stay duplicate.
#[must_use]
pub fn json(node: &Node) -> String {
    let mut out = String::new();
    write(node, &mut out);
    out
}

fn write(node: &Node, out: &mut String) {
    match node {
        Node::Null => out.push_str("null"),
        Node::Bool(flag) => drop(write!(out, "{flag}")),
        Node::Integer(number) => drop(write!(out, "{number}")),
        Node::Float(number) => drop(write!(out, "{number:?}")),
        Node::Text(text) => out.push_str(&quoted(text)),
        Node::List(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                out.push_str(if index > 0 { "," } else { "" });
                write(item, out);
            }
            out.push(']');
        }
        Node::Map(entries) => {
            out.push('{');
            for (index, (key, value)) in entries.iter().enumerate() {
                out.push_str(if index > 0 { "," } else { "" });
                out.push_str(&quoted(key));
                out.push(':');
                write(value, out);
            }
            out.push('}');
        }
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A map node.
#[must_use]
pub fn map(entries: Vec<(&str, Node)>) -> Node {
    Node::Map(entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}

/// A text node.
#[must_use]
pub fn text(text: impl Into<String>) -> Node {
    Node::Text(text.into())
}

/// The node at a path of keys.
#[must_use]
pub fn at<'n>(node: &'n Node, path: &[&str]) -> Option<&'n Node> {
    path.iter().try_fold(node, |node, key| node.field(key))
}

/// The items of a list; none when it is no list.
#[must_use]
pub fn items(node: Option<&Node>) -> &[Node] {
    match node {
        Some(Node::List(items)) => items,
        _ => &[],
    }
}

/// The entries of a map; none when it is no map.
#[must_use]
pub fn entries(node: Option<&Node>) -> &[(String, Node)] {
    match node {
        Some(Node::Map(entries)) => entries,
        _ => &[],
    }
}

/// Sets `path` in a tree of maps, making what is missing.
pub fn set(node: &mut Node, path: &[&str], value: Node) {
    let Some((key, rest)) = path.split_first() else {
        *node = value;
        return;
    };
    if !matches!(node, Node::Map(_)) {
        *node = Node::Map(Vec::new());
    }
    let Node::Map(entries) = node else { return };
    if let Some((_, child)) = entries.iter_mut().find(|(name, _)| name == key) {
        set(child, rest, value);
    } else {
        let mut child = Node::Null;
        set(&mut child, rest, value);
        entries.push(((*key).to_owned(), child));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_kept() {
        let node = parse("{a: 1, a: \"2\", b: [yes, true, ~, 1.5, \"x: y\"]}").unwrap();
        assert_eq!(json(&node), r#"{"a":1,"a":"2","b":["yes",true,null,1.5,"x: y"]}"#);
        assert_eq!(Node::from_json(json(&node).as_bytes()).unwrap(), node);
    }

    #[test]
    fn documents_are_told_apart() {
        assert_eq!(documents("# nothing\n---\na: 1\n---\n---\nb: 2\n").unwrap().len(), 2);
        assert!(documents("a: [").is_err());
    }
}
