//! Sets of characters; a character is a byte.

/// The last character.
const LAST: u32 = 0xff;

/// A set of characters as ranges, sorted and disjoint once [`Class::canonical`] has run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Class(Vec<(u32, u32)>);

impl Class {
    /// One character.
    pub(super) fn of(letter: u32) -> Self {
        Self(vec![(letter, letter)])
    }

    /// `.`: everything but a newline, or with `(?s)` everything.
    pub(super) fn dot(newline: bool) -> Self {
        if newline { Self(vec![(0, LAST)]) } else { Self::of(u32::from('\n')).negated() }
    }

    /// The set of `\d`, `\s`, `\w` or its complement; RE2's `\s` has no vertical tab.
    pub(super) fn perl(letter: char) -> Option<Self> {
        let ranges: &[(u8, u8)] = match letter.to_ascii_lowercase() {
            'd' => &[(b'0', b'9')],
            's' => &[(9, 10), (12, 13), (b' ', b' ')],
            'w' => &[(b'0', b'9'), (b'A', b'Z'), (b'_', b'_'), (b'a', b'z')],
            _ => return None,
        };
        Some(Self::ascii(ranges))
    }

    /// The set of `[:name:]`.
    pub(super) fn posix(name: &str) -> Option<Self> {
        let ranges: &[(u8, u8)] = match name {
            "alnum" => &[(b'0', b'9'), (b'A', b'Z'), (b'a', b'z')],
            "alpha" => &[(b'A', b'Z'), (b'a', b'z')],
            "ascii" => &[(0, 127)],
            "blank" => &[(9, 9), (b' ', b' ')],
            "cntrl" => &[(0, 31), (127, 127)],
            "digit" => &[(b'0', b'9')],
            "graph" => &[(33, 126)],
            "lower" => &[(b'a', b'z')],
            "print" => &[(32, 126)],
            "punct" => &[(33, 47), (58, 64), (91, 96), (123, 126)],
            "space" => &[(9, 13), (b' ', b' ')],
            "upper" => &[(b'A', b'Z')],
            "word" => &[(b'0', b'9'), (b'A', b'Z'), (b'_', b'_'), (b'a', b'z')],
            "xdigit" => &[(b'0', b'9'), (b'A', b'F'), (b'a', b'f')],
            _ => return None,
        };
        Some(Self::ascii(ranges))
    }

    fn ascii(ranges: &[(u8, u8)]) -> Self {
        Self(ranges.iter().map(|(low, high)| (u32::from(*low), u32::from(*high))).collect())
    }

    /// Adds a range.
    pub(super) fn add(&mut self, low: u32, high: u32) {
        self.0.push((low, high));
    }

    /// Adds a set.
    pub(super) fn add_all(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// The set with all letters that differ only in case, those of Latin-1 included.
    pub(super) fn folded(self) -> Self {
        let mut folded = self.clone();
        for (low, high) in self.0 {
            for other in (low..=high).filter_map(other_case) {
                folded.add(other, other);
            }
        }
        folded
    }

    /// All other characters.
    pub(super) fn negated(self) -> Self {
        let mut out = Vec::new();
        let mut next = 0;
        for (low, high) in self.canonical() {
            if low > next {
                out.push((next, low - 1));
            }
            next = high + 1;
        }
        if next <= LAST {
            out.push((next, LAST));
        }
        Self(out)
    }

    /// The ranges, sorted, disjoint and not adjacent.
    pub(super) fn canonical(self) -> Vec<(u32, u32)> {
        // Sorting by insertion: a set has at most a pattern's length of ranges, and the library's sort is 7 kB of code.
        let mut sorted: Vec<(u32, u32)> = Vec::with_capacity(self.0.len());
        for range in self.0 {
            let at = sorted.partition_point(|other| *other <= range);
            sorted.insert(at, range);
        }
        let mut out: Vec<(u32, u32)> = Vec::with_capacity(sorted.len());
        for (low, high) in sorted {
            match out.last_mut() {
                Some(last) if low <= last.1.saturating_add(1) => last.1 = last.1.max(high),
                _ => out.push((low, high)),
            }
        }
        out
    }
}

/// ß, ÿ and µ have their other case outside Latin-1; × and ÷ stand among the letters and are none.
fn other_case(letter: u32) -> Option<u32> {
    match letter {
        0x41..=0x5a | 0xc0..=0xd6 | 0xd8..=0xde => Some(letter + 0x20),
        0x61..=0x7a | 0xe0..=0xf6 | 0xf8..=0xfe => Some(letter - 0x20),
        _ => None,
    }
}
