//! Makes a configuration that shows a difference smaller, until nothing can be left out: what a person wants to read.

use sailcloth_core::config::Node;

/// What a document cannot do without.
const KEPT: [&str; 5] = ["apiVersion", "kind", "metadata", "name", "namespace"];

/// The smallest tree found that `shows` what `node` shows, by leaving out entries and items one by one.
pub fn smallest(node: &Node, shows: &mut dyn FnMut(&Node) -> bool) -> Node {
    let mut best = node.clone();
    loop {
        let count = places(&best);
        let smaller = (0..count).rev().find_map(|place| {
            let mut left = place;
            let candidate = without(&best, &mut left)?;
            shows(&candidate).then_some(candidate)
        });
        match smaller {
            Some(smaller) => best = smaller,
            None => return best,
        }
    }
}

/// How many items and entries there are.
fn places(node: &Node) -> usize {
    match node {
        Node::List(list) => list.iter().map(|item| 1 + places(item)).sum(),
        Node::Map(entries) => entries.iter().map(|(_, value)| 1 + places(value)).sum(),
        _ => 0,
    }
}

/// The tree without its nth item or entry, counted as [`places`] counts.
fn without(node: &Node, left: &mut usize) -> Option<Node> {
    match node {
        Node::List(list) => {
            for (index, item) in list.iter().enumerate() {
                let mut rest = list.clone();
                if *left == 0 {
                    rest.remove(index);
                    return Some(Node::List(rest));
                }
                *left -= 1;
                if let Some(smaller) = without(item, left) {
                    rest[index] = smaller;
                    return Some(Node::List(rest));
                }
            }
        }
        Node::Map(entries) => {
            for (index, (key, value)) in entries.iter().enumerate() {
                let mut rest = entries.clone();
                if *left == 0 {
                    *left = usize::MAX;
                    if KEPT.contains(&key.as_str()) {
                        return None;
                    }
                    rest.remove(index);
                    return Some(Node::Map(rest));
                }
                *left -= 1;
                if let Some(smaller) = without(value, left) {
                    rest[index].1 = smaller;
                    return Some(Node::Map(rest));
                }
                if *left == usize::MAX {
                    return None;
                }
            }
        }
        _ => {}
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml;

    #[test]
    fn only_what_matters_is_left() {
        let node = yaml::parse("{name: a, spec: {rules: [{x: [1, 2]}, {y: [3, 4]}], z: 5}}").unwrap();
        let smallest = smallest(&node, &mut |node| yaml::json(node).contains('3'));
        assert_eq!(yaml::json(&smallest), r#"{"name":"a","spec":{"rules":[{"y":[3]}]}}"#);
    }
}
