//! A response as the bytes that arrived.

use std::borrow::Cow;

/// A response.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The reason phrase.
    pub reason: String,
    /// The headers, in the order and spelling in which they arrived.
    pub headers: Vec<(Vec<u8>, Vec<u8>)>,
    /// The body, without its transfer coding.
    pub body: Vec<u8>,
    /// The trailers of a chunked body.
    pub trailers: Vec<(Vec<u8>, Vec<u8>)>,
    /// The statuses of the interim responses (1xx) before it.
    pub interim: Vec<u16>,
}

impl Response {
    /// The first header of that name, invalid UTF-8 replaced. Names compare without case.
    pub fn header(&self, name: &str) -> Option<Cow<'_, str>> {
        self.header_bytes(name).next().map(String::from_utf8_lossy)
    }

    /// All headers of that name, as bytes.
    pub fn header_bytes(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        let same = move |given: &[u8]| given.eq_ignore_ascii_case(name.as_bytes());
        self.headers.iter().filter(move |(given, _)| same(given)).map(|(_, value)| value.as_slice())
    }

    /// The body as text, invalid UTF-8 replaced.
    pub fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.body)
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// When it is none.
    pub fn json(&self) -> Result<serde_json::Value, serde_json::Error> {
        serde_json::from_slice(&self.body)
    }
}
