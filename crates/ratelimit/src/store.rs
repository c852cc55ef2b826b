//! What the engine needs from outside: the shared memory, the time and a seed.

/// Key of the hash seed in the shared store.
pub const SEED_KEY: &[u8] = b"sailcloth/ratelimit/seed";

/// A row's value and version; `None` when nobody has written it.
pub type Stored = Option<(Vec<u8>, u32)>;

/// The shared memory of all workers: a value and its version per row, a number that changes with every write.
pub trait Store {
    /// Reads a row.
    ///
    /// # Errors
    /// When the store could not be asked.
    fn read(&mut self, row: RowKey) -> Result<Stored, StoreError>;

    /// Writes a row if it is still as it was read (`None`: absent). `false` when someone else wrote since.
    ///
    /// # Errors
    /// When the store could not be asked.
    fn write(&mut self, row: RowKey, value: &[u8], expected: Option<u32>) -> Result<bool, StoreError>;
}

/// The store failed; what the host said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreError(pub &'static str);

/// One row of one rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RowKey {
    /// Identity of the rule: a hash of policy, name, match, key, limit and size.
    pub rule: u64,
    /// Index of the row.
    pub row: u32,
}

impl RowKey {
    /// The key in a store that other filters share: `sailcloth/ratelimit/`, then rule and row as they are. Written on every
    /// request, so not as text.
    #[must_use]
    pub fn bytes(self) -> [u8; 32] {
        let mut key = *b"sailcloth/ratelimit/............";
        let rule = self.rule.to_le_bytes().into_iter();
        for (place, byte) in key.iter_mut().skip(20).zip(rule.chain(self.row.to_le_bytes())) {
            *place = byte;
        }
        key
    }
}

/// The key of the hash that places clients in rows. Random and the same for all workers of a process: with a known
/// seed a client could look for keys that share another client's bucket.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Seed(pub(crate) [u64; 2]);

impl Seed {
    /// A seed of two random numbers.
    #[must_use]
    pub fn new(first: u64, second: u64) -> Self {
        Self([first, second])
    }

    /// The seed as it is stored.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 16] {
        let [first, second] = self.0;
        (u128::from(first) | (u128::from(second) << 64)).to_le_bytes()
    }

    /// Reads a stored seed.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (first, second) = bytes.split_at_checked(8)?;
        let word = |bytes: &[u8]| bytes.try_into().ok().map(u64::from_le_bytes);
        Some(Self([word(first)?, word(second)?]))
    }
}

/// A seed is a secret of the process.
impl std::fmt::Debug for Seed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("<redacted>")
    }
}

/// When a request is decided, and how its keys are hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// A monotonic clock in nanoseconds, the same for all workers.
    pub now: u64,
    /// The seed.
    pub seed: Seed,
}
