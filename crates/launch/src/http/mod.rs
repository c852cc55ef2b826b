//! A small blocking HTTP/1.1 client for tests: it sends what libraries refuse (header bytes that are not UTF-8,
//! repeated headers, any target, broken requests), shows what arrived byte by byte, and never reads without bounds.

mod client;
mod request;
mod response;

pub use client::{Client, Connection};
pub use request::Request;
pub use response::Response;
