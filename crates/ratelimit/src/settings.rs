//! The filter's own settings.

use sailcloth_core::config::Fields;

/// The filter's own settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `slots`: how many clients of one limit have a bucket of their own at a time; the bound of its memory.
    pub slots: u32,
    /// `headers`: which responses tell the client where it stands.
    pub headers: Told,
    /// `headerFormat`: in which words.
    pub format: Format,
}

/// `headers`: which responses tell the client where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// `limited`: refusals.
    Limited,
    /// `always`: refusals, and the responses of what was admitted.
    Always,
    /// `never`: none; a refusal still has `retry-after`.
    Never,
}

/// `headerFormat`: the words of the headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `x-ratelimit`: `x-ratelimit-limit`, `-remaining`, `-reset` (draft-ietf-httpapi-ratelimit-headers-03), as Envoy.
    XRateLimit,
    /// `ratelimit`: `RateLimit-Policy` and `RateLimit` (the draft since -08).
    RateLimit,
    /// `both`.
    Both,
}

impl Settings {
    /// Reads the settings.
    #[must_use]
    pub fn read(fields: &Fields<'_>) -> Self {
        let slots = fields.get("slots").and_then(|slots| slots.integer(16, 16_777_216));
        let headers = fields.get("headers").and_then(|value| {
            value.word(&[("limited", Told::Limited), ("always", Told::Always), ("never", Told::Never)])
        });
        let format = fields.get("headerFormat").and_then(|value| {
            value.word(&[
                ("x-ratelimit", Format::XRateLimit),
                ("ratelimit", Format::RateLimit),
                ("both", Format::Both),
            ])
        });
        Self {
            slots: slots.and_then(|slots| u32::try_from(slots).ok()).unwrap_or(65_536),
            headers: headers.unwrap_or(Told::Limited),
            format: format.unwrap_or(Format::XRateLimit),
        }
    }
}
