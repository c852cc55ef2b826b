//! Envoy's shared data as the engine's store.

use sailcloth_host::shared::{self, Version, Write};
use sailcloth_host::{Status, random};
use sailcloth_ratelimit::{RowKey, SEED_KEY, Seed, Store, StoreError, Stored};

/// The rows, in the memory that all workers share.
pub(crate) struct SharedRows;

impl Store for SharedRows {
    fn read(&mut self, row: RowKey) -> Result<Stored, StoreError> {
        let found = shared::read(&row.bytes()).map_err(failed)?;
        Ok(found.map(|(bytes, version)| (bytes, version.number())))
    }

    fn write(&mut self, row: RowKey, value: &[u8], expected: Option<u32>) -> Result<bool, StoreError> {
        let expected = expected.map(Version::of);
        shared::write(&row.bytes(), value, expected).map(|write| write == Write::Done).map_err(failed)
    }
}

fn failed(status: Status) -> StoreError {
    StoreError(status.name())
}

/// The seed that all workers use: the first one to need it writes it, the others read it.
pub(crate) fn common_seed() -> Result<Seed, Status> {
    if shared::read(SEED_KEY)?.is_none() {
        let seed = Seed::new(random::next()?, random::next()?);
        // Whoever loses this race reads the winner's.
        let _ = shared::write(SEED_KEY, &seed.to_bytes(), None)?;
    }
    let stored = shared::read(SEED_KEY)?.and_then(|(bytes, _)| Seed::from_bytes(&bytes));
    stored.ok_or(Status::SerializationFailure)
}
