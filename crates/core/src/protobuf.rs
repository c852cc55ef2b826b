//! The wire format of protobuf, as far as Envoy's interfaces for a module need it: no descriptions, no reflection.

/// A field's value as it is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field<'b> {
    /// A number, a flag or an enum.
    Varint(u64),
    /// A double or another number of eight bytes.
    Fixed64([u8; 8]),
    /// A number of four bytes.
    Fixed32([u8; 4]),
    /// A string, bytes or a message.
    Bytes(&'b [u8]),
}

/// Takes one field from the front: its number and value. `None` when the bytes are not one.
pub fn read_field<'b>(bytes: &mut &'b [u8]) -> Option<(u64, Field<'b>)> {
    let tag = read_varint(bytes)?;
    let field = match tag & 7 {
        0 => Field::Varint(read_varint(bytes)?),
        1 => {
            let (number, rest) = bytes.split_first_chunk::<8>()?;
            *bytes = rest;
            Field::Fixed64(*number)
        }
        2 => {
            let length = usize::try_from(read_varint(bytes)?).ok()?;
            let (content, rest) = bytes.split_at_checked(length)?;
            *bytes = rest;
            Field::Bytes(content)
        }
        5 => {
            let (number, rest) = bytes.split_first_chunk::<4>()?;
            *bytes = rest;
            Field::Fixed32(*number)
        }
        _ => return None,
    };
    Some((tag >> 3, field))
}

fn read_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

/// Appends a string, bytes or an encoded message.
pub fn write_bytes(out: &mut Vec<u8>, field: u32, bytes: &[u8]) {
    write_varint(out, u64::from(field << 3 | 2));
    write_varint(out, u64::try_from(bytes.len()).unwrap_or(u64::MAX));
    out.extend_from_slice(bytes);
}

/// Appends a number, a flag or an enum.
pub fn write_number(out: &mut Vec<u8>, field: u32, number: u64) {
    write_varint(out, u64::from(field << 3));
    write_varint(out, number);
}

/// Seven bits a byte, the lowest first; the high bit says that more follow.
fn write_varint(out: &mut Vec<u8>, mut number: u64) {
    loop {
        let [low, ..] = number.to_le_bytes();
        number >>= 7;
        if number == 0 {
            return out.push(low & 0x7f);
        }
        out.push(low | 0x80);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn what_is_written_is_read_back() {
        let mut out = Vec::new();
        write_bytes(&mut out, 1, b"testing");
        write_number(&mut out, 300, 150);
        write_number(&mut out, 2, u64::MAX);
        // The first two are the examples of protobuf's own description of the encoding.
        assert!(out.starts_with(b"\x0a\x07testing\xe0\x12\x96\x01"), "{out:?}");
        let mut rest = out.as_slice();
        assert_eq!(read_field(&mut rest), Some((1, Field::Bytes(b"testing"))));
        assert_eq!(read_field(&mut rest), Some((300, Field::Varint(150))));
        assert_eq!(read_field(&mut rest), Some((2, Field::Varint(u64::MAX))));
        assert_eq!(rest, b"");
    }

    #[test]
    fn what_is_cut_short_or_of_no_known_form_is_no_field() {
        for bytes in [b"".as_slice(), b"\x0a", b"\x0a\x05abc", b"\x08", b"\x09abc", b"\x0b", &[0xff; 11]] {
            assert_eq!(read_field(&mut &*bytes), None, "{bytes:?}");
        }
        assert_eq!(read_field(&mut b"\x0dabcd".as_slice()), Some((1, Field::Fixed32(*b"abcd"))));
    }
}
