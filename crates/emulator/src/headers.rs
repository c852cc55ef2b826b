//! A header map as Envoy keeps it: bytes, names lower-cased, duplicates kept in order, pseudo-headers in front.

use crate::pairs::Pair;

/// Headers or trailers of a message. Values may hold any byte.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderMap {
    entries: Vec<Pair>,
}

impl HeaderMap {
    /// An empty map.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The value of the first entry of that name, which is all that `proxy_get_header_map_value` shows.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.get_bytes(name.as_bytes())
    }

    /// The first value as text; `None` also when it is not UTF-8.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(|value| std::str::from_utf8(value).ok())
    }

    /// All values of that name, in order.
    #[must_use]
    pub fn get_all(&self, name: &str) -> Vec<&[u8]> {
        let name = name.to_ascii_lowercase();
        self.entries.iter().filter(|(n, _)| n == name.as_bytes()).map(|(_, v)| v.as_slice()).collect()
    }

    /// All values of that name joined by commas, as the attribute `request.headers` shows them.
    #[must_use]
    pub fn joined(&self, name: &str) -> Option<Vec<u8>> {
        let values = self.get_all(name);
        (!values.is_empty()).then(|| values.join(&b','))
    }

    /// Appends one entry. A pseudo-header (`:path`) goes behind the last pseudo-header.
    pub fn add(&mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        let entry = (name.as_ref().to_ascii_lowercase(), value.as_ref().to_vec());
        if entry.0.first() == Some(&b':') {
            let end = self.entries.iter().take_while(|(n, _)| n.first() == Some(&b':')).count();
            self.entries.insert(end, entry);
        } else {
            self.entries.push(entry);
        }
    }

    /// Leaves exactly one entry of that name.
    pub fn replace(&mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        self.remove(name.as_ref());
        self.add(name, value);
    }

    /// Removes all entries of that name.
    pub fn remove(&mut self, name: impl AsRef<[u8]>) {
        let name = name.as_ref().to_ascii_lowercase();
        self.entries.retain(|(n, _)| *n != name);
    }

    /// Every entry, in order.
    #[must_use]
    pub fn pairs(&self) -> &[Pair] {
        &self.entries
    }

    /// Number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes of all names and values: what `proxy_get_header_map_size` answers.
    #[must_use]
    pub fn byte_size(&self) -> usize {
        self.entries.iter().map(|(name, value)| name.len() + value.len()).sum()
    }

    pub(crate) fn get_bytes(&self, name: &[u8]) -> Option<&[u8]> {
        let name = name.to_ascii_lowercase();
        self.entries.iter().find(|(n, _)| *n == name).map(|(_, value)| value.as_slice())
    }
}

impl<N: AsRef<[u8]>, V: AsRef<[u8]>> FromIterator<(N, V)> for HeaderMap {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(entries: I) -> Self {
        let mut map = Self::new();
        for (name, value) in entries {
            map.add(name, value);
        }
        map
    }
}

impl<N: AsRef<[u8]>, V: AsRef<[u8]>, const COUNT: usize> From<[(N, V); COUNT]> for HeaderMap {
    fn from(entries: [(N, V); COUNT]) -> Self {
        entries.into_iter().collect()
    }
}

impl<N: AsRef<[u8]>, V: AsRef<[u8]>> From<Vec<(N, V)>> for HeaderMap {
    fn from(entries: Vec<(N, V)>) -> Self {
        entries.into_iter().collect()
    }
}
