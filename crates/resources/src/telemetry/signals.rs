//! `tracing` and `accessLogging`: carried out by Envoy itself, but written here, so mistakes in them are told here
//! (`istio-api.md` 8.4, 8.5).

use sailcloth_core::config::{Fields, Node, Value};

use super::{read_mode, read_providers};

/// Reads `tracing` strictly.
pub(super) fn check_tracing(value: &Value<'_>) {
    let blocks = value.list(|block| {
        let fields = block.fields()?;
        common(&fields);
        if read_providers(&fields).len() > 1 {
            block.warn("only the first of several tracing providers is used");
        }
        if let Some(percentage) = fields.get("randomSamplingPercentage") {
            let in_range = match percentage.node() {
                Node::Integer(number) => (0..=100).contains(number),
                Node::Float(number) => (0.0..=100.0).contains(number),
                _ => false,
            };
            if !in_range {
                percentage.error("expected a percentage from 0 to 100");
            }
        }
        for flag in [
            "disableSpanReporting",
            "useRequestIdForTraceSampling",
            "enableIstioTags",
            "disableContextPropagation",
        ] {
            let _ = fields.get(flag).map(|value| value.boolean());
        }
        for (_, tag) in fields.get("customTags").and_then(|tags| tags.entries()).unwrap_or_default() {
            check_tag(&tag);
        }
        Some(())
    });
    if blocks.is_some_and(|blocks| blocks.len() > 1) {
        value.warn("multiple `tracing` blocks: only the first is used");
    }
}

fn check_tag(tag: &Value<'_>) {
    let Some(fields) = tag.fields() else { return };
    let kinds: [(&'static str, &[&'static str]); 4] = [
        ("literal", &["value"]),
        ("environment", &["name", "defaultValue"]),
        ("header", &["name", "defaultValue"]),
        ("formatter", &["value"]),
    ];
    match fields.one_of(&kinds.map(|(kind, _)| kind)) {
        Some((kind, value)) => {
            let Some(inner) = value.fields() else { return };
            let known =
                kinds.iter().find(|(name, _)| *name == kind).map(|(_, parts)| *parts).unwrap_or_default();
            for (index, part) in known.iter().enumerate() {
                let text = if index == 0 { inner.required(part) } else { inner.get(part) };
                let _ = text.map(|text| if index == 0 { text.non_empty_text() } else { text.text() });
            }
        }
        None => tag.error("a tag needs one of `literal`, `environment`, `header`, `formatter`"),
    }
}

/// Reads `accessLogging` strictly.
pub(super) fn check_access_logging(value: &Value<'_>) {
    let _ = value.list(|block| {
        let fields = block.fields()?;
        common(&fields);
        let _ = read_providers(&fields);
        let _ = fields.get("disabled").map(|flag| flag.boolean());
        if let Some(filter) = fields.get("filter") {
            let _ = filter.fields()?.get("expression").map(|text| text.text());
        }
        Some(())
    });
}

fn common(fields: &Fields<'_>) {
    if let Some(selected) = fields.get("match") {
        let _ = selected.fields().and_then(|fields| fields.get("mode").and_then(|mode| read_mode(&mode)));
    }
}
