//! Envoy's response flags, as its access log writes them.

/// Short names by bit of `response.flags` (Envoy `CoreResponseFlag`).
const NAMES: [&str; 30] = [
    "LH", "UH", "UT", "LR", "UR", "UF", "UC", "UO", "NR", "DI", "FI", "RL", "UAEX", "RLSE", "DC", "URX",
    "SI", "IH", "DPE", "UMSDR", "RFCF", "NFCF", "DT", "UPE", "NC", "OM", "DF", "DO", "DR", "UDO",
];

/// `UF,URX`; `-` for none. A bit that has no name yet is written as its number.
pub(crate) fn names(bits: u64) -> String {
    let set = (0..64).filter(|bit| bits >> bit & 1 == 1);
    let names: Vec<String> =
        set.map(|bit| NAMES.get(bit).map_or_else(|| bit.to_string(), |name| (*name).to_owned())).collect();
    if names.is_empty() { "-".to_owned() } else { names.join(",") }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn flags_are_written_as_in_the_access_log() {
        for (bits, text) in
            [(0, "-"), (1 << 8, "NR"), (1 << 5 | 1 << 15, "UF,URX"), (1 << 14, "DC"), (1 << 40, "40")]
        {
            assert_eq!(names(bits), text);
        }
    }
}
