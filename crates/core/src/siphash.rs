//! SipHash-2-4 (Aumasson, Bernstein 2012): a keyed hash, so that nobody who does not know the seed can find two keys
//! that share a bucket, or many that share a row.

use std::hash::Hasher;

/// A hasher with a key of 128 bits. It is deterministic over targets for what is written as bytes.
#[derive(Debug, Clone)]
pub struct Sip {
    state: [u64; 4],
    tail: [u8; 8],
    filled: usize,
    length: u64,
}

impl Sip {
    /// A hash with this key, of nothing yet.
    #[must_use]
    pub fn new(key: [u64; 2]) -> Self {
        let [k0, k1] = key;
        Self {
            state: [
                k0 ^ 0x736f_6d65_7073_6575,
                k1 ^ 0x646f_7261_6e64_6f6d,
                k0 ^ 0x6c79_6765_6e65_7261,
                k1 ^ 0x7465_6462_7974_6573,
            ],
            tail: [0; 8],
            filled: 0,
            length: 0,
        }
    }

    fn word(&mut self, word: u64) {
        xor(&mut self.state, 3, word);
        self.state = round(round(self.state));
        xor(&mut self.state, 0, word);
    }
}

/// SipHash-2-4 with 128 bits: whoever does not know the key cannot find two texts that share one, nor one that shares it
/// with a given text.
#[must_use]
pub fn digest(key: [u64; 2], text: &[u8]) -> u128 {
    let mut hash = Sip::new(key);
    xor(&mut hash.state, 1, 0xee);
    let (words, tail) = text.as_chunks::<8>();
    words.iter().for_each(|word| hash.word(u64::from_le_bytes(*word)));
    let last = tail.iter().rev().fold(0, |last, byte| last << 8 | u64::from(*byte));
    hash.word(last | ((text.len() as u64) << 56));
    xor(&mut hash.state, 2, 0xee);
    let half = |state: &mut [u64; 4]| {
        *state = round(round(round(round(*state))));
        state.iter().fold(0, |sum, lane| sum ^ lane)
    };
    let low = half(&mut hash.state);
    xor(&mut hash.state, 1, 0xdd);
    let high = half(&mut hash.state);
    u128::from(high) << 64 | u128::from(low)
}

impl Hasher for Sip {
    // Inlined into every field of a derived `Hash` it made 20 kB of the module.
    #[inline(never)]
    fn write(&mut self, bytes: &[u8]) {
        self.length = self.length.wrapping_add(bytes.len() as u64);
        for byte in bytes {
            if let Some(place) = self.tail.get_mut(self.filled) {
                *place = *byte;
            }
            self.filled += 1;
            if self.filled == 8 {
                self.word(u64::from_le_bytes(self.tail));
                self.filled = 0;
                self.tail = [0; 8];
            }
        }
    }

    /// Lengths are 4 bytes on wasm32 and 8 elsewhere: written alike, so that an identity is the same on both.
    fn write_usize(&mut self, number: usize) {
        self.write(&(number as u64).to_le_bytes());
    }

    fn finish(&self) -> u64 {
        let mut end = self.clone();
        end.word(u64::from_le_bytes(self.tail) | (self.length << 56));
        xor(&mut end.state, 2, 0xff);
        let [v0, v1, v2, v3] = round(round(round(round(end.state))));
        v0 ^ v1 ^ v2 ^ v3
    }
}

fn xor(state: &mut [u64; 4], place: usize, word: u64) {
    if let Some(lane) = state.get_mut(place) {
        *lane ^= word;
    }
}

fn round([mut v0, mut v1, mut v2, mut v3]: [u64; 4]) -> [u64; 4] {
    v0 = v0.wrapping_add(v1);
    v1 = v1.rotate_left(13) ^ v0;
    v0 = v0.rotate_left(32);
    v2 = v2.wrapping_add(v3);
    v3 = v3.rotate_left(16) ^ v2;
    v0 = v0.wrapping_add(v3);
    v3 = v3.rotate_left(21) ^ v0;
    v2 = v2.wrapping_add(v1);
    v1 = v1.rotate_left(17) ^ v2;
    v2 = v2.rotate_left(32);
    [v0, v1, v2, v3]
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn hash(key: [u64; 2], chunks: &[&[u8]]) -> u64 {
        let mut sip = Sip::new(key);
        chunks.iter().for_each(|chunk| sip.write(chunk));
        sip.finish()
    }

    #[test]
    fn the_vectors_of_the_paper_come_out() {
        let key = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];
        let input: Vec<u8> = (0..15).collect();
        assert_eq!(hash(key, &[&input]), 0xa129_ca61_49be_45e5);
        assert_eq!(hash(key, &[]), 0x726f_db47_dd0e_0e31);
    }

    #[test]
    fn it_is_the_hash_of_the_standard_library() {
        let input: Vec<u8> = (0..100).collect();
        for length in 0..100 {
            #[expect(deprecated, reason = "the only keyed SipHash-2-4 that the standard library shows")]
            let mut reference = std::hash::SipHasher::new_with_keys(3, 5);
            reference.write(&input[..length]);
            let (head, tail) = input[..length].split_at_checked(length / 3).unwrap();
            assert_eq!(hash([3, 5], &[head, tail]), reference.finish(), "{length} bytes");
        }
    }

    #[test]
    fn digests_are_those_of_the_reference_implementation() {
        // SipHash's vectors.h, vectors_sip128: key 00 to 0f, texts of 0, 1 and 2 bytes.
        let key = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];
        for (text, expected) in [
            (
                [].as_slice(),
                [
                    0xa3, 0x81, 0x7f, 0x04, 0xba, 0x25, 0xa8, 0xe6, 0x6d, 0xf6, 0x72, 0x14, 0xc7, 0x55, 0x02,
                    0x93,
                ],
            ),
            (
                &[0],
                [
                    0xda, 0x87, 0xc1, 0xd8, 0x6b, 0x99, 0xaf, 0x44, 0x34, 0x76, 0x59, 0x11, 0x9b, 0x22, 0xfc,
                    0x45,
                ],
            ),
        ] {
            assert_eq!(digest(key, text).to_le_bytes(), expected, "{text:?}");
        }
        let texts: std::collections::BTreeSet<u128> =
            (0..100).map(|length| digest(key, &vec![0; length])).collect();
        assert_eq!(texts.len(), 100);
    }
}
