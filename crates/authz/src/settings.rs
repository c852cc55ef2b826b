//! The filter's own settings.

use sailcloth_core::config::Fields;
use sailcloth_resources::is_token;

use crate::provider::Provider;

/// `settings` beside those that all filters share.
#[derive(Debug, Default)]
pub(crate) struct Settings {
    /// `trustDomainAliases`: trust domains that mean the same as the workload's own (Istio's
    /// `meshConfig.trustDomainAliases`).
    pub(crate) trust_domain_aliases: Vec<String>,
    /// `extensionProviders`: whom CUSTOM policies ask (Istio's `meshConfig.extensionProviders`).
    pub(crate) providers: Vec<Provider>,
    /// `decisionHeader`: the response header of a refusal that names the decision; none by default.
    pub(crate) decision_header: Option<String>,
}

impl Settings {
    pub(crate) fn read(fields: &Fields<'_>) -> Self {
        let aliases = fields.get("trustDomainAliases").and_then(|aliases| aliases.strings());
        let providers =
            fields.get("extensionProviders").and_then(|list| list.list(|item| Provider::read(&item)));
        let header = fields.get("decisionHeader").and_then(|value| {
            let name = value.non_empty_text()?.to_ascii_lowercase();
            if !is_token(&name) {
                value.error(format!("`{name}` is not a header name"));
            }
            Some(name)
        });
        Self {
            trust_domain_aliases: aliases.unwrap_or_default(),
            providers: providers.unwrap_or_default(),
            decision_header: header,
        }
    }
}
