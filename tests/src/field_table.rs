//! The table of a filter's README that says of every field of a resource whether it works, held against Istio's schema.

use sailcloth_core::config::Node;

use crate::yaml::entries;

/// What a README says about a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// The second column begins with `works`.
    Works,
    /// The second column begins with `refused`.
    Refused,
}

/// Every field of an `openAPIV3Schema`, as `jwtRules[].fromHeaders[].name`; protobuf's second spelling of a name
/// (`jwks_uri`) is the same field.
#[must_use]
pub fn fields(schema: &Node) -> Vec<String> {
    let mut found = Vec::new();
    collect(schema, "", &mut found);
    found
}

fn collect(schema: &Node, prefix: &str, found: &mut Vec<String>) {
    let (schema, prefix) = match schema.field("items") {
        Some(items) => (items, format!("{prefix}[].")),
        None if prefix.is_empty() => (schema, String::new()),
        None => (schema, format!("{prefix}.")),
    };
    for (name, field) in entries(schema.field("properties")).iter().filter(|(name, _)| !name.contains('_')) {
        let path = format!("{prefix}{name}");
        found.push(path.clone());
        collect(field, &path, found);
    }
}

/// What the tables of a README say about a field: every row whose first column names it in back quotes.
#[must_use]
pub fn claims(readme: &str, field: &str) -> Vec<Claim> {
    let named = format!("`{field}`");
    let rows = readme.lines().filter_map(|line| line.strip_prefix("| ")?.split_once(" | "));
    rows.filter(|(names, _)| names.split(", ").any(|name| name == named))
        .filter_map(|(_, says)| match says {
            says if says.starts_with("works") => Some(Claim::Works),
            says if says.starts_with("refused") => Some(Claim::Refused),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_is_walked_and_a_table_is_read() {
        let schema = crate::yaml::parse(
            "{properties: {a: {type: string}, b_c: {type: string}, l: {items: {properties: {x: {}}}}, o: {properties: {y: {}}}}}",
        )
        .unwrap();
        assert_eq!(fields(&schema), ["a", "l", "l[].x", "o", "o.y"]);
        let readme =
            "| field | works |\n| `a`, `l[].x` | works; so |\n| `o` | refused: no |\n| `o` | a note |";
        assert_eq!(claims(readme, "a"), [Claim::Works]);
        assert_eq!(claims(readme, "l[].x"), [Claim::Works]);
        assert_eq!(claims(readme, "o"), [Claim::Refused]);
        assert_eq!(claims(readme, "x"), []);
    }
}
