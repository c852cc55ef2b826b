//! The little DER (X.690) that a signature check needs: public keys as SubjectPublicKeyInfo (RFC 5280), and ECDSA
//! signatures as a SEQUENCE of two INTEGERs, where a JWS has two numbers of fixed length (RFC 7518 3.4).

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const NULL: [u8; 2] = [0x05, 0x00];
const SEQUENCE: u8 = 0x30;

/// rsaEncryption, 1.2.840.113549.1.1.1.
const RSA: [u8; 11] = [0x06, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
/// id-ecPublicKey, 1.2.840.10045.2.1.
const EC: [u8; 9] = [0x06, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];

/// SubjectPublicKeyInfo of an RSA key: modulus and exponent, big-endian.
pub(crate) fn rsa_key(modulus: &[u8], exponent: &[u8]) -> Vec<u8> {
    let key = element(SEQUENCE, &[integer(modulus), integer(exponent)].concat());
    public_key(&[RSA.as_slice(), &NULL].concat(), &key)
}

/// SubjectPublicKeyInfo of a point on a named curve; `curve` is the encoded object identifier, the coordinates have the
/// length of the field.
pub(crate) fn ec_key(curve: &[u8], x: &[u8], y: &[u8]) -> Vec<u8> {
    // 4: an uncompressed point (SEC 1, 2.3.3).
    public_key(&[EC.as_slice(), curve].concat(), &[&[4], x, y].concat())
}

/// A JWS signature of two numbers of `length` bytes each, as BoringSSL wants it; `None` when it is not of that length.
pub(crate) fn ecdsa_signature(raw: &[u8], length: usize) -> Option<Vec<u8>> {
    if raw.len() != length * 2 {
        return None;
    }
    let (r, s) = raw.split_at_checked(length)?;
    Some(element(SEQUENCE, &[integer(r), integer(s)].concat()))
}

fn public_key(algorithm: &[u8], key: &[u8]) -> Vec<u8> {
    // The first byte of a BIT STRING counts its unused bits.
    let bits = element(BIT_STRING, &[&[0], key].concat());
    element(SEQUENCE, &[element(SEQUENCE, algorithm), bits].concat())
}

/// A non-negative INTEGER: no leading zeros but the one that keeps it positive.
fn integer(number: &[u8]) -> Vec<u8> {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    let number = number.get(zeros..).unwrap_or_default();
    match number.first() {
        Some(first) if *first < 0x80 => element(INTEGER, number),
        _ => element(INTEGER, &[&[0], number].concat()),
    }
}

fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    match u8::try_from(content.len()) {
        Ok(length) if length < 0x80 => out.push(length),
        _ => {
            let bytes = content.len().to_be_bytes();
            let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
            let length = bytes.get(zeros..).unwrap_or_default();
            out.push(0x80 | u8::try_from(length.len()).unwrap_or(0x7f));
            out.extend_from_slice(length);
        }
    }
    out.extend_from_slice(content);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn integers_are_minimal_and_positive() {
        for (number, encoded) in [
            ([0u8, 0, 1].as_slice(), [2u8, 1, 1].as_slice()),
            (&[0x80], &[2, 2, 0, 0x80]),
            (&[0, 0], &[2, 1, 0]),
            (&[], &[2, 1, 0]),
            (&[0x7f, 0xff], &[2, 2, 0x7f, 0xff]),
        ] {
            assert_eq!(integer(number), encoded, "{number:?}");
        }
    }

    #[test]
    fn long_lengths_take_more_bytes() {
        assert_eq!(element(4, &[0; 127])[..2], [4, 127]);
        assert_eq!(element(4, &[0; 128])[..3], [4, 0x81, 128]);
        assert_eq!(element(4, &[0; 300])[..4], [4, 0x82, 1, 44]);
    }

    #[test]
    fn a_signature_of_another_length_is_none() {
        assert_eq!(ecdsa_signature(&[1; 63], 32), None);
        assert_eq!(ecdsa_signature(&[1; 65], 32), None);
        assert_eq!(ecdsa_signature(&[], 32), None);
        assert_eq!(ecdsa_signature(&[1, 2], 1), Some(vec![0x30, 6, 2, 1, 1, 2, 1, 2]));
        // ES512 needs a long length: 2 * (2 + 66) bytes.
        assert_eq!(ecdsa_signature(&[1; 132], 66).unwrap()[..3], [0x30, 0x81, 136]);
    }
}
