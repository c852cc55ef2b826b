//! What the engines share.
