//! Documents that other documents lead to.

use std::cell::RefCell;

use sailcloth_core::config::Severity;
use sailcloth_resources::host_name::full_name;
use sailcloth_resources::virtual_service::delegate::merge_routes;
use sailcloth_resources::virtual_service::{Delegate, HttpRoute};

use crate::compile::{Compiler, Document, is_visible};

/// The documents without `hosts`, by `namespace/name`.
pub(crate) struct Delegates<'d> {
    documents: Vec<(String, &'d Document)>,
    /// Their places.
    used: RefCell<Vec<usize>>,
}

impl<'d> Delegates<'d> {
    pub(crate) fn of(documents: &'d [Document]) -> Self {
        let delegates = documents.iter().filter(|document| document.spec.hosts.is_empty());
        let documents = delegates.map(|document| (document.metadata.id(), document)).collect();
        Self { documents, used: RefCell::default() }
    }

    /// The rules that a rule leads to, each with the document and the number that it has there.
    pub(crate) fn expand(
        &self,
        compiler: &Compiler<'_>,
        root: &Document,
        rule: &HttpRoute,
        delegate: &Delegate,
    ) -> Vec<(&'d Document, usize, HttpRoute)> {
        let namespace = delegate.namespace.as_ref().unwrap_or(&root.metadata.namespace);
        let id = format!("{namespace}/{}", delegate.name);
        let place = self.documents.iter().position(|(other, _)| *other == id);
        let found = place.and_then(|place| self.documents.get(place)).map(|(_, document)| *document);
        let Some(document) = found.filter(|document| is_visible(document, &root.metadata.namespace)) else {
            let why = match found {
                Some(_) => "its `exportTo` does not show it here",
                None => "`resources` has no such VirtualService without `hosts`",
            };
            compiler.report(Severity::Error, &delegate.path, format!("leads to `{id}`, but {why}"));
            return Vec::new();
        };
        if let Ok(mut used) = self.used.try_borrow_mut() {
            used.extend(place);
        }
        let root_rule = resolved(rule, root, &compiler.settings.domain);
        let mut rules = Vec::new();
        for (number, rule) in document.spec.http.iter().enumerate() {
            match merge_routes(&root_rule, rule) {
                Some(merged) => rules.push((document, number, merged)),
                None => {
                    let message = format!(
                        "takes no effect under `{}`: none of its matches fits one of the rule that leads here",
                        root.metadata.id()
                    );
                    compiler.report(Severity::Warning, &rule.path, message);
                }
            }
        }
        rules
    }

    /// Delegates that nobody leads to.
    pub(crate) fn unused(&self) -> Vec<&'d Document> {
        let used = self.used.try_borrow().map(|used| used.clone()).unwrap_or_default();
        let all = self.documents.iter().enumerate().filter(|(place, _)| !used.contains(place));
        all.map(|(_, (_, document))| *document).collect()
    }

    /// How many delegates somebody leads to.
    pub(crate) fn used(&self) -> usize {
        self.documents.len() - self.unused().len()
    }
}

/// The root's mirrors are in the root's namespace, also where the delegate takes them over.
fn resolved(rule: &HttpRoute, root: &Document, domain: &str) -> HttpRoute {
    let mut rule = rule.clone();
    for mirror in &mut rule.mirrors {
        mirror.destination.host = full_name(&mirror.destination.host, &root.metadata.namespace, domain);
    }
    rule
}
