//! What our own kind adds.
