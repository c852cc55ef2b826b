//! From documents to the engine.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use sailcloth_core::config::{Path, Problem, Problems, Severity, did_you_mean};
use sailcloth_core::regex::Substitution;
use sailcloth_resources::host_name::{full_name, is_ip};
use sailcloth_resources::virtual_service::{
    AUTHORITY, Action, Destination, HeaderEdits, HeaderText, HttpMatch, HttpRoute, MESH, PathRewrite,
    Retries, Share, VirtualService,
};
use sailcloth_resources::{Config, Loaded, Workload};

use crate::condition::Conditions;
use crate::cors::Cors;
use crate::delegate::Delegates;
use crate::edit::Pass;
use crate::effects::{controls, is_controlled, mirror_header};
use crate::engine::{Arm, ArmEdits, Engine, Entry, Rule, Side, Table};
use crate::format::Template;
use crate::redirect::OwnResponse;
use crate::rewrite::PathChange;
use crate::settings::{CarryOut, Settings};
use crate::work::Work;

pub(crate) type Document = Loaded<VirtualService>;

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
            enforced: Side::default(),
            shadow: Side::default(),
            rules: Vec::new(),
            sources: config.common.sources,
            resources: 0,
        },
    };
    compiler.engine.rules.reserve(config.resources.iter().map(|document| document.spec.http.len()).sum());
    let mut applied: Vec<(&Document, Vec<Entry>)> = Vec::new();
    let delegates = Delegates::of(&config.resources);
    for document in config.resources.iter().filter(|document| !document.spec.hosts.is_empty()) {
        compiler.check_sticky(document);
        let entries = compiler.entries(document, &delegates);
        if workload.is_none_or(|workload| applies(document, workload)) {
            applied.push((document, entries));
        }
    }
    // Its rules serve nobody, and are checked all the same.
    for document in delegates.unused() {
        let message = "has no `hosts` and no document delegates to it; it takes no effect".to_owned();
        compiler.report(Severity::Warning, &document.path, message);
        compiler.entries(document, &delegates);
    }
    compiler.engine.resources = applied.len() + delegates.used();
    let (shadow, enforced): (Vec<_>, Vec<_>) =
        applied.into_iter().partition(|(document, _)| document.spec.shadow);
    compiler.engine.enforced = compiler.side(&enforced);
    compiler.engine.shadow = compiler.side(&shadow);
    compiler.engine
}

pub(crate) struct Compiler<'c> {
    pub(crate) settings: &'c Settings,
    workload: Option<&'c Workload>,
    problems: &'c Problems,
    clusters: HashMap<String, usize>,
    engine: Engine,
}

impl Compiler<'_> {
    pub(crate) fn report(&self, severity: Severity, path: &Path, message: String) {
        let problem = Problem { severity, path: path.to_string(), message };
        // A delegate of two documents is compiled twice.
        if !self.problems.list().contains(&problem) {
            self.problems.report(problem);
        }
    }

    /// The rules of a document, as entries: each `match` is one, as in Envoy's route list.
    fn entries(&mut self, document: &Document, delegates: &Delegates<'_>) -> Vec<Entry> {
        let mut entries = Vec::new();
        for (number, rule) in document.spec.http.iter().enumerate() {
            let Action::Delegate(delegate) = &rule.action else {
                entries.extend(self.rule_entries(document, number, rule));
                continue;
            };
            for (document, number, rule) in delegates.expand(self, document, rule, delegate) {
                entries.extend(self.rule_entries(document, number, &rule));
            }
        }
        entries
    }

    fn rule_entries(&mut self, document: &Document, number: usize, rule: &HttpRoute) -> Vec<Entry> {
        let id = self.engine.rules.len();
        let compiled = self.rule(document, number, rule);
        self.engine.rules.push(compiled);
        let anything = [HttpMatch::default()];
        let matches = if rule.matches.is_empty() { anything.as_slice() } else { &rule.matches };
        let own = (0..).zip(matches).filter(|(_, one)| self.is_for_this_proxy(document, one));
        let listener = self.settings.port;
        own.map(|(place, one)| Entry { rule: id, place, conditions: Rc::new(Conditions::of(one, listener)) })
            .collect()
    }

    /// Istio decides this when it writes a proxy's routes; so does this.
    fn is_for_this_proxy(&self, document: &Document, one: &HttpMatch) -> bool {
        if one.port.zip(self.settings.port).is_some_and(|(port, listener)| port != listener) {
            return false;
        }
        let Some(workload) = self.workload else {
            let asked = [
                ("gateways", !one.gateways.is_empty()),
                ("sourceLabels", !one.source_labels.is_empty()),
                ("sourceNamespace", one.source_namespace.is_some()),
            ];
            for (field, _) in asked.into_iter().filter(|(_, asked)| *asked) {
                let message = format!("`{field}` asks which proxy this is; say so by `workload`");
                self.report(Severity::Error, &one.path, message);
            }
            return true;
        };
        if !one.gateways.is_empty() {
            return is_bound(&one.gateways, &document.metadata.namespace, workload);
        }
        one.source_labels.iter().all(|label| workload.labels.contains(label))
            && one.source_namespace.as_ref().is_none_or(|namespace| *namespace == workload.namespace)
    }

    fn rule(&self, document: &Document, number: usize, rule: &HttpRoute) -> Rule {
        let destinations = match &rule.action {
            Action::Route(destinations) => destinations.as_slice(),
            _ => &[],
        };
        let mut arms: Vec<Arm> =
            destinations.iter().map(|destination| self.arm(document, destination)).collect();
        let is_paired = self.is_paired();
        let mut work = if is_paired { Work::default() } else { self.work(document, rule) };
        // "single destination: gets everything whatever its weight" (istio-api.md 5.4); its edits join the rule's
        if let [only] = arms.as_mut_slice() {
            only.weight = 1;
            if let Some(edits) = only.edits.take() {
                work.request.append(edits.request);
                work.response.append(edits.response);
                work.authority = work.authority.or(edits.authority);
            }
        }
        // Where a destination edits, the rule has to.
        let is_plain = work.is_nothing() && arms.iter().all(|arm| arm.edits.is_none());
        name_apart(&mut arms);
        let sticky = self.sticky(document, number, rule.name.as_deref(), destinations);
        Rule {
            sticky,
            policy: document.metadata.id(),
            number: u32::try_from(number).unwrap_or(u32::MAX),
            total: arms.iter().map(|arm| arm.weight).sum(),
            arms,
            controls: self.shared(if is_paired { Vec::new() } else { controls(rule) }),
            native: is_paired.then(|| self.native_route(document, number, rule)),
            work: (!is_plain).then(|| Box::new(work)),
        }
    }

    fn arm(&self, document: &Document, destination: &Destination) -> Arm {
        let host = full_name(&destination.host, &document.metadata.namespace, &self.settings.domain);
        let cluster = self.cluster(document, destination);
        let label = destination.subset.clone().unwrap_or(host);
        let weight = u64::from(destination.weight);
        if self.is_paired() {
            return Arm { cluster, label, weight, ..Arm::default() };
        }
        let edits = destination.headers.as_ref().map(|headers| {
            let (request, authority) = self.pass(&headers.request);
            let (response, _) = self.pass(&headers.response);
            Box::new(ArmEdits { request, response, authority })
        });
        Arm { cluster, label, weight, edits }
    }

    fn cluster(&self, document: &Document, destination: &Destination) -> String {
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
        cluster
    }

    fn work(&self, document: &Document, rule: &HttpRoute) -> Work {
        let headers = rule.headers.clone().unwrap_or_default();
        let (request, host) = self.pass(&headers.request);
        let (response, _) = self.pass(&headers.response);
        let rewrite = rule.rewrite.as_ref();
        if let (Action::Route(_), retries) = (&rule.action, rule.retries.as_deref()) {
            self.check_retries(rule, retries);
        }
        Work {
            own: match &rule.action {
                Action::Redirect(redirect) => Some(OwnResponse::Redirect((**redirect).clone())),
                Action::Direct(direct) => Some(OwnResponse::Direct(direct.clone())),
                _ => None,
            },
            fault: rule.fault.clone(),
            cors: rule.cors.as_deref().map(Cors::of),
            path: rewrite.and_then(|rewrite| self.path_change(rewrite.path.as_ref()?)),
            authority: rewrite.and_then(|rewrite| rewrite.authority.clone()).or(host),
            request,
            response,
            mirrors: self.mirrors(document, rule),
            listener: self.settings.port,
        }
    }

    /// The edits of one level, and the host that they set.
    fn pass(&self, edits: &HeaderEdits) -> (Pass, Option<String>) {
        let names = edits.set.iter().chain(&edits.add).map(|header| (&header.name, &header.path));
        let removed = edits.remove.iter().map(|(name, path)| (name, path));
        for (name, path) in names.chain(removed).filter(|(name, _)| is_controlled(name)) {
            let message = format!("`{name}` steers Envoy's router or this filter; no document may edit it");
            self.report(Severity::Error, path, message);
        }
        let of = |list: &[HeaderText]| {
            let plain = list.iter().filter(|header| header.name != AUTHORITY);
            plain.filter_map(|header| Some((header.name.clone(), self.template(header)?))).collect()
        };
        let host = edits.set.iter().chain(&edits.add).find(|header| header.name == AUTHORITY);
        if let Some(header) = host.filter(|header| header.value.contains('%')) {
            self.report(Severity::Error, &header.path, "a host is a literal; no `%` commands".to_owned());
        }
        let pass = Pass {
            remove: edits.remove.iter().map(|(name, _)| name.clone()).collect(),
            set: of(&edits.set),
            add: of(&edits.add),
        };
        (pass, host.map(|header| header.value.clone()).filter(|host| !host.is_empty()))
    }

    fn template(&self, header: &HeaderText) -> Option<Template> {
        Template::parse(&header.value)
            .map_err(|problem| self.report(Severity::Error, &header.path, problem))
            .ok()
    }

    fn path_change(&self, rewrite: &PathRewrite) -> Option<PathChange> {
        match rewrite {
            PathRewrite::Matched(text) => Some(PathChange::Matched(text.clone())),
            PathRewrite::Regex { pattern, substitution, path } => {
                let compiled = Substitution::new(pattern.as_str(), substitution)
                    .map_err(|error| self.report(Severity::Error, path, error.to_string()));
                Some(PathChange::Regex(Box::new(compiled.ok()?)))
            }
        }
    }

    fn mirrors(&self, document: &Document, rule: &HttpRoute) -> Vec<(String, Share, String)> {
        let mirrors: Vec<(String, Share, String)> = (1..)
            .zip(&rule.mirrors)
            .map(|(number, mirror)| {
                (self.cluster(document, &mirror.destination), mirror.share, mirror_header(number))
            })
            .collect();
        if let Some(mirror) = rule.mirrors.get(self.settings.mirrors) {
            let message = format!(
                "a filter cannot send copies; give the native route {} `request_mirror_policies` with `cluster_header: {}` \
                 and so on, and say how many in `settings.mirrors`",
                rule.mirrors.len(),
                mirror_header(1)
            );
            self.report(Severity::Error, &mirror.destination.path, message);
        }
        mirrors
    }

    /// What no request can set must stand in the native route, and be the same for all rules that retry.
    fn check_retries(&self, rule: &HttpRoute, retries: Option<&Retries>) {
        if retries.is_some_and(|retries| retries.attempts == 0) {
            return;
        }
        let native = &self.settings.native_retries;
        let differing = [
            ("backoff", "retry_back_off", retries.and_then(|retries| retries.backoff) != native.backoff),
            (
                "retryRemoteLocalities",
                "retry_priority",
                retries.and_then(|retries| retries.remote_localities).unwrap_or(false)
                    != native.remote_localities,
            ),
            (
                "retryIgnorePreviousHosts",
                "retry_host_predicate",
                retries.and_then(|retries| retries.ignore_previous_hosts).unwrap_or(true)
                    != native.ignore_previous_hosts,
            ),
        ];
        for (field, policy, _) in differing.into_iter().filter(|(_, _, differs)| *differs) {
            let message = format!(
                "`{field}` cannot be set for a request: it is what `retry_policy.{policy}` of the native route says for \
                 all; make them agree, and say it in `settings.nativeRetries.{field}`"
            );
            self.report(Severity::Error, &rule.path.key("retries"), message);
        }
    }

    /// Fills the host index: a host as declared, then the shorter forms by which a mesh reaches a service.
    fn side(&self, applied: &[(&Document, Vec<Entry>)]) -> Side {
        let mut side = Side::default();
        let declared = self.declared(applied);
        let mut tables: HashMap<String, usize> = HashMap::new();
        let mut names: Vec<(String, usize)> = Vec::new();
        for (host, documents) in declared {
            // Hosts that the same documents declare share a table.
            let table = *tables.entry(format!("{documents:?}")).or_insert_with(|| {
                side.tables.push(self.table(applied, &documents));
                side.tables.len() - 1
            });
            side.hosts.add(&host, table);
            names.push((host, table));
        }
        if self.is_gateway() {
            return side;
        }
        for (host, table) in &names {
            for alias in self.aliases(host) {
                if !side.hosts.add(&alias, *table) && side.hosts.find(alias.as_bytes()) != Some(*table) {
                    let message = format!("`{alias}` does not reach `{host}`: another host has that name");
                    self.report(Severity::Warning, &Path::default(), message);
                }
            }
        }
        side
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

    /// Rules one after the other mostly have the same timeouts and retries: they are kept once.
    fn shared(&self, controls: Vec<(&'static str, String)>) -> Rc<Vec<(&'static str, String)>> {
        let last = self.engine.rules.last().filter(|last| *last.controls == controls);
        last.map_or_else(|| Rc::new(controls), |last| Rc::clone(&last.controls))
    }

    /// Whether native routes do what rules say; then nothing of that is refused or done here.
    fn is_paired(&self) -> bool {
        self.settings.carry_out == CarryOut::Paired
    }

    fn is_gateway(&self) -> bool {
        self.workload.is_some_and(|workload| workload.gateway.is_some())
    }

    /// `a.ns.svc`, `a.ns` and, for callers in its namespace, `a` of the service `a.ns.svc.cluster.local`.
    fn aliases(&self, host: &str) -> Vec<String> {
        let suffix = format!(".svc.{}", self.settings.domain);
        // `*.a.ns.svc.cluster.local` are the instances of a headless service.
        let Some((name, namespace)) = host.strip_suffix(&suffix).and_then(|service| service.rsplit_once('.'))
        else {
            return Vec::new();
        };
        if matches!(name, "" | "*") || name.strip_prefix("*.").unwrap_or(name).contains('.') {
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

/// Whether a namespace sees a document.
pub(crate) fn is_visible(document: &Document, from: &str) -> bool {
    let export = &document.spec.export_to;
    let own = document.metadata.namespace == from;
    export.is_empty()
        || export.iter().any(|to| match to.as_str() {
            "*" => true,
            "." => own,
            namespace => namespace == from,
        })
}

/// Whether a document is for this proxy: visible in its namespace, and bound to the mesh or to its gateway.
fn applies(document: &Document, workload: &Workload) -> bool {
    let own = &document.metadata.namespace;
    let visible = is_visible(document, &workload.namespace);
    let gateways = &document.spec.gateways;
    let bound =
        if gateways.is_empty() { workload.gateway.is_none() } else { is_bound(gateways, own, workload) };
    visible && bound
}

/// Whether the proxy is one of these gateways, or a sidecar and `mesh` is among them.
fn is_bound(gateways: &[String], namespace: &str, workload: &Workload) -> bool {
    match &workload.gateway {
        None => gateways.iter().any(|gateway| gateway == MESH),
        Some(gateway) => {
            let wanted = qualified(gateway, &workload.namespace);
            gateways.iter().any(|name| name != MESH && qualified(name, namespace) == wanted)
        }
    }
}

/// `namespace/name`.
fn qualified(gateway: &str, namespace: &str) -> String {
    if gateway.contains('/') { gateway.to_owned() } else { format!("{namespace}/{gateway}") }
}
