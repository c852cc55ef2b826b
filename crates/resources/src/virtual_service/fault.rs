//! `fault`, and the percentages of it and of mirrors (`istio-api.md` 5.8, 5.9).

use std::time::Duration;

use sailcloth_core::config::Value;

use super::retries::read_timeout;

/// A share in parts per million, at most a million; what Envoy's `FractionalPercent` can say of Istio's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share(u32);

impl Share {
    /// All.
    pub const ALL: Self = Self(1_000_000);
    /// None.
    pub const NONE: Self = Self(0);

    /// Parts per million.
    #[must_use]
    pub fn per_million(self) -> u32 {
        self.0
    }
}

/// Faults that are injected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Before the request goes on.
    pub delay: Option<Delay>,
    /// In place of going on; after the delay.
    pub abort: Option<Abort>,
}

/// A request that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delay {
    /// How long.
    pub time: Duration,
    /// How many of the requests.
    pub share: Share,
}

/// A request that is answered with an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Abort {
    /// With what.
    pub status: AbortStatus,
    /// How many of the requests.
    pub share: Share,
}

/// What an aborted request is answered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AbortStatus {
    /// An HTTP status.
    Http(u16),
    /// A gRPC status (<https://grpc.io/docs/guides/status-codes/>).
    Grpc(u8),
}

const GRPC: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

pub(super) fn read_fault(value: &Value<'_>) -> Option<Fault> {
    let fields = value.fields()?;
    let (delay, abort) = (fields.get("delay"), fields.get("abort"));
    if delay.is_none() && abort.is_none() {
        value.error("needs `delay` or `abort`");
    }
    Some(Fault {
        delay: delay.and_then(|value| read_delay(&value)),
        abort: abort.and_then(|value| read_abort(&value)),
    })
}

fn read_delay(value: &Value<'_>) -> Option<Delay> {
    let fields = value.fields()?;
    let exact = fields.get("percentage").map(|value| read_percentage(&value, true).unwrap_or(Share::NONE));
    let whole = fields.get("percent").and_then(|value| value.integer(0, 100)).map(whole_percent);
    let time = match fields.one_of(&["fixedDelay", "exponentialDelay"]) {
        Some(("fixedDelay", time)) => read_timeout(&time, false),
        Some((_, time)) => {
            let _ = read_timeout(&time, false);
            time.error(
                "`exponentialDelay` is not supported: Istio does not carry it out either; use `fixedDelay`",
            );
            None
        }
        None => {
            value.error("missing field `fixedDelay`");
            None
        }
    };
    let share = exact.or(whole);
    if share.is_none() {
        value.warn("without `percentage` no request is delayed, as in Istio");
    }
    Some(Delay { time: time?, share: share.unwrap_or(Share::NONE) })
}

fn read_abort(value: &Value<'_>) -> Option<Abort> {
    let fields = value.fields()?;
    let share = fields.get("percentage").map(|value| read_percentage(&value, true).unwrap_or(Share::NONE));
    let status = match fields.one_of(&["httpStatus", "grpcStatus", "http2Error"]) {
        Some(("httpStatus", status)) => read_status(&status).map(AbortStatus::Http),
        Some(("grpcStatus", status)) => read_grpc(&status).map(AbortStatus::Grpc),
        Some((_, error)) => {
            error
                .error("`http2Error` is not supported: Istio does not carry it out either; use `httpStatus`");
            None
        }
        None => {
            value.error("missing field `httpStatus` or `grpcStatus`");
            None
        }
    };
    if share.is_none() {
        value.warn("without `percentage` no request is aborted, as in Istio");
    }
    Some(Abort { status: status?, share: share.unwrap_or(Share::NONE) })
}

/// Istio takes 600 too; so does this, and answers 600.
pub(super) fn read_status(value: &Value<'_>) -> Option<u16> {
    let status = value.integer(200, 600)?;
    if status == 600 {
        value.warn("600 is no status of HTTP; Istio takes it, and then Envoy refuses the route");
    }
    u16::try_from(status).ok()
}

fn read_grpc(value: &Value<'_>) -> Option<u8> {
    let name = value.text()?;
    let known = GRPC.iter().position(|known| *known == name).and_then(|code| u8::try_from(code).ok());
    if known.is_none() {
        let hint = sailcloth_core::config::did_you_mean(name, &GRPC);
        value.error(format!("`{name}` is not a status of gRPC{hint}"));
    }
    known
}

pub(super) fn whole_percent(percent: i64) -> Share {
    Share(u32::try_from(percent).unwrap_or_default().saturating_mul(10_000).min(1_000_000))
}

/// `{value: 12.5}`. Faults have a least share besides none.
pub(super) fn read_percentage(value: &Value<'_>, has_least: bool) -> Option<Share> {
    let percent = match value.fields()?.get("value") {
        Some(value) => value.number()?,
        None => 0.0,
    };
    let is_share = (0.0..=100.0).contains(&percent);
    if !is_share || (has_least && percent > 0.0 && percent < 0.0001) {
        let least = if has_least { "0, or 0.0001 to 100" } else { "0 to 100" };
        value.error(format!("is no percentage; expected {least}"));
        return None;
    }
    // As Istio translates it: the rest below a millionth is dropped.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "at most a million, as was checked"
    )]
    Some(Share((percent * 10_000.0) as u32))
}
