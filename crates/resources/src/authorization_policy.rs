//! Istio's AuthorizationPolicy (`security.istio.io`; `istio-api.md` section 2).

use std::net::IpAddr;

use ipnet::IpNet;
use sailcloth_core::config::{Fields, Node, Value};

use crate::operation::Operation;
use crate::{Kind, Metadata, Resource, Scope};

/// Why a field of the schema is refused: this version cannot carry it out, and a rule that loses a condition matches
/// more than its author wrote.
const NOT_YET: &str =
    "is not supported by this version of the authz filter; Envoy's native `rbac` filter carries it out";

/// Istio's limits on `serviceAccounts`.
const MAX_SERVICE_ACCOUNTS: usize = 16;
const MAX_SERVICE_ACCOUNT_LENGTH: usize = 320;

/// The fields of a source, of which at least one must say something.
const SOURCE_FIELDS: [&str; 14] = [
    "principals",
    "notPrincipals",
    "requestPrincipals",
    "notRequestPrincipals",
    "namespaces",
    "notNamespaces",
    "serviceAccounts",
    "notServiceAccounts",
    "ipBlocks",
    "notIpBlocks",
    "remoteIpBlocks",
    "notRemoteIpBlocks",
    "trustDomains",
    "notTrustDomains",
];

/// Who may do what with a workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthorizationPolicy {
    /// Where it applies.
    pub scope: Scope,
    /// What a matching rule does.
    pub action: Action,
    /// Alternatives: the policy matches when one of them does.
    pub rules: Vec<Rule>,
    /// `istio.io/dry-run: "true"` or `sailcloth.dev/mode: shadow`: computed and counted, never enforced.
    pub shadow: bool,
}

/// What a matching rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The request is allowed; as soon as one such policy applies, everything else is denied.
    Allow,
    /// The request is denied, whatever allows it.
    Deny,
}

/// One rule: `from` and `to` must both hold; each is a list of alternatives, and holds where it was not written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rule {
    /// Alternatives of who calls.
    pub from: Option<Vec<Source>>,
    /// Alternatives of what is called.
    pub to: Option<Vec<Operation>>,
}

/// Values of a field: one of `values` must match where there are any, none of `not_values` may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition<T> {
    /// Alternatives; empty: no restriction.
    pub values: Vec<T>,
    /// Values that exclude.
    pub not_values: Vec<T>,
}

impl<T> Default for Condition<T> {
    fn default() -> Self {
        Self { values: Vec::new(), not_values: Vec::new() }
    }
}

impl<T> Condition<T> {
    /// Whether it says anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty() && self.not_values.is_empty()
    }
}

/// Who calls: every field that says something must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Source {
    /// `principals`: the peer's identity without `spiffe://`.
    pub principals: Condition<String>,
    /// `requestPrincipals`: issuer and subject of the verified token.
    pub request_principals: Condition<String>,
    /// `namespaces` of the peer's identity.
    pub namespaces: Condition<String>,
    /// `serviceAccounts` of the peer's identity, as namespace and name.
    pub service_accounts: Condition<ServiceAccount>,
    /// `ipBlocks`: the TCP peer.
    pub ip_blocks: Condition<IpNet>,
    /// `remoteIpBlocks`: the original client.
    pub remote_ip_blocks: Condition<IpNet>,
}

/// A service account; one without a namespace is in the policy's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceAccount {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl Resource for AuthorizationPolicy {
    const KINDS: &'static [Kind] = &[Kind::AUTHORIZATION_POLICY];
    const ANNOTATIONS: &'static [&'static str] = &["istio.io/dry-run", "sailcloth.dev/mode"];

    fn read(_: Kind, metadata: &Metadata, spec: &Value<'_>) -> Option<Self> {
        let fields = spec.fields()?;
        let scope = Scope::read(&fields);
        let action = read_action(&fields);
        fields.refuse(
            "provider",
            "goes with action CUSTOM, which is not supported by this version of the authz filter",
        );
        let written = fields.get("rules");
        let rules = written.as_ref().and_then(|rules| rules.list(|rule| read_rule(&rule, metadata)));
        if action == Some(Action::Deny) && written.is_none() {
            spec.error("a DENY policy without `rules` never matches; write the rules that deny, or `rules: [{}]` to deny all");
        }
        Some(Self {
            scope,
            action: action?,
            rules: rules.unwrap_or_default(),
            shadow: is_shadow(metadata, spec),
        })
    }

    fn scope(&self) -> Option<&Scope> {
        Some(&self.scope)
    }
}

fn read_action(fields: &Fields<'_>) -> Option<Action> {
    let Some(value) = fields.get("action") else { return Some(Action::Allow) };
    match value.text()? {
        "ALLOW" => Some(Action::Allow),
        "DENY" => Some(Action::Deny),
        action @ ("AUDIT" | "CUSTOM") => {
            value.error(format!("action `{action}` {NOT_YET}"));
            None
        }
        _ => value.word(&[("ALLOW", Action::Allow), ("DENY", Action::Deny)]),
    }
}

fn is_shadow(metadata: &Metadata, spec: &Value<'_>) -> bool {
    let dry_run = match metadata.annotation("istio.io/dry-run") {
        None => false,
        Some(text @ ("true" | "false")) => text == "true",
        Some(other) => {
            spec.error(format!(
                "annotation `istio.io/dry-run` is `{other}`; expected `\"true\"` or `\"false\"`"
            ));
            false
        }
    };
    let shadow = metadata.is_shadow(spec);
    dry_run || shadow
}

fn read_rule(value: &Value<'_>, metadata: &Metadata) -> Option<Rule> {
    let fields = value.fields()?;
    fields.refuse("when", NOT_YET);
    let from = fields
        .get("from")
        .and_then(|from| alternatives(&from, "source", |source| read_source(source, metadata)));
    let to = fields.get("to").and_then(|to| alternatives(&to, "operation", Operation::read));
    Some(Rule { from, to })
}

/// A list of objects with one member each: `from: [{source: …}]`.
fn alternatives<T>(
    list: &Value<'_>,
    member: &'static str,
    read: impl Fn(&Value<'_>) -> Option<T>,
) -> Option<Vec<T>> {
    let items = list.list(|item| read(&item.fields()?.required(member)?))?;
    if list.items().is_some_and(|items| items.is_empty()) {
        list.error("may not be empty; leave it out where everything is meant");
    }
    Some(items)
}

fn read_source(value: &Value<'_>, metadata: &Metadata) -> Option<Source> {
    let fields = value.fields()?;
    for name in ["trustDomains", "notTrustDomains"] {
        fields.refuse(name, NOT_YET);
    }
    let namespaces = condition(&fields, "namespaces", "notNamespaces", text);
    let principals = condition(&fields, "principals", "notPrincipals", text);
    let service_accounts =
        condition(&fields, "serviceAccounts", "notServiceAccounts", |value| service_account(value, metadata));
    let has_identity_fields = !namespaces.is_empty() || !principals.is_empty();
    if !service_accounts.is_empty() && has_identity_fields {
        value.error("`serviceAccounts` cannot be combined with `principals` or `namespaces` in one source");
    }
    for list in [&service_accounts.values, &service_accounts.not_values] {
        if list.len() > MAX_SERVICE_ACCOUNTS {
            value.error(format!(
                "at most {MAX_SERVICE_ACCOUNTS} serviceAccounts are allowed, found {}",
                list.len()
            ));
        }
    }
    // A source whose lists are all empty would match everybody; Istio takes an empty list for an absent one and refuses
    // the source. Where something was written, what is wrong with it has been reported already.
    let written = |name: &'static str| {
        fields.get(name).is_some_and(|list| !matches!(list.node(), Node::List(items) if items.is_empty()))
    };
    if !SOURCE_FIELDS.into_iter().any(written) {
        value.error("an empty source says nothing; name at least one field");
    }
    Some(Source {
        principals,
        request_principals: condition(&fields, "requestPrincipals", "notRequestPrincipals", text),
        namespaces,
        service_accounts,
        ip_blocks: condition(&fields, "ipBlocks", "notIpBlocks", ip_block),
        remote_ip_blocks: condition(&fields, "remoteIpBlocks", "notRemoteIpBlocks", ip_block),
    })
}

fn condition<T>(
    fields: &Fields<'_>,
    name: &'static str,
    not_name: &'static str,
    read: impl Fn(&Value<'_>) -> Option<T>,
) -> Condition<T> {
    let list = |name| fields.get(name).and_then(|list| list.list(|item| read(&item))).unwrap_or_default();
    Condition { values: list(name), not_values: list(not_name) }
}

fn text(value: &Value<'_>) -> Option<String> {
    value.non_empty_text().map(str::to_owned)
}

fn ip_block(value: &Value<'_>) -> Option<IpNet> {
    let text = value.text()?;
    let block = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
    if block.is_none() {
        value
            .error(format!("`{text}` is not an IP address or CIDR block; expected a form like `10.0.0.0/8`"));
    }
    block.map(|block| block.trunc())
}

fn service_account(value: &Value<'_>, metadata: &Metadata) -> Option<ServiceAccount> {
    let text = value.non_empty_text()?;
    if text.len() > MAX_SERVICE_ACCOUNT_LENGTH {
        value.error(format!("is longer than {MAX_SERVICE_ACCOUNT_LENGTH} characters"));
    }
    let (namespace, name) = text.split_once('/').unwrap_or((&metadata.namespace, text));
    if text.contains('*') || name.is_empty() || namespace.is_empty() || name.contains('/') {
        value.error(format!(
            "`{text}` is not a service account; expected `name` or `namespace/name`, without `*`"
        ));
        return None;
    }
    Some(ServiceAccount { namespace: namespace.to_owned(), name: name.to_owned() })
}
