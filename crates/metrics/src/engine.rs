//! A compiled configuration.

use sailcloth_core::config::{Node, Problem, Problems};
use sailcloth_core::facts::PeerIdentitySource;
use sailcloth_resources::Config;
use sailcloth_resources::telemetry::Telemetry;

use crate::expression::Compiler;
use crate::facts::Places;
use crate::labels::Own;
use crate::overrides::in_force;
use crate::paths::Paths;
use crate::plan::{Plan, Planner, default_service};
use crate::settings::{Service, Settings};

/// A compiled configuration: what is produced, of which facts.
#[derive(Debug)]
pub struct Engine {
    pub(crate) plan: Plan,
    pub(crate) own: Own,
    pub(crate) service: Service,
    pub(crate) places: Places,
    pub(crate) paths: Paths,
    resources: usize,
}

impl Engine {
    /// Compiles a configuration from what Envoy hands over.
    ///
    /// # Errors
    /// All problems, when at least one refuses the configuration.
    pub fn load(text: &[u8], compiler: &dyn Compiler) -> Result<(Self, Vec<Problem>), Vec<Problem>> {
        Config::load(text, Settings::read, |config, problems| Self::compile(config, compiler, problems))
    }

    /// [`Self::load`] from a tree that was parsed elsewhere.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_node(node: &Node, compiler: &dyn Compiler) -> Result<(Self, Vec<Problem>), Vec<Problem>> {
        Config::load_node(node, Settings::read, |config, problems| Self::compile(config, compiler, problems))
    }

    fn compile(config: Config<Telemetry, Settings>, compiler: &dyn Compiler, problems: &Problems) -> Self {
        let in_force = in_force(&config, problems);
        let settings = &config.settings;
        let gateway = config.workload.as_ref().is_some_and(|workload| workload.gateway.is_some());
        let service = settings.service.clone().unwrap_or_else(|| default_service(settings.reporter, gateway));
        let resources = in_force.resources;
        let planner = Planner {
            settings,
            service: &service,
            overrides: in_force.overrides,
            compiler,
            problems,
            plan: Plan { needs: 0, slots: Vec::new(), groups: Vec::new() },
        };
        let plan = planner.build(in_force.enabled && settings.standard_metrics);
        let own = Own::new(config.workload.as_ref(), settings.workload_name.as_deref(), &settings.cluster_id);
        let places = Places {
            reporter: settings.reporter,
            peer_principal: config.common.sources.peer_identity == PeerIdentitySource::PeerPrincipal,
            exchange: settings.exchange,
        };
        Self { plan, own, service, places, paths: config.settings.paths, resources }
    }

    /// Resources in force, by kind.
    #[must_use]
    pub fn resources(&self) -> Vec<(&'static str, usize)> {
        vec![("Telemetry", self.resources)]
    }

    /// The metrics that are produced, each with its labels, in their order.
    #[must_use]
    pub fn metrics(&self) -> Vec<(&str, Vec<&str>)> {
        let metrics = self.plan.groups.iter().flat_map(|group| &group.metrics);
        metrics
            .map(|metric| {
                (metric.name.as_str(), metric.labels.iter().map(|(label, _)| label.as_str()).collect())
            })
            .collect()
    }
}
