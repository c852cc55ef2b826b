//! The kinds that some filter owns.

use sailcloth_core::decision::Filter;

/// A kind of resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    /// API group: `security.istio.io`.
    pub group: &'static str,
    /// Served versions; all have the same schema and are treated alike (`istio-api.md` 1.1).
    pub versions: &'static [&'static str],
    /// `AuthorizationPolicy`.
    pub name: &'static str,
    /// The filter that carries it out.
    pub filter: Filter,
}

impl Kind {
    /// Istio's routing rules.
    pub const VIRTUAL_SERVICE: Self = Self {
        group: "networking.istio.io",
        versions: &["v1", "v1beta1", "v1alpha3"],
        name: "VirtualService",
        filter: Filter::Routing,
    };
    /// Istio's token validation.
    pub const REQUEST_AUTHENTICATION: Self = Self {
        group: "security.istio.io",
        versions: &["v1", "v1beta1"],
        name: "RequestAuthentication",
        filter: Filter::Jwt,
    };
    /// Istio's access control.
    pub const AUTHORIZATION_POLICY: Self = Self {
        group: "security.istio.io",
        versions: &["v1", "v1beta1"],
        name: "AuthorizationPolicy",
        filter: Filter::Authz,
    };
    /// Our own kind of access control: Istio's schema, and what Istio has no word for.
    pub const OUR_AUTHORIZATION_POLICY: Self = Self {
        group: "sailcloth.dev",
        versions: &["v1alpha1"],
        name: "AuthorizationPolicy",
        filter: Filter::Authz,
    };
    /// Our rate limits; Istio has no such kind.
    pub const RATE_LIMIT: Self = Self {
        group: "sailcloth.dev",
        versions: &["v1alpha1"],
        name: "RateLimit",
        filter: Filter::RateLimit,
    };
    /// Istio's metrics, tracing and access logs.
    pub const TELEMETRY: Self = Self {
        group: "telemetry.istio.io",
        versions: &["v1", "v1alpha1"],
        name: "Telemetry",
        filter: Filter::Metrics,
    };

    /// Every kind that some filter owns.
    pub const ALL: [Self; 6] = [
        Self::VIRTUAL_SERVICE,
        Self::REQUEST_AUTHENTICATION,
        Self::AUTHORIZATION_POLICY,
        Self::OUR_AUTHORIZATION_POLICY,
        Self::RATE_LIMIT,
        Self::TELEMETRY,
    ];
}
