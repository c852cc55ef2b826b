//! `settings.issuers`: what Istio has no word for, by issuer.

use std::time::Duration;

use sailcloth_core::config::{Path, Problems, Value};
use sailcloth_core::decision::Mode;
use sailcloth_resources::request_authentication::Presence;

use crate::algorithm::{Algorithm, Algorithms};
use crate::claims::CLOCK_SKEW;

/// The name that stands for every issuer without an entry, and for rules without an issuer.
const ANY: &str = "*";

/// Two clocks that are further apart are broken.
const MAX_LEEWAY: Duration = Duration::from_secs(3600);

/// What holds for the tokens of one issuer beyond its rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuerSettings {
    /// `leeway`: how far two clocks may be apart, in seconds.
    pub leeway: u64,
    /// `requiredClaims`: must be there and not null; dots reach into objects.
    pub required_claims: Vec<String>,
    /// `maxLifetime`: the most that may lie between `iat` and `exp`, in seconds; both must be there then.
    pub max_lifetime: Option<u64>,
    /// `algorithms`: those that are accepted; absent: all that this build verifies.
    pub algorithms: Option<Algorithms>,
    /// `presence`: as in a rule, where it is not in Istio yet.
    pub presence: Presence,
    /// `mode`: with `shadow` a refusal is counted and logged, and the request passes as nobody.
    pub mode: Mode,
}

impl Default for IssuerSettings {
    fn default() -> Self {
        Self {
            leeway: CLOCK_SKEW,
            required_claims: Vec::new(),
            max_lifetime: None,
            algorithms: None,
            presence: Presence::Optional,
            mode: Mode::Enforce,
        }
    }
}

/// The settings of all issuers.
#[derive(Debug, Clone, Default)]
pub struct Issuers(Vec<(String, Path, IssuerSettings)>);

impl Issuers {
    pub(crate) fn read(value: &Value<'_>) -> Self {
        let entries = value.entries().unwrap_or_default().into_iter();
        let read = |(issuer, value): (&str, Value<'_>)| {
            Some((issuer.to_owned(), value.path().clone(), IssuerSettings::read(&value)?))
        };
        Self(entries.filter_map(read).collect())
    }

    /// Those of a rule.
    pub(crate) fn of(&self, issuer: Option<&str>) -> IssuerSettings {
        let named = |name: &str| self.0.iter().find(|(issuer, ..)| issuer == name);
        let entry = named(issuer.unwrap_or(ANY)).or_else(|| named(ANY));
        entry.map(|(_, _, settings)| settings.clone()).unwrap_or_default()
    }

    /// Reports what could never take effect: entries of issuers that no rule has, and algorithms that this build lacks.
    pub(crate) fn check<'r>(
        &self,
        issuers: impl Iterator<Item = Option<&'r str>> + Clone,
        available: Algorithms,
        problems: &Problems,
    ) {
        let nothing = sailcloth_core::config::Node::Null;
        for (name, path, settings) in &self.0 {
            let at = Value::at(&nothing, path.clone(), problems);
            if name != ANY && !issuers.clone().any(|issuer| issuer == Some(name)) {
                at.error("no rule has this issuer; it is compared byte for byte");
            }
            for algorithm in Algorithm::ALL {
                if settings.algorithms.is_some_and(|set| set.contains(algorithm))
                    && !available.contains(algorithm)
                {
                    let name = algorithm.name;
                    at.error(format!("`{name}` needs the full build of this filter, jwt-full.wasm"));
                }
            }
        }
    }
}

impl IssuerSettings {
    fn read(value: &Value<'_>) -> Option<Self> {
        let fields = value.fields()?;
        let default = Self::default();
        let texts =
            |name| fields.get(name).and_then(|list| list.list(|one| one.non_empty_text().map(str::to_owned)));
        let presence = fields.get("presence").and_then(|presence| {
            presence.word(&[("optional", Presence::Optional), ("required", Presence::Required)])
        });
        let mode = fields
            .get("mode")
            .and_then(|mode| mode.word(&[("enforce", Mode::Enforce), ("shadow", Mode::Shadow)]));
        Some(Self {
            leeway: fields.get("leeway").and_then(|leeway| read_leeway(&leeway)).unwrap_or(default.leeway),
            required_claims: texts("requiredClaims").unwrap_or_default(),
            max_lifetime: fields.get("maxLifetime").and_then(|lifetime| read_lifetime(&lifetime)),
            algorithms: fields.get("algorithms").and_then(|list| read_algorithms(&list)),
            presence: presence.unwrap_or_default(),
            mode: mode.unwrap_or_default(),
        })
    }
}

fn read_leeway(value: &Value<'_>) -> Option<u64> {
    let leeway = value.duration()?;
    if leeway > MAX_LEEWAY {
        value.error("may not be more than `1h`");
        return None;
    }
    Some(leeway.as_secs())
}

fn read_lifetime(value: &Value<'_>) -> Option<u64> {
    let lifetime = value.duration()?.as_secs();
    if lifetime == 0 {
        value.error("must be at least `1s`");
        return None;
    }
    Some(lifetime)
}

fn read_algorithms(value: &Value<'_>) -> Option<Algorithms> {
    let words = Algorithm::ALL.map(|algorithm| (algorithm.name, algorithm));
    let algorithms = value.list(|name| name.word(&words))?;
    if algorithms.is_empty() {
        value.error("may not be empty: no token could be accepted");
        return None;
    }
    Some(algorithms.into_iter().fold(Algorithms::NONE, Algorithms::with))
}
