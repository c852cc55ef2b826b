//! `settings` of the jwt filter, beyond those that all filters share.

use sailcloth_core::config::Fields;

use crate::FetchSettings;
use crate::issuer::Issuers;

/// What a filter keeps of verified tokens where nothing is set: about 2,300 tokens of usual size.
const CACHE_BYTES: i64 = 2 * 1024 * 1024;
const MAX_CACHE_BYTES: i64 = 256 * 1024 * 1024;

/// The longest token where nothing is set. Real ones have 0.5 to 4 KiB; Envoy's limit for all headers is 60 KiB.
const TOKEN_BYTES: i64 = 16 * 1024;
const MIN_TOKEN_BYTES: i64 = 256;
const MAX_TOKEN_BYTES: i64 = 1024 * 1024;

/// The filter's own settings.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `tokenCache.bytes`: memory for verified tokens in each worker, in bytes; 0 keeps none.
    pub token_cache_bytes: usize,
    /// `maxTokenBytes`: longer tokens are refused unread, in bytes.
    pub max_token_bytes: usize,
    /// `issuers`: what holds for single issuers.
    pub issuers: Issuers,
    /// `jwks`: how key sets are fetched and kept.
    pub jwks: FetchSettings,
}

impl Settings {
    /// Reads them.
    #[must_use]
    pub fn read(fields: &Fields<'_>) -> Self {
        let cache = fields.get("tokenCache").and_then(|value| value.fields());
        let cache = cache.and_then(|cache| cache.get("bytes")?.integer(0, MAX_CACHE_BYTES));
        let token = fields.get("maxTokenBytes");
        let token = token.and_then(|value| value.integer(MIN_TOKEN_BYTES, MAX_TOKEN_BYTES));
        let jwks = fields.get("jwks").and_then(|value| value.fields());
        Self {
            jwks: jwks.map(|jwks| FetchSettings::read(&jwks)).unwrap_or_default(),
            token_cache_bytes: size(cache.unwrap_or(CACHE_BYTES)),
            max_token_bytes: size(token.unwrap_or(TOKEN_BYTES)),
            issuers: fields.get("issuers").map(|issuers| Issuers::read(&issuers)).unwrap_or_default(),
        }
    }
}

fn size(bytes: i64) -> usize {
    usize::try_from(bytes).unwrap_or(0)
}
