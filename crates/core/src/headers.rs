//! Header maps as Envoy hands them over: one block of bytes, read in place.

use std::borrow::Cow;

/// A header map in proxy-wasm's serialized form: `u32` count, then for each pair `u32` name length and `u32` value
/// length (little-endian), then for each pair name, NUL, value, NUL.
///
/// One hostcall fetches the whole block; names and values are slices of it. Names are lower case (Envoy sees to it),
/// values are arbitrary bytes, repeated headers are repeated entries in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeaderBlock {
    bytes: Vec<u8>,
    count: usize,
}

/// A block whose lengths do not add up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MalformedBlock;

impl HeaderBlock {
    /// Takes a block from the host and checks once that every pair lies inside it.
    ///
    /// # Errors
    /// [`MalformedBlock`] when a length points outside the block.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, MalformedBlock> {
        if bytes.is_empty() {
            return Ok(Self::default());
        }
        let count = usize::try_from(word(&bytes, 0).ok_or(MalformedBlock)?).map_err(|_| MalformedBlock)?;
        // Each pair needs at least its two lengths and two NULs: a count past that would only make the loop long.
        if count > bytes.len() / 10 {
            return Err(MalformedBlock);
        }
        let block = Self { bytes, count };
        if block.iter().count() == count { Ok(block) } else { Err(MalformedBlock) }
    }

    /// Builds a block, for tests and for callers outside Envoy. Names are lower-cased as Envoy does.
    pub fn from_pairs<N: AsRef<[u8]>, V: AsRef<[u8]>>(pairs: impl IntoIterator<Item = (N, V)>) -> Self {
        let pairs: Vec<(Vec<u8>, Vec<u8>)> = pairs
            .into_iter()
            .map(|(name, value)| (name.as_ref().to_ascii_lowercase(), value.as_ref().to_vec()))
            .collect();
        Self { bytes: encode(&pairs), count: pairs.len() }
    }

    /// How many entries there are, repeats included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// All entries in order.
    #[must_use]
    pub fn iter(&self) -> Entries<'_> {
        Entries { block: &self.bytes, lengths: 4, data: 4 + self.count * 8, left: self.count }
    }

    /// The first value of a header. For anything security depends on use [`Self::joined`] or [`Self::all`]: a client
    /// may send a header twice, and an upstream may read the other one.
    #[must_use]
    pub fn first(&self, name: &str) -> Option<&[u8]> {
        self.iter().find(|(entry, _)| *entry == name.as_bytes()).map(|(_, value)| value)
    }

    /// All values of a header in order.
    pub fn all<'b>(&'b self, name: &'b str) -> impl Iterator<Item = &'b [u8]> {
        self.iter().filter(move |(entry, _)| *entry == name.as_bytes()).map(|(_, value)| value)
    }

    /// The values of a header joined with `,`, which is how Envoy reads a repeated header where it does not compare its values
    /// alone; `None` when the header is absent.
    #[must_use]
    pub fn joined(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        let mut joined: Option<Cow<'_, [u8]>> = None;
        for (_, value) in self.iter().filter(|(entry, _)| *entry == name.as_bytes()) {
            match &mut joined {
                None => joined = Some(Cow::Borrowed(value)),
                Some(earlier) => {
                    let all = earlier.to_mut();
                    all.push(b',');
                    all.extend_from_slice(value);
                }
            }
        }
        joined
    }

    /// Whether a header is there.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.first(name).is_some()
    }
}

/// Iterator over the entries of a [`HeaderBlock`].
#[derive(Debug, Clone)]
pub struct Entries<'b> {
    block: &'b [u8],
    lengths: usize,
    data: usize,
    left: usize,
}

impl<'b> Iterator for Entries<'b> {
    type Item = (&'b [u8], &'b [u8]);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let name_length = usize::try_from(word(self.block, self.lengths)?).ok()?;
        let value_length = usize::try_from(word(self.block, self.lengths + 4)?).ok()?;
        let name_end = self.data.checked_add(name_length)?;
        let value_end = name_end.checked_add(1)?.checked_add(value_length)?;
        let name = self.block.get(self.data..name_end)?;
        let value = self.block.get(name_end + 1..value_end)?;
        self.lengths += 8;
        self.data = value_end.checked_add(1)?;
        Some((name, value))
    }
}

/// Serializes pairs into proxy-wasm's form (see [`HeaderBlock`]), for header maps handed *to* the host.
#[must_use]
pub fn encode<N: AsRef<[u8]>, V: AsRef<[u8]>>(pairs: &[(N, V)]) -> Vec<u8> {
    let mut out = length(pairs.len()).to_vec();
    for (name, value) in pairs {
        out.extend_from_slice(&length(name.as_ref().len()));
        out.extend_from_slice(&length(value.as_ref().len()));
    }
    for (name, value) in pairs {
        for text in [name.as_ref(), value.as_ref()] {
            out.extend_from_slice(text);
            out.push(0);
        }
    }
    out
}

fn length(length: usize) -> [u8; 4] {
    u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes()
}

#[inline]
fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let raw = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(raw.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn a_block_reads_back_what_was_written() {
        let block = HeaderBlock::from_pairs([
            (":Path", b"/a".as_slice()),
            ("x", b"\xff\0y"),
            ("x", b""),
            ("y", b"2"),
        ]);
        let parsed = HeaderBlock::parse(block.bytes.clone()).unwrap();
        assert_eq!(parsed, block);
        assert_eq!(parsed.first(":path"), Some(b"/a".as_slice()));
        assert_eq!(parsed.all("x").collect::<Vec<_>>(), [b"\xff\0y".as_slice(), b""]);
        assert_eq!(parsed.joined("x").unwrap().as_ref(), b"\xff\0y,");
        assert!(!parsed.contains("z"));
    }

    #[test]
    fn an_empty_map_is_empty() {
        assert!(HeaderBlock::parse(Vec::new()).unwrap().is_empty());
        assert!(HeaderBlock::parse(vec![0; 4]).unwrap().is_empty());
    }

    #[test]
    fn every_truncation_is_malformed_and_none_panics() {
        let block = HeaderBlock::from_pairs([(":path", "/a"), ("x", "1")]).bytes;
        for end in 1..block.len() - 1 {
            assert_eq!(HeaderBlock::parse(block[..end].to_vec()), Err(MalformedBlock), "cut at {end}");
        }
    }

    #[test]
    fn lying_lengths_are_malformed() {
        let mut block = HeaderBlock::from_pairs([("x", "1")]).bytes;
        for at in 0..12 {
            block[at] = 0xff;
            assert_eq!(HeaderBlock::parse(block.clone()), Err(MalformedBlock), "byte {at}");
            block[at] = HeaderBlock::from_pairs([("x", "1")]).bytes[at];
        }
    }
}
