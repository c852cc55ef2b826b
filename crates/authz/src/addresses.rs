//! Sets of addresses: ten thousand blocks cost about what ten do.

use std::net::IpAddr;

use ipnet::IpNet;
use sailcloth_core::index::{Key, Keys};

/// Up to this many, blocks are tried one by one.
const FEW: usize = 8;

/// Addresses in blocks of both families. An IPv4 address that is mapped into IPv6 is one of IPv6, as in Envoy.
#[derive(Debug, Default)]
pub(crate) struct AddressSet {
    blocks: Vec<IpNet>,
    /// The blocks by their bits, where there are many.
    tree: Option<Keys>,
}

impl AddressSet {
    pub(crate) fn new(blocks: &[IpNet]) -> Self {
        let mut set = Self { blocks: blocks.to_vec(), tree: None };
        if blocks.len() > FEW {
            let mut tree = Keys::default();
            set.keys().iter().for_each(|key| tree.insert(key));
            set.tree = Some(tree);
        }
        set
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        match &self.tree {
            Some(tree) => tree.contains(&bits(address)),
            None => self.blocks.iter().any(|block| block.contains(&address)),
        }
    }

    /// Beginnings of [`bits`] one of which every address of the set has.
    pub(crate) fn keys(&self) -> Vec<Key> {
        let key = |block: &IpNet| {
            let mut text = bits(block.network());
            text.truncate(usize::from(block.prefix_len()) + 1);
            Key::Prefix(text)
        };
        self.blocks.iter().map(key).collect()
    }
}

/// An address bit by bit behind its family, so that the addresses of a block are those that begin alike.
pub(crate) fn bits(address: IpAddr) -> Vec<u8> {
    let digits = |number: u128, count: u32| {
        (0..count).rev().map(move |at| if number >> at & 1 == 0 { b'0' } else { b'1' })
    };
    match address {
        IpAddr::V4(address) => std::iter::once(b'4').chain(digits(address.to_bits().into(), 32)).collect(),
        IpAddr::V6(address) => std::iter::once(b'6').chain(digits(address.to_bits(), 128)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn a_set_has_the_addresses_of_its_blocks() {
        let blocks: Vec<IpNet> = ["10.0.0.0/8", "10.1.0.0/16", "192.0.2.7/32", "2001:db8::/32", "0.0.0.0/32"]
            .iter()
            .map(|text| text.parse().unwrap())
            .collect();
        let set = AddressSet::new(&blocks);
        let more = (0..50).map(|last| IpNet::from(IpAddr::from([203, 0, 113, last])));
        let many = AddressSet::new(&blocks.iter().copied().chain(more).collect::<Vec<_>>());
        for (text, expected) in [
            ("10.255.255.255", true),
            ("10.1.2.3", true),
            ("11.0.0.0", false),
            ("9.255.255.255", false),
            ("192.0.2.7", true),
            ("192.0.2.8", false),
            ("0.0.0.0", true),
            ("2001:db8:ffff::1", true),
            ("2001:db9::", false),
            ("::ffff:10.1.2.3", false),
        ] {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(set.contains(address), expected, "{text}");
            assert_eq!(many.contains(address), expected, "{text} in many");
            let filed = set.keys().iter().any(|key| key.covers(&bits(address)));
            assert_eq!(filed, expected, "{text} by its bits");
        }
        assert!(!AddressSet::default().contains("10.0.0.1".parse().unwrap()));
    }
}
