//! CEL expressions: values of labels and of metrics, and conditions.

use std::borrow::Cow;

use crate::attribute::{Attribute, Reading};

/// Makes programs of CEL expressions: Envoy's own `expr_*` inside Envoy, something else outside.
pub trait Compiler {
    /// A handle for [`Stream::evaluate`](crate::Stream::evaluate).
    ///
    /// # Errors
    /// Why there is none: the expression is wrong, or this host has no CEL.
    fn compile(&self, expression: &str) -> Result<u32, &'static str>;
}

/// A host without CEL: plain attributes and literals still work.
#[derive(Debug, Clone, Copy)]
pub struct NoCompiler;

impl Compiler for NoCompiler {
    fn compile(&self, _: &str) -> Result<u32, &'static str> {
        Err("this host evaluates no CEL expressions, only plain attributes such as `request.method`")
    }
}

/// An expression, ready to be evaluated. Plain attributes and literals need no program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Expression {
    Literal(String),
    Attribute(Attribute),
    Program(u32),
}

impl Expression {
    /// One whose value becomes text. `string()` gives every CEL type its text, and what has none (a list, a missing
    /// attribute) is an error, which Istio shows as `unknown`.
    pub(crate) fn text(source: &str, compiler: &dyn Compiler) -> Result<Self, &'static str> {
        if let Some(text) = literal(source) {
            return Ok(Self::Literal(text));
        }
        match Attribute::parse(source).filter(Attribute::has_plain_text) {
            Some(attribute) => Ok(Self::Attribute(attribute)),
            None => wrapped("string(", source, ")", compiler),
        }
    }

    /// One whose value is a number.
    pub(crate) fn number(source: &str, compiler: &dyn Compiler) -> Result<Self, &'static str> {
        if source.trim().parse::<u64>().is_ok() {
            return Ok(Self::Literal(source.trim().to_owned()));
        }
        match Attribute::parse(source) {
            Some(attribute) => Ok(Self::Attribute(attribute)),
            None => wrapped("double(", source, ")", compiler),
        }
    }

    /// One that says yes or no.
    pub(crate) fn condition(source: &str, compiler: &dyn Compiler) -> Result<Self, &'static str> {
        wrapped("(", source, ") == true", compiler)
    }

    /// The value as text; `None` when there is none.
    pub(crate) fn as_text<'r>(&'r self, reading: &'r Reading<'_>) -> Option<Cow<'r, [u8]>> {
        match self {
            Self::Literal(text) => Some(Cow::Borrowed(text.as_bytes())),
            Self::Attribute(attribute) => attribute.text(reading),
            Self::Program(program) => reading.stream.evaluate(*program).map(Cow::Owned),
        }
    }

    /// The value as a whole number, rounded; durations are milliseconds. `None` when it is none, or negative.
    pub(crate) fn as_number(&self, reading: &Reading<'_>) -> Option<u64> {
        match self {
            Self::Literal(text) => text.parse().ok(),
            Self::Attribute(attribute) => attribute.number(reading),
            Self::Program(program) => {
                let raw = reading.stream.evaluate(*program)?;
                rounded(f64::from_le_bytes(raw.try_into().ok()?))
            }
        }
    }

    pub(crate) fn holds(&self, reading: &Reading<'_>) -> bool {
        match self {
            Self::Program(program) => reading.stream.evaluate(*program).as_deref() == Some(&[1]),
            Self::Literal(_) | Self::Attribute(_) => false,
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the range is checked before the cast"
)]
fn rounded(number: f64) -> Option<u64> {
    (0.0..9e15).contains(&number).then_some((number + 0.5) as u64)
}

/// The line break ends a comment that the expression may close with.
fn wrapped(
    before: &str,
    source: &str,
    after: &str,
    compiler: &dyn Compiler,
) -> Result<Expression, &'static str> {
    compiler.compile(&[before, source, "\n", after].concat()).map(Expression::Program)
}

/// `'text'` or `"text"` without escapes.
pub(crate) fn literal(source: &str) -> Option<String> {
    let source = source.trim();
    let quote = source.chars().next().filter(|quote| matches!(quote, '\'' | '"'))?;
    let inner = source.strip_prefix(quote)?.strip_suffix(quote)?;
    (!inner.contains([quote, '\\', '\n'])).then(|| inner.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn literals_need_no_program() {
        for (source, expected) in [
            ("'a'", Some("a")),
            (" \"a b\" ", Some("a b")),
            ("''", Some("")),
            ("'a' + 'b'", None),
            (r"'a\n'", None),
            ("'", None),
            ("'a", None),
            ("a", None),
        ] {
            assert_eq!(literal(source).as_deref(), expected, "{source}");
        }
    }

    #[test]
    fn numbers_are_rounded_and_never_negative() {
        for (number, expected) in [
            (0.4, Some(0)),
            (0.5, Some(1)),
            (12.0, Some(12)),
            (-1.0, None),
            (f64::NAN, None),
            (f64::INFINITY, None),
        ] {
            assert_eq!(rounded(number), expected, "{number}");
        }
    }
}
