//! Istio's AuthorizationPolicy (`security.istio.io`; `istio-api.md` section 2).

mod read;
mod typed;
mod when;

use ipnet::IpNet;
use sailcloth_core::config::Value;

pub use typed::{Bounds, Decimal, Moment, TypedTest, rfc3339};
pub use when::{Key, Test, When};

use read::{PolicyText, condition, ip_block, principal, service_account, text, trust_domain};

use crate::deny_reply::DenyReply;
use crate::operation::Operation;
use crate::{Kind, Metadata, Resource, Scope};

/// Who may do what with a workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthorizationPolicy {
    /// Where it applies.
    pub scope: Scope,
    /// What a matching rule does.
    pub action: Action,
    /// Alternatives: the policy matches when one of them does.
    pub rules: Vec<Rule>,
    /// `istio.io/dry-run: "true"`, `sailcloth.dev/mode: shadow`, or `mode: shadow` of our own kind: computed and counted,
    /// never enforced.
    pub shadow: bool,
    /// `enforce` of our own kind: for which part of the callers it acts; for all of them where it is absent.
    pub staged: Option<Staged>,
    /// How a refusal by it looks.
    pub deny: DenyReply,
}

/// `enforce`: the policy acts for some callers and is in shadow mode for the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Staged {
    /// Of a hundred callers, for how many it acts.
    pub percent: u8,
    /// What tells callers apart.
    pub by: Key,
}

/// Whose schema a policy has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// `security.istio.io`.
    Istio,
    /// `sailcloth.dev`: Istio's and more.
    Ours,
}

/// What a matching rule does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// The request is allowed; as soon as one such policy applies, everything else is denied.
    Allow,
    /// The request is denied, whatever allows it.
    Deny,
    /// The request is counted; nothing else comes of it.
    Audit,
    /// An external provider is asked, before all others.
    Custom {
        /// Its name in the provider settings.
        provider: String,
    },
}

/// One rule: `from`, `to` and every one of `when` must hold; `from` and `to` are lists of alternatives, and hold where
/// they were not written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rule {
    /// Alternatives of who calls.
    pub from: Option<Vec<Source>>,
    /// Alternatives of what is called.
    pub to: Option<Vec<Operation>>,
    /// Conditions, all of which must hold.
    pub when: Vec<When>,
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
    /// `trustDomains` of the peer's identity.
    pub trust_domains: Condition<String>,
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

impl Rule {
    /// Whether it asks for the identity of the peer's certificate.
    #[must_use]
    pub fn asks_for_peer_identity(&self) -> bool {
        let source = |source: &Source| {
            let Source { principals, namespaces, service_accounts, trust_domains, .. } = source;
            !(principals.is_empty()
                && namespaces.is_empty()
                && service_accounts.is_empty()
                && trust_domains.is_empty())
        };
        let compared = |test: &TypedTest| match test {
            TypedTest::Equals(key) | TypedTest::NotEquals(key) => key.is_peer_identity(),
            _ => false,
        };
        self.from.iter().flatten().any(source)
            || self.when.iter().any(|when| when.key.is_peer_identity() || when.typed.iter().any(compared))
    }
}

impl Resource for AuthorizationPolicy {
    const KINDS: &'static [Kind] = &[Kind::AUTHORIZATION_POLICY, Kind::OUR_AUTHORIZATION_POLICY];
    const ANNOTATIONS: &'static [&'static str] =
        &["istio.io/dry-run", "sailcloth.dev/mode", "sailcloth.dev/deny"];

    fn read(kind: Kind, metadata: &Metadata, spec: &Value<'_>) -> Option<Self> {
        let dialect = if kind == Kind::AUTHORIZATION_POLICY { Dialect::Istio } else { Dialect::Ours };
        read::policy(PolicyText { dialect, metadata }, spec)
    }

    fn scope(&self) -> Option<&Scope> {
        Some(&self.scope)
    }
}
