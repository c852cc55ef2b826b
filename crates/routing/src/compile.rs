//! From documents to the engine.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use sailcloth_core::config::{Path, Problem, Problems, Severity, did_you_mean};
use sailcloth_resources::host_name::{full_name, is_ip};
use sailcloth_resources::virtual_service::{Destination, HttpMatch, HttpRoute, MESH, VirtualService};
use sailcloth_resources::{Config, Loaded, Workload};

use crate::condition::Conditions;
use crate::effects::controls;
use crate::engine::{Arm, Engine, Entry, Rule, Table};
use crate::hosts::Hosts;
use crate::settings::Settings;

type Document = Loaded<VirtualService>;

/// Compiles what applies to the workload; everything else is still checked.
pub(crate) fn compile(config: &Config<VirtualService, Settings>, problems: &Problems) -> Engine {
    refuse_duplicate_names(&config.resources, problems);
    let workload = config.workload.as_ref();
    let mut compiler = Compiler {
        settings: &config.settings,
        workload,
        problems,
        clusters: numbered(config.settings.clusters.as_deref().unwrap_or_default()),
        engine: Engine {
            hosts: Hosts::default(),
            tables: Vec::new(),
            rules: Vec::new(),
            sources: config.common.sources,
            resources: 0,
        },
    };
    let mut applied: Vec<(&Document, Vec<Entry>)> = Vec::new();
    for document in &config.resources {
        let entries = compiler.entries(document);
        if workload.is_none_or(|workload| applies(document, workload)) {
            applied.push((document, entries));
        }
    }
    compiler.engine.resources = applied.len();
    compiler.hosts(&applied);
    compiler.engine
}

struct Compiler<'c> {
    settings: &'c Settings,
    workload: Option<&'c Workload>,
    problems: &'c Problems,
    clusters: HashMap<String, usize>,
    engine: Engine,
}

impl Compiler<'_> {
    fn report(&self, severity: Severity, path: &Path, message: String) {
        self.problems.report(Problem { severity, path: path.to_string(), message });
    }

    /// The rules of a document, as entries: each `match` is one, as in Envoy's route list.
    fn entries(&mut self, document: &Document) -> Vec<Entry> {
        let mut entries = Vec::new();
        for (number, rule) in document.spec.http.iter().enumerate() {
            let id = self.engine.rules.len();
            let compiled = self.rule(document, number, rule);
            self.engine.rules.push(compiled);
            let anything = [HttpMatch::default()];
            let matches = if rule.matches.is_empty() { anything.as_slice() } else { &rule.matches };
            entries.extend(
                matches.iter().map(|item| Entry { rule: id, conditions: Rc::new(Conditions::of(item)) }),
            );
        }
        entries
    }

    fn rule(&self, document: &Document, number: usize, rule: &HttpRoute) -> Rule {
        let mut arms: Vec<Arm> =
            rule.destinations.iter().map(|destination| self.arm(document, destination)).collect();
        // "single destination: gets everything whatever its weight" (istio-api.md 5.4)
        if let [only] = arms.as_mut_slice() {
            only.weight = 1;
        }
        name_apart(&mut arms);
        Rule {
            policy: document.metadata.id(),
            number: u32::try_from(number).unwrap_or(u32::MAX),
            total: arms.iter().map(|arm| arm.weight).sum(),
            arms,
            controls: controls(rule),
        }
    }

    fn arm(&self, document: &Document, destination: &Destination) -> Arm {
        let host = full_name(&destination.host, &document.metadata.namespace, &self.settings.domain);
        let port = destination.port.unwrap_or(self.settings.default_port);
        let cluster =
            self.settings.template.name(&host, port, destination.subset.as_deref().unwrap_or_default());
        // A missing list is reported once, where it is missing.
        if self.settings.clusters.is_some() && !self.clusters.contains_key(&cluster) {
            let known: Vec<&str> = self.clusters.keys().map(String::as_str).collect();
            let hint = did_you_mean(&cluster, &known);
            let message = format!("its cluster `{cluster}` is not in `settings.clusters`{hint}");
            self.report(Severity::Error, &destination.path, message);
        }
        let label = destination.subset.clone().unwrap_or(host);
        Arm { cluster, label, weight: u64::from(destination.weight) }
    }

    /// Fills the host index: a host as declared, then the shorter forms by which a mesh reaches a service.
    fn hosts(&mut self, applied: &[(&Document, Vec<Entry>)]) {
        let declared = self.declared(applied);
        let mut tables: HashMap<String, usize> = HashMap::new();
        let mut names: Vec<(String, usize)> = Vec::new();
        for (host, documents) in declared {
            // Hosts that the same documents declare share a table.
            let table = *tables.entry(format!("{documents:?}")).or_insert_with(|| {
                self.engine.tables.push(self.table(applied, &documents));
                self.engine.tables.len() - 1
            });
            self.engine.hosts.add(&host, table);
            names.push((host, table));
        }
        if self.is_gateway() {
            return;
        }
        for (host, table) in &names {
            for alias in self.aliases(host) {
                if !self.engine.hosts.add(&alias, *table)
                    && self.engine.hosts.find(alias.as_bytes()) != Some(*table)
                {
                    let message = format!("`{alias}` does not reach `{host}`: another host has that name");
                    self.report(Severity::Warning, &Path::default(), message);
                }
            }
        }
    }

    /// The documents of each host, in their order. A mesh takes the first document of a host, a gateway all of them.
    fn declared(&self, applied: &[(&Document, Vec<Entry>)]) -> BTreeMap<String, Vec<usize>> {
        let mut declared: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (index, (document, _)) in applied.iter().enumerate() {
            for host in &document.spec.hosts {
                let documents = declared.entry(self.full_host(document, host)).or_default();
                // The short and the full name of one service in one document are the same host.
                if documents.contains(&index) {
                    continue;
                }
                if let Some((first, _)) = documents.first().and_then(|first| applied.get(*first)) {
                    let (taken, first) = (self.full_host(document, host), first.metadata.id());
                    if self.is_gateway() {
                        let message =
                            format!("host `{taken}` also has rules in `{first}`, which are tried before");
                        self.report(Severity::Warning, &document.path, message);
                    } else {
                        let message =
                            format!("host `{taken}` has its rules in `{first}`; these take no effect on it");
                        self.report(Severity::Warning, &document.path, message);
                        continue;
                    }
                }
                documents.push(index);
            }
        }
        declared
    }

    fn full_host(&self, document: &Document, host: &str) -> String {
        if is_ip(host) && host.contains(':') {
            return format!("[{}]", host.to_ascii_lowercase());
        }
        let full = full_name(host, &document.metadata.namespace, &self.settings.domain).to_ascii_lowercase();
        full.strip_suffix('.').map(str::to_owned).unwrap_or(full)
    }

    fn table(&self, applied: &[(&Document, Vec<Entry>)], documents: &[usize]) -> Table {
        let of = documents.iter().filter_map(|index| applied.get(*index));
        let all: Vec<&Entry> = of.flat_map(|(_, entries)| entries).collect();
        // "on gateways their routes are concatenated and then all catch-all routes are moved to the end"
        let is_last = |entry: &&&Entry| documents.len() > 1 && entry.conditions.is_catch_all();
        let first = all.iter().filter(|entry| !is_last(entry));
        Table::new(first.chain(all.iter().filter(is_last)).map(|entry| (*entry).clone()).collect())
    }

    fn is_gateway(&self) -> bool {
        self.workload.is_some_and(|workload| workload.gateway.is_some())
    }

    /// `a.ns.svc`, `a.ns` and, for callers in its namespace, `a` of the service `a.ns.svc.cluster.local`.
    fn aliases(&self, host: &str) -> Vec<String> {
        let suffix = format!(".svc.{}", self.settings.domain);
        let Some((name, namespace)) = host.strip_suffix(&suffix).and_then(|service| service.split_once('.'))
        else {
            return Vec::new();
        };
        if name.contains('*') || namespace.contains('.') {
            return Vec::new();
        }
        let mut aliases = vec![format!("{name}.{namespace}.svc"), format!("{name}.{namespace}")];
        if self.workload.is_none_or(|workload| workload.namespace == namespace) {
            aliases.push(name.to_owned());
        }
        aliases
    }
}

/// Each text with its number; of two equal ones the last.
fn numbered(texts: &[String]) -> HashMap<String, usize> {
    texts.iter().enumerate().map(|(number, text)| (text.clone(), number)).collect()
}

/// Two destinations of a rule are counted apart.
fn name_apart(arms: &mut [Arm]) {
    let labels: Vec<String> = arms.iter().map(|arm| arm.label.clone()).collect();
    for arm in arms {
        if labels.iter().filter(|label| **label == arm.label).count() > 1 {
            arm.label.clone_from(&arm.cluster);
        }
    }
}

fn refuse_duplicate_names(documents: &[Document], problems: &Problems) {
    let ids: Vec<String> = documents.iter().map(|document| document.metadata.id()).collect();
    let last = numbered(&ids);
    for (number, (id, document)) in ids.iter().zip(documents).enumerate() {
        if last.get(id) != Some(&number) {
            let message = format!("`{id}` is written twice; keep one");
            problems.report(Problem { severity: Severity::Error, path: document.path.to_string(), message });
        }
    }
}

/// Whether a document is for this proxy: visible in its namespace, and bound to the mesh or to its gateway.
fn applies(document: &Document, workload: &Workload) -> bool {
    let own = &document.metadata.namespace;
    let export = &document.spec.export_to;
    let visible = export.is_empty()
        || export.iter().any(|to| match to.as_str() {
            "*" => true,
            "." => *own == workload.namespace,
            namespace => namespace == workload.namespace,
        });
    let gateways = &document.spec.gateways;
    let bound = match &workload.gateway {
        None => gateways.is_empty() || gateways.iter().any(|gateway| gateway == MESH),
        Some(gateway) => {
            let wanted = qualified(gateway, &workload.namespace);
            gateways.iter().any(|name| name != MESH && qualified(name, own) == wanted)
        }
    };
    visible && bound
}

/// `namespace/name`.
fn qualified(gateway: &str, namespace: &str) -> String {
    if gateway.contains('/') { gateway.to_owned() } else { format!("{namespace}/{gateway}") }
}
