//! The pairs block: how header maps, CEL maps and lists travel between host and module.
//!
//! `u32 count`, then per pair `u32 key length, u32 value length`, then per pair `key NUL value NUL`, little-endian.

/// One name and value, as bytes.
pub type Pair = (Vec<u8>, Vec<u8>);

/// More pairs than this are refused when they come from a module.
pub const MAX_PAIRS: usize = 1024;
/// A larger block is refused when it comes from a module.
pub const MAX_BYTES: usize = 1 << 20;

/// Encodes as Envoy does. No pairs at all are four zero bytes here; header hostcalls send a null pointer instead.
#[must_use]
pub fn encode(pairs: &[Pair]) -> Vec<u8> {
    let mut block = crate::abi::to_u32(pairs.len()).to_le_bytes().to_vec();
    for (key, value) in pairs {
        block.extend(crate::abi::to_u32(key.len()).to_le_bytes());
        block.extend(crate::abi::to_u32(value.len()).to_le_bytes());
    }
    for (key, value) in pairs {
        block.extend_from_slice(key);
        block.push(0);
        block.extend_from_slice(value);
        block.push(0);
    }
    block
}

/// Decodes a block that a module sent. `None` when it is malformed, has more than [`MAX_PAIRS`] pairs or more than
/// [`MAX_BYTES`] bytes: Envoy then goes on with no pairs.
#[must_use]
pub fn decode(block: &[u8]) -> Option<Vec<Pair>> {
    if block.len() > MAX_BYTES {
        return None;
    }
    let mut rest = block;
    let count = usize::try_from(take_u32(&mut rest)?).ok()?;
    if count > MAX_PAIRS {
        return None;
    }
    let mut sizes = Vec::with_capacity(count);
    for _ in 0..count {
        sizes.push((take_u32(&mut rest)?, take_u32(&mut rest)?));
    }
    sizes
        .into_iter()
        .map(|(key, value)| Some((take_terminated(&mut rest, key)?, take_terminated(&mut rest, value)?)))
        .collect()
}

fn take_u32(rest: &mut &[u8]) -> Option<u32> {
    let (number, tail) = rest.split_first_chunk::<4>()?;
    *rest = tail;
    Some(u32::from_le_bytes(*number))
}

fn take_terminated(rest: &mut &[u8], size: u32) -> Option<Vec<u8>> {
    let (bytes, tail) = rest.split_at_checked(usize::try_from(size).ok()?)?;
    let (terminator, tail) = tail.split_first()?;
    *rest = tail;
    (*terminator == 0).then(|| bytes.to_vec())
}
