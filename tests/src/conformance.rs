//! Cases nobody here wrote.
