//! Edits of headers: what a document asks for, compiled, and what becomes of it for one request.

use std::borrow::Cow;

use sailcloth_core::request::Request;

use crate::format::{Template, Unavailable};

/// One edit of a header map; several are made in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edit<'e> {
    /// Removes all values.
    Remove(Cow<'e, str>),
    /// Sets to one value, replacing what is there.
    Set(Cow<'e, str>, Cow<'e, [u8]>),
    /// Appends a value.
    Add(Cow<'e, str>, Cow<'e, [u8]>),
}

impl<'e> Edit<'e> {
    pub(crate) fn set(name: &'e str, value: &'e str) -> Self {
        Self::Set(Cow::Borrowed(name), Cow::Borrowed(value.as_bytes()))
    }

    pub(crate) fn add_own(name: &'static str, value: String) -> Self {
        Self::Add(Cow::Borrowed(name), Cow::Owned(value.into_bytes()))
    }

    /// The edit without what it borrowed, for a stream that outlives the callback.
    #[must_use]
    pub fn into_owned(self) -> Edit<'static> {
        let own = |name: Cow<'e, str>| Cow::Owned(name.into_owned());
        let bytes = |value: Cow<'e, [u8]>| Cow::Owned(value.into_owned());
        match self {
            Self::Remove(name) => Edit::Remove(own(name)),
            Self::Set(name, value) => Edit::Set(own(name), bytes(value)),
            Self::Add(name, value) => Edit::Add(own(name), bytes(value)),
        }
    }

    fn name(&self) -> &str {
        match self {
            Self::Remove(name) | Self::Set(name, _) | Self::Add(name, _) => name,
        }
    }
}

/// The request's headers as the edits so far leave them.
pub(crate) struct Edited<'a, 'e> {
    pub(crate) request: &'a Request<'e>,
    pub(crate) edits: &'a [Edit<'e>],
}

impl Edited<'_, '_> {
    /// The first value of a header.
    pub(crate) fn first(&self, name: &str) -> Option<&[u8]> {
        let original = self.request.headers.first(name);
        self.edits.iter().filter(|edit| edit.name() == name).fold(original, |value, edit| match edit {
            Edit::Remove(_) => None,
            Edit::Set(_, value) => Some(value),
            Edit::Add(_, added) => value.or(Some(added)),
        })
    }
}

/// The edits of one level, in Envoy's order: remove, then set, then add; all values are computed before any of them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pass {
    pub(crate) remove: Vec<String>,
    pub(crate) set: Vec<(String, Template)>,
    pub(crate) add: Vec<(String, Template)>,
}

impl Pass {
    /// Takes another level into this one, behind its own.
    pub(crate) fn append(&mut self, other: Self) {
        self.remove.extend(other.remove);
        self.set.extend(other.set);
        self.add.extend(other.add);
    }

    /// Adds the edits for a request. `seen` is what substitution commands read; a value that comes out empty is left
    /// out, as Envoy does.
    pub(crate) fn apply<'e>(
        &'e self,
        seen: &Edited<'_, 'e>,
        is_there: impl Fn(&str) -> bool,
    ) -> Result<Vec<Edit<'e>>, Unavailable> {
        let mut made: Vec<Edit<'e>> = Vec::new();
        let removed = self.remove.iter().filter(|name| is_there(name));
        made.extend(removed.map(|name| Edit::Remove(Cow::Borrowed(name.as_str()))));
        for (name, value) in &self.set {
            let value = value.evaluate(seen)?;
            if !value.is_empty() {
                made.push(Edit::Set(Cow::Borrowed(name), value));
            }
        }
        for (name, value) in &self.add {
            let value = value.evaluate(seen)?;
            if !value.is_empty() {
                made.push(Edit::Add(Cow::Borrowed(name), value));
            }
        }
        Ok(made)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }
}
