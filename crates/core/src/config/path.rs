//! Where in a document a problem is.

use std::fmt;
use std::rc::Rc;

/// A path such as `resources[2].spec.rules[0].to`: a linked list from the leaf to the root, cheap to extend.
#[derive(Clone, Default)]
pub struct Path(Option<Rc<Step>>);

struct Step {
    parent: Path,
    segment: Segment,
}

enum Segment {
    Key(String),
    Index(usize),
}

impl Path {
    /// The path of a field of the value at this path.
    #[must_use]
    #[inline(never)]
    pub fn key(&self, key: &str) -> Self {
        self.step(Segment::Key(key.to_owned()))
    }

    /// The path of an item of the list at this path.
    #[must_use]
    #[inline(never)]
    pub fn index(&self, index: usize) -> Self {
        self.step(Segment::Index(index))
    }

    #[inline(never)]
    fn step(&self, segment: Segment) -> Self {
        Self(Some(Rc::new(Step { parent: self.clone(), segment })))
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(step) = &self.0 else { return Ok(()) };
        step.parent.fmt(f)?;
        match &step.segment {
            Segment::Index(index) => write!(f, "[{index}]"),
            Segment::Key(key) if !is_plain(key) => write!(f, "[\"{key}\"]"),
            Segment::Key(key) if step.parent.0.is_none() => f.write_str(key),
            Segment::Key(key) => write!(f, ".{key}"),
        }
    }
}

impl fmt::Debug for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn is_plain(key: &str) -> bool {
    !key.is_empty()
        && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'@'))
}
