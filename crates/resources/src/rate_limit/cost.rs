//! `cost`: what one request takes.

use sailcloth_core::config::{Fields, Node, Value};

use super::MAX_REQUESTS;
use crate::key::read_header_name;

/// What one request takes from its bucket.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Cost {
    /// A number.
    Fixed(u32),
    /// `header`: what a request header says.
    Header {
        /// Its lower-case name.
        name: String,
        /// `default`: what a request without it costs.
        default: u32,
        /// `max`: the most that one request may cost; without it, all that the bucket holds.
        max: Option<u32>,
    },
    /// `response`: what the response says.
    Response(ResponseCost),
}

/// A cost that the response decides. One is taken beforehand, and settled when the response is there.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ResponseCost {
    /// `header`: the response header that holds the cost, by its lower-case name.
    pub header: Option<String>,
    /// `statuses`: only responses of these cost anything; all where none are written.
    pub statuses: Vec<Statuses>,
    /// `default`: what a response costs that does not say.
    pub default: u32,
    /// `max`: the most that one response may cost; without it, all that the bucket holds.
    pub max: Option<u32>,
}

/// A range of statuses: `401`, or `4xx`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Statuses {
    /// The first.
    pub first: u16,
    /// The last.
    pub last: u16,
}

impl Default for Cost {
    fn default() -> Self {
        Self::Fixed(1)
    }
}

impl Cost {
    /// Reads a cost.
    pub(super) fn read(value: &Value<'_>) -> Option<Self> {
        if !matches!(value.node(), Node::Map(_)) {
            return count(value, 1).map(Self::Fixed);
        }
        let fields = value.fields()?;
        if let Some(response) = fields.get("response") {
            for name in ["header", "default", "max"] {
                fields.refuse(name, "beside `response` has no meaning; write it inside");
            }
            return ResponseCost::read(&response).map(Self::Response);
        }
        let Some(header) = fields.get("header") else {
            let _ = read_bounds(&fields, 1);
            value.error("expected a number, `header` or `response`");
            return None;
        };
        let (default, max) = read_bounds(&fields, 1)?;
        Some(Self::Header { name: read_header_name(&header)?, default, max })
    }

    /// The most that is known now that a request may cost, and how to say so.
    pub(super) fn most(&self) -> (u32, &'static str) {
        match self {
            Self::Fixed(cost) => (*cost, "one request costs"),
            Self::Header { default, max, .. } => max
                .map_or((*default, "a request without the header costs"), |max| {
                    (max, "one request may cost")
                }),
            // What is taken beforehand; what a response costs beyond the bucket is a debt.
            Self::Response(_) => (1, "one request costs"),
        }
    }
}

impl ResponseCost {
    fn read(value: &Value<'_>) -> Option<Self> {
        let fields = value.fields()?;
        let header = fields.get("header").map(|header| read_header_name(&header));
        let statuses = fields.get("statuses").map(|list| {
            if list.items().is_some_and(|items| items.is_empty()) {
                list.error("may not be empty; leave it out where every response costs");
            }
            list.list(|status| Statuses::read(&status))
        });
        let bounds = read_bounds(&fields, 0);
        if header.is_none() && statuses.is_none() {
            value.error("needs `header` or `statuses`, which say what a response costs");
            return None;
        }
        let (default, max) = bounds?;
        Some(Self {
            header: header.map_or(Some(None), |header| header.map(Some))?,
            statuses: statuses.unwrap_or(Some(Vec::new()))?,
            default,
            max,
        })
    }
}

impl Statuses {
    fn read(value: &Value<'_>) -> Option<Self> {
        if let Some(text) = value.node().text() {
            let class = match text.as_bytes() {
                [digit @ b'1'..=b'5', b'x', b'x'] => Some(u16::from(digit - b'0') * 100),
                _ => None,
            };
            if class.is_none() {
                value.error(format!("`{text}` is not a status; expected a form like `401` or `4xx`"));
            }
            return class.map(|first| Self { first, last: first + 99 });
        }
        let status = value.integer(100, 599).and_then(|status| u16::try_from(status).ok())?;
        Some(Self { first: status, last: status })
    }

    /// Whether a status is one of them.
    #[must_use]
    pub fn contains(&self, status: u16) -> bool {
        (self.first..=self.last).contains(&status)
    }
}

fn count(value: &Value<'_>, min: i64) -> Option<u32> {
    value.integer(min, MAX_REQUESTS).and_then(|count| u32::try_from(count).ok())
}

/// `default` and `max`.
fn read_bounds(fields: &Fields<'_>, min: i64) -> Option<(u32, Option<u32>)> {
    let default = fields.get("default").map(|value| count(&value, min));
    let max = fields.get("max").map(|value| (count(&value, 1), value));
    let default = default.unwrap_or(Some(1));
    if let (Some(default), Some((Some(max), value))) = (default, &max)
        && default > *max
    {
        value.error(format!("is less than the default of {default}"));
    }
    Some((default?, max.map_or(Some(None), |(max, _)| max.map(Some))?))
}
