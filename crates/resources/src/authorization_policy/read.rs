//! Reading a policy: what Istio's validation refuses, with its place.

use std::net::IpAddr;

use ipnet::IpNet;
use sailcloth_core::config::{Fields, Node, Value};

use super::when::{Key, When, read_key};
use super::{Action, AuthorizationPolicy, Condition, Dialect, Rule, ServiceAccount, Source, Staged};
use crate::deny_reply::DenyReply;
use crate::operation::Operation;
use crate::{Metadata, Scope};

/// Istio's limits on `serviceAccounts`.
const MAX_SERVICE_ACCOUNTS: usize = 16;
const MAX_SERVICE_ACCOUNT_LENGTH: usize = 320;

/// The limit of Istio's schema on `rules` and `from`.
const MAX_ITEMS: usize = 512;

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

/// The policy that is being read.
#[derive(Clone, Copy)]
pub(super) struct PolicyText<'m> {
    pub(super) dialect: Dialect,
    pub(super) metadata: &'m Metadata,
}

pub(super) fn policy(policy: PolicyText<'_>, spec: &Value<'_>) -> Option<AuthorizationPolicy> {
    let fields = spec.fields()?;
    let scope = Scope::read(&fields);
    let action = read_action(&fields);
    let written = fields.get("rules");
    let rules = written.as_ref().and_then(|rules| rules.list(|rule| read_rule(&rule, policy)));
    if let Some(rules) = &written {
        limit(rules, policy.dialect);
    }
    let nothing = written.as_ref().is_none_or(|rules| rules.items().is_some_and(|items| items.is_empty()));
    if let (Some(action @ (Action::Deny | Action::Custom { .. })), true) = (&action, nothing) {
        let word = if *action == Action::Deny { "DENY" } else { "CUSTOM" };
        spec.error(format!(
            "a {word} policy without `rules` never matches; write rules, or `rules: [{{}}]` for every request"
        ));
    }
    if let (Some(Action::Custom { .. }), Dialect::Istio, Some(rules)) = (&action, policy.dialect, &written) {
        refuse_identity(rules);
    }
    let appearance = match policy.dialect {
        Dialect::Istio => annotated(policy.metadata, action.as_ref(), spec),
        Dialect::Ours => stated(policy.metadata, &fields, spec),
    };
    if appearance.shadow && matches!(action, Some(Action::Audit | Action::Custom { .. })) {
        spec.error("only ALLOW and DENY policies can be in shadow mode: AUDIT decides nothing, CUSTOM asks somebody else");
    }
    if appearance.staged.is_some() && !matches!(action, Some(Action::Allow | Action::Deny) | None) {
        spec.error("`enforce` goes with ALLOW and DENY");
    }
    Some(AuthorizationPolicy {
        scope,
        action: action?,
        rules: rules.unwrap_or_default(),
        shadow: appearance.shadow,
        staged: appearance.staged,
        deny: appearance.deny,
    })
}

/// How a policy looks and whether it acts: annotations of Istio's kind, fields of ours.
#[derive(Default)]
struct Appearance {
    shadow: bool,
    staged: Option<Staged>,
    deny: DenyReply,
}

fn read_action(fields: &Fields<'_>) -> Option<Action> {
    let provider = fields.get("provider");
    let name = || {
        let Some(provider) = &provider else {
            fields.value().error("action CUSTOM needs `provider.name`");
            return None;
        };
        provider.fields()?.required("name")?.non_empty_text().map(str::to_owned)
    };
    let words = [("ALLOW", 0), ("DENY", 1), ("AUDIT", 2), ("CUSTOM", 3)];
    let word = match fields.get("action") {
        Some(action) => action.word(&words)?,
        None => 0,
    };
    if let (Some(provider), false) = (&provider, word == 3) {
        provider.error("goes with action CUSTOM only");
    }
    match word {
        0 => Some(Action::Allow),
        1 => Some(Action::Deny),
        2 => Some(Action::Audit),
        _ => name().map(|provider| Action::Custom { provider }),
    }
}

fn annotated(metadata: &Metadata, action: Option<&Action>, spec: &Value<'_>) -> Appearance {
    let mut shadow = false;
    match metadata.annotation("istio.io/dry-run") {
        None => {}
        Some(text @ ("true" | "false")) => shadow = text == "true",
        Some(other) => spec
            .error(format!("annotation `istio.io/dry-run` is `{other}`; expected `\"true\"` or `\"false\"`")),
    }
    shadow |= metadata.is_shadow(spec);
    let mut appearance = Appearance { shadow, ..Appearance::default() };
    if let Some(text) = metadata.annotation("sailcloth.dev/deny") {
        match Node::from_json(text.as_bytes()) {
            Ok(node) => {
                let path = spec.path().key("annotation sailcloth.dev/deny");
                appearance.deny =
                    DenyReply::read(&Value::at(&node, path, spec.problems())).unwrap_or_default();
            }
            Err(error) => {
                spec.error(format!("annotation `sailcloth.dev/deny` holds no JSON object: {error}"))
            }
        }
        if matches!(action, Some(Action::Audit | Action::Custom { .. })) {
            spec.error("annotation `sailcloth.dev/deny` goes with ALLOW and DENY: AUDIT refuses nothing, a CUSTOM refusal is the provider's");
        }
    }
    appearance
}

fn stated(metadata: &Metadata, fields: &Fields<'_>, spec: &Value<'_>) -> Appearance {
    for name in ["istio.io/dry-run", "sailcloth.dev/mode", "sailcloth.dev/deny"] {
        if metadata.annotation(name).is_some() {
            spec.error(format!(
                "annotation `{name}` belongs on Istio's kind; here write `spec.mode` or `spec.deny`"
            ));
        }
    }
    let shadow = fields.get("mode").and_then(|mode| mode.word(&[("enforce", false), ("shadow", true)]));
    let staged = fields.get("enforce").and_then(|enforce| read_staged(&enforce));
    if shadow == Some(true) && staged.is_some() {
        spec.error("`mode: shadow` and `enforce` exclude each other; keep one");
    }
    let deny = fields.get("deny").and_then(|deny| DenyReply::read(&deny)).unwrap_or_default();
    Appearance { shadow: shadow.unwrap_or(false), staged, deny }
}

fn read_staged(value: &Value<'_>) -> Option<Staged> {
    let fields = value.fields()?;
    let by = fields.get("by").map(|by| read_key(&by, Dialect::Ours));
    let percent = fields.required("percent")?.integer(0, 100)?;
    Some(Staged { percent: u8::try_from(percent).ok()?, by: by.unwrap_or(Some(Key::SourceIp))? })
}

fn limit(list: &Value<'_>, dialect: Dialect) {
    let length = list.items().map_or(0, |items| items.len());
    if dialect == Dialect::Istio && length > MAX_ITEMS {
        list.error(format!(
            "Istio's schema allows at most {MAX_ITEMS} entries, found {length}; write several policies, or the kind of `sailcloth.dev/v1alpha1`"
        ));
    }
}

/// In Istio CUSTOM comes before the tokens are read, and its validation refuses who-questions in it.
fn refuse_identity(rules: &Value<'_>) {
    const FIELDS: [&str; 5] =
        ["principals", "namespaces", "serviceAccounts", "trustDomains", "requestPrincipals"];
    let Node::List(_) = rules.node() else { return };
    for rule in rules.items().unwrap_or_default() {
        for source in parts(&rule, "from").iter().flat_map(|from| parts(from, "source")) {
            let Node::Map(_) = source.node() else { continue };
            for (name, value) in source.entries().unwrap_or_default() {
                let bare = name.strip_prefix("not").unwrap_or(name);
                if FIELDS.iter().any(|field| field.eq_ignore_ascii_case(bare)) {
                    value.error(format!("`{name}` is not allowed with action CUSTOM"));
                }
            }
        }
        for when in parts(&rule, "when") {
            let key = when.node().field("key").and_then(Node::text);
            if let Some(key) =
                key.filter(|key| Key::parse(key, Dialect::Istio).is_ok_and(|key| key.is_identity()))
            {
                when.error(format!("`{key}` is not allowed with action CUSTOM"));
            }
        }
    }
}

/// The items of a member, or the member itself where it is no list.
fn parts<'n>(value: &Value<'n>, name: &str) -> Vec<Value<'n>> {
    let part = value.node().field(name).map(|node| Value::at(node, value.path().key(name), value.problems()));
    match part {
        Some(part) if matches!(part.node(), Node::List(_)) => part.items().unwrap_or_default(),
        Some(part) => vec![part],
        None => Vec::new(),
    }
}

fn read_rule(value: &Value<'_>, policy: PolicyText<'_>) -> Option<Rule> {
    let fields = value.fields()?;
    let from = fields.get("from");
    if let Some(from) = &from {
        limit(from, policy.dialect);
    }
    let from = from.and_then(|from| alternatives(&from, "source", |source| read_source(source, policy)));
    let to = fields.get("to").and_then(|to| alternatives(&to, "operation", Operation::read));
    let when = fields.get("when").and_then(|when| when.list(|item| When::read(&item, policy)));
    Some(Rule { from, to, when: when.unwrap_or_default() })
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

fn read_source(value: &Value<'_>, policy: PolicyText<'_>) -> Option<Source> {
    let fields = value.fields()?;
    let namespaces = condition(&fields, "namespaces", "notNamespaces", text);
    let principals = condition(&fields, "principals", "notPrincipals", principal);
    let trust_domains = condition(&fields, "trustDomains", "notTrustDomains", trust_domain);
    let service_accounts = condition(&fields, "serviceAccounts", "notServiceAccounts", |value| {
        service_account(value, policy.metadata)
    });
    // A source whose lists are all empty would match everybody; Istio takes an empty list for an absent one and refuses
    // the source. Where something was written, what is wrong with it has been reported already.
    let written = |name: &'static str| {
        fields.get(name).is_some_and(|list| !matches!(list.node(), Node::List(items) if items.is_empty()))
    };
    let accounts = written("serviceAccounts") || written("notServiceAccounts");
    if accounts && ["principals", "notPrincipals", "namespaces", "notNamespaces"].into_iter().any(written) {
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
    if !SOURCE_FIELDS.into_iter().any(written) {
        value.error("an empty source says nothing; name at least one field");
    }
    Some(Source {
        principals,
        request_principals: condition(&fields, "requestPrincipals", "notRequestPrincipals", text),
        namespaces,
        service_accounts,
        trust_domains,
        ip_blocks: condition(&fields, "ipBlocks", "notIpBlocks", ip_block),
        remote_ip_blocks: condition(&fields, "remoteIpBlocks", "notRemoteIpBlocks", ip_block),
    })
}

pub(super) fn condition<T>(
    fields: &Fields<'_>,
    name: &'static str,
    not_name: &'static str,
    read: impl Fn(&Value<'_>) -> Option<T>,
) -> Condition<T> {
    let list = |name| fields.get(name).and_then(|list| list.list(|item| read(&item))).unwrap_or_default();
    Condition { values: list(name), not_values: list(not_name) }
}

pub(super) fn text(value: &Value<'_>) -> Option<String> {
    let text = value.non_empty_text()?;
    if text.trim().is_empty() {
        value.warn("is blank; hardly any value is");
    }
    Some(text.to_owned())
}

pub(super) fn principal(value: &Value<'_>) -> Option<String> {
    let text = text(value)?;
    if let Some(rest) = text.strip_prefix("spiffe://") {
        value.warn(format!(
            "Istio writes principals without `spiffe://`, so this matches nobody; write `{rest}`"
        ));
    }
    Some(text)
}

/// A trust domain: `*` may stand at one end (`istio-api.md` 2.5).
pub(super) fn trust_domain(value: &Value<'_>) -> Option<String> {
    let text = text(value)?;
    if text.contains('/') {
        value.error(format!("`{text}` is not a trust domain: it may not contain `/`"));
    }
    let inner = text.strip_prefix('*').or_else(|| text.strip_suffix('*')).unwrap_or(&text);
    if inner.contains('*') {
        value.error(format!("`{text}`: a trust domain may have one `*`, at its beginning or its end"));
    }
    Some(text)
}

pub(super) fn ip_block(value: &Value<'_>) -> Option<IpNet> {
    let text = value.text()?;
    let block = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
    if block.is_none() {
        value
            .error(format!("`{text}` is not an IP address or CIDR block; expected a form like `10.0.0.0/8`"));
    }
    block.map(|block| block.trunc())
}

pub(super) fn service_account(value: &Value<'_>, metadata: &Metadata) -> Option<ServiceAccount> {
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
