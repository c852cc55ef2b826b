//! Which destination a user belongs to, by a hash of what tells users apart.
//!
//! Weighted rendezvous hashing (Thaler and Ravishankar 1998; weights as in Schindelhauer and Schomaker 2005): every
//! destination draws a number for the user from an exponential distribution whose rate is its weight, and the least
//! wins. The draws depend on the user, the rule's salt and the destination, on nothing else: so every worker, restart and
//! instance puts a user alike, the shares are the weights, and a destination whose weight grows only wins users,
//! one whose weight shrinks only loses them (`docs/decisions/004-sticky-assignment.md`).

use std::hash::Hasher as _;

use sailcloth_core::config::{Path, Severity};
use sailcloth_core::decision::Reason;
use sailcloth_core::headers::HeaderBlock;
use sailcloth_core::key::{KeyPart, Part, Unknown};
use sailcloth_core::request::Request;
use sailcloth_core::secret::Secret;
use sailcloth_core::siphash::Sip;
use sailcloth_resources::host_name::full_name;
use sailcloth_resources::sticky::{IssuedCookie, STICKY};
use sailcloth_resources::virtual_service::{Action, Destination, HttpRoute};

use crate::compile::{Compiler, Document};

/// What a weighted rule needs to put its users.
#[derive(Debug)]
pub(crate) struct Sticky {
    /// From the salt.
    hash: HashKey,
    key: Option<KeyPart>,
    issue: Option<Issue>,
    /// Of each destination, from its name.
    arms: Vec<u64>,
}

/// A cookie of our own, and the secret that signs it.
#[derive(Debug, Clone)]
pub(crate) struct Issue {
    cookie: IssuedCookie,
    /// Reads the cookie.
    part: KeyPart,
    secret: Option<Secret<HashKey>>,
}

type HashKey = [u64; 2];

/// Where a user stands among all users.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Point {
    /// Known by what they sent.
    Known(u64),
    /// By the cookie that goes back with the answer.
    New(u64, CookieId),
    /// Nobody in particular: drawn by weight, every time anew.
    Nobody,
}

/// What an issued cookie says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CookieId(u64);

impl Sticky {
    /// `arms` are names of the destinations that stay when weights, order or neighbours change.
    pub(crate) fn new<'a>(
        key: Option<KeyPart>,
        issue: Option<Issue>,
        salt: &str,
        arms: impl Iterator<Item = &'a str>,
    ) -> Self {
        let hash = hash_key(salt.as_bytes());
        Self { hash, key, issue, arms: arms.map(|arm| digest(hash, Domain::Arm, arm.as_bytes())).collect() }
    }

    /// Where the user of a request stands. `random` makes a new cookie's number.
    ///
    /// # Errors
    /// When what tells users apart cannot be known.
    pub(crate) fn point(&self, request: &Request<'_>, random: u64) -> Result<Point, Unknown> {
        if let Some(key) = &self.key
            && let Some(value) = present(key.read(request)?)
        {
            return Ok(Point::Known(digest(self.hash, Domain::User, &value)));
        }
        let Some(issue) = &self.issue else { return Ok(Point::Nobody) };
        let of = |id: CookieId| digest(self.hash, Domain::Cookie, &id.0.to_le_bytes());
        if let Some(id) = present(issue.part.read(request)?).and_then(|text| issue.verify(&text)) {
            return Ok(Point::Known(of(id)));
        }
        let id = CookieId(random);
        Ok(Point::New(of(id), id))
    }

    /// The number of the destination to which a user belongs; `weights` are those of the rule's destinations.
    pub(crate) fn arm(&self, point: u64, weights: impl Iterator<Item = u64>) -> Option<usize> {
        let mut best: Option<(f64, usize)> = None;
        for (number, (arm, weight)) in self.arms.iter().zip(weights).enumerate() {
            if weight == 0 {
                continue;
            }
            #[expect(clippy::cast_precision_loss, reason = "weights are below 2^31")]
            let time = exponential(mix(point ^ arm)) / weight as f64;
            if best.is_none_or(|(least, _)| time < least) {
                best = Some((time, number));
            }
        }
        best.map(|(_, number)| number)
    }

    /// The `set-cookie` that makes a new user known.
    pub(crate) fn set_cookie(&self, id: CookieId, headers: &HeaderBlock) -> Option<String> {
        Some(self.issue.as_ref()?.set_cookie(id, headers))
    }
}

impl Issue {
    pub(crate) fn new(cookie: IssuedCookie, secret: Option<&Secret<String>>) -> Self {
        let part = KeyPart::Cookie(cookie.name.clone());
        let secret = secret.map(|secret| Secret::new(hash_key(secret.expose().as_bytes())));
        Self { cookie, part, secret }
    }

    /// `<number>` or, signed, `<number>.<signature>`, both as 16 hexadecimal digits.
    fn verify(&self, text: &[u8]) -> Option<CookieId> {
        let (id, rest) = text.split_at_checked(16)?;
        let id = CookieId(hex(id)?);
        match &self.secret {
            None => rest.is_empty().then_some(id),
            Some(secret) => {
                let signature = hex(rest.strip_prefix(b".").filter(|digits| digits.len() == 16)?)?;
                (signature == self.sign(secret, id)).then_some(id)
            }
        }
    }

    /// A signature is for one cookie's name.
    fn sign(&self, secret: &Secret<HashKey>, id: CookieId) -> u64 {
        let mut hash = Sip::new(*secret.expose());
        hash.write(&id.0.to_le_bytes());
        hash.write(self.cookie.name.as_bytes());
        hash.finish()
    }

    fn set_cookie(&self, id: CookieId, headers: &HeaderBlock) -> String {
        let IssuedCookie { name, path, domain, max_age, same_site, secure, .. } = &self.cookie;
        let mut text = format!("{name}={:016x}", id.0);
        if let Some(secret) = &self.secret {
            text.push_str(&format!(".{:016x}", self.sign(secret, id)));
        }
        text.push_str("; Path=");
        text.push_str(path);
        if let Some(domain) = domain {
            text.push_str("; Domain=");
            text.push_str(domain);
        }
        if let Some(age) = max_age {
            text.push_str("; Max-Age=");
            text.push_str(&age.as_secs().to_string());
        }
        let is_https = headers.first(":scheme") == Some(b"https");
        if secure.unwrap_or(is_https || *same_site == "None") {
            text.push_str("; Secure");
        }
        text.push_str("; HttpOnly; SameSite=");
        text.push_str(same_site);
        text
    }
}

impl Compiler<'_> {
    /// What keeps users on the destinations of a rule, where the annotation says so and there is a choice.
    pub(crate) fn sticky(
        &self,
        document: &Document,
        number: usize,
        name: Option<&str>,
        destinations: &[Destination],
    ) -> Option<Sticky> {
        let written = document.spec.sticky.as_ref().filter(|_| destinations.len() > 1)?;
        let salt = written.salt.clone().unwrap_or_else(|| {
            let rule = name.map_or_else(|| format!("#{}", unnamed_before(document, number)), str::to_owned);
            format!("{}/{rule}", document.metadata.id())
        });
        let mut names: Vec<String> = Vec::new();
        for destination in destinations {
            let host = full_name(&destination.host, &document.metadata.namespace, &self.settings.domain);
            let port = destination.port.map(|port| port.to_string()).unwrap_or_default();
            let mut name = format!("{host}|{port}|{}", destination.subset.as_deref().unwrap_or_default());
            // The same destination twice is two.
            while names.contains(&name) {
                name.push('+');
            }
            names.push(name);
        }
        let issue = written
            .issue
            .as_ref()
            .map(|cookie| Issue::new(cookie.clone(), self.secret(document, cookie).as_ref()));
        Some(Sticky::new(written.key.clone(), issue, &salt, names.iter().map(String::as_str)))
    }

    /// What the annotation of a document cannot mean, or will not mean after the next edit.
    pub(crate) fn check_sticky(&self, document: &Document) {
        let Some((written, path)) = document.spec.sticky.as_ref().zip(annotation_path(document)) else {
            return;
        };
        let weighted: Vec<&HttpRoute> = document.spec.http.iter().filter(|rule| is_weighted(rule)).collect();
        if weighted.is_empty() {
            let message =
                "keeps nobody anywhere: no rule of this document has several destinations".to_owned();
            self.report(Severity::Warning, path, message);
        }
        if written.salt.is_none() && weighted.iter().filter(|rule| rule.name.is_none()).count() > 1 {
            let message = "several rules with several destinations have no `name`, so their users are told apart by the order of \
                           these rules: a rule inserted before them would move their users; give each a `name`";
            self.report(Severity::Warning, path, message.to_owned());
        }
    }

    fn secret(&self, document: &Document, cookie: &IssuedCookie) -> Option<Secret<String>> {
        const LEAST: usize = 16;
        let written = cookie.key.as_ref()?;
        let path = annotation_path(document)?.key("issue").key("key");
        let secret = match written.strip_prefix("${env:").and_then(|rest| rest.strip_suffix('}')) {
            Some(name) => match std::env::var(name) {
                Ok(value) => value,
                Err(_) => {
                    let message = format!("the VM's environment has no variable `{name}`");
                    self.report(Severity::Error, &path, message);
                    return None;
                }
            },
            None => {
                let message = "holds a secret in the configuration; write `${env:NAME}` instead".to_owned();
                self.report(Severity::Warning, &path, message);
                written.clone()
            }
        };
        if secret.len() < LEAST {
            let message = format!("a secret of {} bytes is too short; use at least {LEAST}", secret.len());
            self.report(Severity::Error, &path, message);
        }
        Some(Secret::new(secret))
    }
}

fn annotation_path(document: &Document) -> Option<&Path> {
    document.metadata.annotation_with_path(STICKY).map(|(_, path)| path)
}

fn is_weighted(rule: &HttpRoute) -> bool {
    matches!(&rule.action, Action::Route(destinations) if destinations.len() > 1)
}

/// How many rules without a name have a choice before this one: rules without one come and go without moving anybody.
fn unnamed_before(document: &Document, number: usize) -> usize {
    document.spec.http.iter().take(number).filter(|rule| is_weighted(rule) && rule.name.is_none()).count()
}

/// Why a request is refused whose user cannot be known although the rule asks for it.
pub(crate) fn reason(unknown: Unknown) -> Reason {
    let code = match unknown {
        Unknown::Address => "peer_address_unavailable",
        Unknown::Peer => "peer_identity_unavailable",
        Unknown::Token => "token_unavailable",
    };
    Reason { code, status: 500, grpc_status: 13, body: "" }
}

/// The value that counts: the first of several; an empty one tells nobody apart.
fn present(part: Part<'_>) -> Option<std::borrow::Cow<'_, [u8]>> {
    match part {
        Part::Value(value) | Part::Ambiguous(value) if !value.is_empty() => Some(value),
        _ => None,
    }
}

/// What is hashed: no user's value reads as a cookie's number or as a destination.
#[derive(Clone, Copy)]
enum Domain {
    User,
    Cookie,
    Arm,
}

fn digest(key: HashKey, domain: Domain, bytes: &[u8]) -> u64 {
    let mut hash = Sip::new(key);
    hash.write_u8(domain as u8);
    hash.write(bytes);
    hash.finish()
}

/// 128 bits of key from a text of any length.
fn hash_key(text: &[u8]) -> HashKey {
    [0, 1].map(|half| {
        let mut hash = Sip::new([half, 0]);
        hash.write(text);
        hash.finish()
    })
}

fn hex(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0, |number: u64, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u64::from(value))
    })
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood 2014): every bit of the input changes half of the output's.
fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// `-ln(u)` of a number uniform between 0 and 1, made of 52 bits.
///
/// Additions, multiplications and divisions only: these IEEE 754 rounds alike on every machine, a library's logarithm
/// need not be.
fn exponential(bits: u64) -> f64 {
    const LN_2: f64 = std::f64::consts::LN_2;
    /// Of an `f64`: bits of the fraction, and the exponent of 1.
    const FRACTION: u32 = 52;
    const BIAS: u64 = 1023;
    // An odd number below 2^53, which an `f64` holds exactly; over 2^53 it is neither 0 nor 1.
    #[expect(clippy::cast_precision_loss, reason = "53 bits")]
    let odd = (((bits >> 12) << 1) | 1) as f64;
    let raw = odd.to_bits();
    #[expect(clippy::cast_precision_loss, reason = "an exponent has 11 bits")]
    let mut exponent = (raw >> FRACTION) as f64 - BIAS as f64 - 53.0;
    let mut fraction = f64::from_bits(raw & ((1 << FRACTION) - 1) | BIAS << FRACTION);
    if fraction > std::f64::consts::SQRT_2 {
        fraction *= 0.5;
        exponent += 1.0;
    }
    // ln f = 2 artanh((f − 1) / (f + 1)); the argument is below 0.172, so the next term is below 2^-53 of the sum.
    let z = (fraction - 1.0) / (fraction + 1.0);
    let square = z * z;
    let series = [21.0, 19.0, 17.0, 15.0, 13.0, 11.0, 9.0, 7.0, 5.0, 3.0, 1.0];
    let sum = series.iter().fold(0.0, |sum, odd| sum * square + 1.0 / odd);
    -(exponent * LN_2 + 2.0 * z * sum)
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const NAMES: [&str; 5] = ["v1", "v2", "v3", "v4", "v5"];
    const USERS: u64 = 20_000;

    fn sticky(salt: &str) -> Sticky {
        Sticky::new(Some(KeyPart::Header("x-user".into())), None, salt, NAMES.into_iter())
    }

    fn user(sticky: &Sticky, number: u64) -> u64 {
        digest(sticky.hash, Domain::User, format!("user-{number}").as_bytes())
    }

    fn arms(sticky: &Sticky, weights: &[u64]) -> Vec<usize> {
        (0..USERS).map(|number| sticky.arm(user(sticky, number), weights.iter().copied()).unwrap()).collect()
    }

    /// How far a share of users may be from its expectation: four standard deviations of a draw per user.
    fn tolerance(share: f64) -> f64 {
        4.0 * (share * (1.0 - share) / USERS as f64).sqrt() + 1.0 / USERS as f64
    }

    fn share(count: usize) -> f64 {
        count as f64 / USERS as f64
    }

    fn dice(seed: &mut u64, below: u64) -> u64 {
        *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(*seed) % below
    }

    fn weights(seed: &mut u64) -> Vec<u64> {
        loop {
            let count = 2 + usize::try_from(dice(seed, 4)).unwrap();
            let weights: Vec<u64> = (0..count).map(|_| dice(seed, 5) * dice(seed, 30)).collect();
            if weights.iter().sum::<u64>() > 0 {
                return weights;
            }
        }
    }

    #[test]
    fn the_logarithm_is_the_logarithm() {
        let mut seed = 3;
        for round in 0..20_000_u64 {
            let bits = if round < 64 { u64::MAX >> round } else { dice(&mut seed, u64::MAX) };
            let u = (((bits >> 12) << 1) | 1) as f64 / (1_u64 << 53) as f64;
            let (ours, exact) = (exponential(bits), -u.ln());
            assert!((ours - exact).abs() <= exact.abs() * 1e-14 + 1e-17, "{u}: {ours} {exact}");
            assert!(ours > 0.0, "{u}");
        }
    }

    #[test]
    fn shares_are_the_weights() {
        let mut seed = 1;
        for round in 0..20 {
            let weights = weights(&mut seed);
            let sum: u64 = weights.iter().sum();
            let arms = arms(&sticky(&format!("salt-{round}")), &weights);
            for (arm, weight) in weights.iter().enumerate() {
                let expected = *weight as f64 / sum as f64;
                let seen = share(arms.iter().filter(|chosen| **chosen == arm).count());
                assert!((seen - expected).abs() <= tolerance(expected), "{weights:?}: {arm} has {seen}");
            }
        }
    }

    /// 5 % → 10 % keeps the first 5 %: of two destinations nobody moves but from the one that shrinks to the one that
    /// grows, and no more than must.
    #[test]
    fn of_two_destinations_only_what_must_move_moves() {
        let sticky = sticky("s");
        let mut before = arms(&sticky, &[100, 0]);
        for percent in [1, 5, 10, 50, 99, 100] {
            let after = arms(&sticky, &[100 - percent, percent]);
            assert!(before.iter().zip(&after).all(|(before, after)| before <= after), "{percent} %");
            before = after;
        }
        assert!(before.iter().all(|arm| *arm == 1));
    }

    /// Where one weight grows and the others are what they were, users move to that one only; where it shrinks, from it
    /// only; and no more move than its share changes by.
    #[test]
    fn one_weight_that_changes_moves_users_to_or_from_its_destination_only() {
        let mut seed = 9;
        for round in 0..30 {
            let old = weights(&mut seed);
            let mut new = old.clone();
            let changed = usize::try_from(dice(&mut seed, old.len() as u64)).unwrap();
            new[changed] = dice(&mut seed, 100);
            if new.iter().sum::<u64>() == 0 || new[changed] == old[changed] {
                continue;
            }
            let sticky = sticky(&format!("salt-{round}"));
            let (before, after) = (arms(&sticky, &old), arms(&sticky, &new));
            let moved: Vec<(usize, usize)> =
                before.into_iter().zip(after).filter(|(before, after)| before != after).collect();
            let grows = new[changed] > old[changed];
            for (from, to) in &moved {
                assert_eq!(if grows { *to } else { *from }, changed, "{old:?} → {new:?}: {from} → {to}");
            }
            let of = |weights: &[u64]| weights[changed] as f64 / weights.iter().sum::<u64>() as f64;
            let least = (of(&old) - of(&new)).abs();
            assert!((share(moved.len()) - least).abs() <= 2.0 * tolerance(least), "{old:?} → {new:?}");
        }
    }

    /// Whatever weights change, a destination whose weight grew against every other loses nobody, and no more users move
    /// than 2δ/(1+δ), the least that any rule without memory can promise (δ: the shares that change hands).
    #[test]
    fn whatever_changes_few_move_and_nobody_leaves_what_grew_most() {
        let mut seed = 21;
        for round in 0..30 {
            let old = weights(&mut seed);
            let new: Vec<u64> = old.iter().map(|_| 1 + dice(&mut seed, 60)).collect();
            let sticky = sticky(&format!("salt-{round}"));
            let (before, after) = (arms(&sticky, &old), arms(&sticky, &new));
            let sums = [&old, &new].map(|weights| weights.iter().sum::<u64>() as f64);
            let growth = |arm: usize| new[arm] as f64 / (old[arm] as f64).max(1e-9);
            let most = (0..old.len()).max_by(|a, b| growth(*a).total_cmp(&growth(*b))).unwrap();
            let pairs = || before.iter().zip(&after);
            assert!(pairs().all(|(before, after)| *before != most || *after == most), "{old:?} → {new:?}");
            let change = |arm: usize| (new[arm] as f64 / sums[1] - old[arm] as f64 / sums[0]).max(0.0);
            let least: f64 = (0..old.len()).map(change).sum();
            let moved = share(pairs().filter(|(before, after)| before != after).count());
            let bound = 2.0 * least / (1.0 + least);
            assert!(
                moved <= bound + tolerance(bound) && moved >= least - tolerance(least),
                "{old:?} → {new:?}: {moved}"
            );
        }
    }

    #[test]
    fn neither_order_nor_neighbours_without_weight_move_anybody() {
        let names = |names: &[&'static str]| Sticky::new(None, None, "s", names.iter().copied());
        let (one, two) = (names(&["a", "b", "c"]), names(&["c", "x", "a", "b"]));
        for number in 0..USERS {
            let first = one.arm(user(&one, number), [50, 30, 20].into_iter()).unwrap();
            let second = two.arm(user(&two, number), [20, 0, 50, 30].into_iter()).unwrap();
            assert_eq!(["a", "b", "c"][first], ["c", "x", "a", "b"][second]);
        }
    }

    /// Two salts: who is where in one says nothing about the other.
    #[test]
    fn two_rules_put_their_users_independently() {
        let weights = [90, 10];
        let (one, two) = (arms(&sticky("n/a/0"), &weights), arms(&sticky("n/a/1"), &weights));
        let both = one.iter().zip(&two).filter(|(one, two)| **one == 1 && **two == 1).count();
        assert!((share(both) - 0.01).abs() <= tolerance(0.01), "{both}");
        assert_eq!(one, arms(&sticky("n/a/0"), &weights));
    }

    fn issue(key: Option<&str>) -> Issue {
        let cookie = IssuedCookie {
            name: "canary".into(),
            key: None,
            path: "/".into(),
            domain: None,
            max_age: Some(std::time::Duration::from_secs(3600)),
            same_site: "Lax",
            secure: None,
        };
        Issue::new(cookie, key.map(|key| Secret::new(key.to_owned())).as_ref())
    }

    #[test]
    fn an_issued_cookie_comes_back_as_itself_and_no_other_is_taken() {
        let headers = HeaderBlock::from_pairs([(":scheme", "https")]);
        let id = CookieId(0x0123_4567_89ab_cdef);
        let (plain, signed, other) = (issue(None), issue(Some("s3cret")), issue(Some("other")));
        let text = plain.set_cookie(id, &headers);
        assert_eq!(text, "canary=0123456789abcdef; Path=/; Max-Age=3600; Secure; HttpOnly; SameSite=Lax");
        assert_eq!(plain.verify(b"0123456789abcdef"), Some(id));
        let text = signed.set_cookie(id, &HeaderBlock::default());
        assert!(!text.contains("Secure"), "{text}");
        let value = text.split(';').next().unwrap().strip_prefix("canary=").unwrap().as_bytes();
        assert_eq!(signed.verify(value), Some(id));
        assert_eq!(other.verify(value), None);
        assert_eq!(plain.verify(value), None);
        for forged in [&b"0123456789abcdef"[..], b"", b"0123456789abcdeF", b"0123456789abcdef.", &value[..32]]
        {
            assert_eq!(signed.verify(forged), None, "{forged:?}");
        }
        let mut changed = value.to_vec();
        changed[0] ^= 1;
        assert_eq!(signed.verify(&changed), None);
    }

    #[test]
    fn a_secret_is_not_printed() {
        let shown = format!("{:?}", issue(Some("s3cret")));
        assert!(shown.contains("<redacted>") && !shown.contains("s3cret"), "{shown}");
    }
}
