//! Listeners to be compared, and the Envoy that has them all.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use sailcloth_launch::{Envoy, Ports, RunDir, envoy};
use serde_json::{Value, json};

use crate::build;
use crate::envoy::Certificates;

const HCM: &str =
    "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";

/// One listener.
#[derive(Debug, Clone)]
pub struct Side {
    /// HTTP filters before the router.
    pub filters: Vec<Value>,
    /// The route configuration.
    pub routes: Value,
    /// Settings of the connection manager that differ from [`Side::new`]'s.
    pub manager: Value,
    /// Whether clients come with certificates.
    pub tls: bool,
    /// Whether plaintext connections begin with the PROXY protocol.
    pub proxied: bool,
}

impl Side {
    /// A plaintext listener behind the PROXY protocol, with paths normalized as in Istio.
    #[must_use]
    pub fn new(filters: Vec<Value>, routes: Value) -> Self {
        Self { filters, routes, manager: json!({}), tls: false, proxied: true }
    }
}

/// A client over mutual TLS.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Caller {
    /// URI SAN of its certificate; none: it shows no certificate.
    pub peer: Option<String>,
    /// The server name that it asks for.
    pub sni: Option<String>,
    /// The address that it comes from.
    pub source: IpAddr,
}

/// Header in which a caller's listener reads which listener is meant.
pub const TO: &str = "x-test-to";

/// Response header in which every local reply says its response code details.
pub const DETAILS: &str = "x-test-details";

/// What is to run.
#[derive(Default)]
pub struct Plan<'p> {
    /// The listeners.
    pub sides: Vec<Side>,
    /// Names of clusters; each leads to the upstream.
    pub clusters: Vec<String>,
    /// The port of the upstream, if there is one.
    pub upstream: Option<u16>,
    /// Clients over mutual TLS, with what makes their certificates.
    pub callers: Vec<Caller>,
    /// Makes their certificates.
    pub certificates: Option<&'p Certificates>,
    /// Clusters as they are.
    pub more_clusters: Vec<Value>,
}

/// A running Envoy with all sides.
#[derive(Debug)]
pub struct Bench {
    /// The Envoy.
    pub envoy: Envoy,
    /// Ports of the sides.
    pub ports: Vec<u16>,
    /// Ports of the callers' own listeners.
    pub callers: BTreeMap<Caller, u16>,
    _ports: Ports,
    _run: RunDir,
}

impl Bench {
    /// Starts it.
    ///
    /// # Panics
    /// When it does not start; the text is Envoy's.
    #[must_use]
    pub fn start(binary: &Path, plan: &Plan<'_>) -> Self {
        // Builds what is not there yet.
        drop(build::path("authz"));
        let run = RunDir::temp().expect("a run directory");
        let mut ports = Ports::new();
        let admin = ports.free().expect("a port");
        let sides = ports.free_many(plan.sides.len()).expect("ports");
        let callers = ports.free_many(plan.callers.len()).expect("ports");
        let callers: BTreeMap<Caller, u16> = plan.callers.iter().cloned().zip(callers).collect();
        let config = plan.bootstrap(admin, &sides, &callers, &run);
        let started = envoy::Spec::new("differential", config).binary(binary).log_level("error").start(&run);
        let envoy = started.unwrap_or_else(|error| panic!("{error}"));
        Self { envoy, ports: sides, callers, _ports: ports, _run: run }
    }
}

impl Plan<'_> {
    fn bootstrap(&self, admin: u16, sides: &[u16], callers: &BTreeMap<Caller, u16>, run: &RunDir) -> String {
        let authority = self.certificates.map(|made| write(run, "authority.pem", &made.authority));
        let server = self.certificates.map(|made| (made.issue)("spiffe://cluster.local/ns/test/sa/server"));
        let mut listeners = Vec::new();
        for (index, (side, port)) in self.sides.iter().zip(sides).enumerate() {
            let mut listener = listener(&format!("side-{index}"), *port, &side.manager(index));
            if side.tls {
                let (authority, server) = authority.as_ref().zip(server.as_ref()).expect("certificates");
                let mut context = tls(run, "server", server, authority);
                context["@type"] = json!(
                    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"
                );
                context["require_client_certificate"] = json!(false);
                listener["filter_chains"][0]["transport_socket"] =
                    json!({"name": "tls", "typed_config": context});
                // As in Istio's listeners; without it no filter learns the server name.
                listener["listener_filters"] = json!([{"name": "tls_inspector", "typed_config": {"@type":
                    "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector"}}]);
            } else if side.proxied {
                listener["listener_filters"] = json!([{"name": "proxy_protocol", "typed_config": {"@type":
                    "type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol"}}]);
            }
            listeners.push(listener);
        }
        let mut clusters = self.more_clusters.clone();
        for (index, (caller, port)) in callers.iter().enumerate() {
            let (authority, made) = authority.as_ref().zip(self.certificates).expect("certificates");
            let (listener, cluster) = caller.client(index, *port, authority, made, run);
            listeners.push(listener);
            clusters.push(cluster);
        }
        if let Some(upstream) = self.upstream {
            clusters.extend(self.clusters.iter().map(|name| cluster(name, upstream)));
        }
        json!({
            "node": {"id": "sailcloth-differential", "cluster": "sailcloth"},
            "admin": {"address": address(admin)},
            "static_resources": {"listeners": listeners, "clusters": clusters},
        })
        .to_string()
    }
}

impl Side {
    fn manager(&self, index: usize) -> Value {
        let mut filters = self.filters.clone();
        filters.push(router());
        let mut manager = json!({
            "@type": HCM,
            "stat_prefix": format!("side-{index}"),
            "normalize_path": true,
            "merge_slashes": false,
            "path_with_escaped_slashes_action": "KEEP_UNCHANGED",
            "http_filters": filters,
            "route_config": self.routes,
            // Of whatever answers itself.
            "local_reply_config": {"mappers": [{
                "filter": {"status_code_filter": {"comparison": {
                    "op": "GE", "value": {"default_value": 100, "runtime_key": "differential.none"}}}},
                "headers_to_add": [{"header": {"key": DETAILS, "value": "%RESPONSE_CODE_DETAILS%"}}],
            }]},
        });
        for (key, value) in self.manager.as_object().into_iter().flatten() {
            manager[key] = value.clone();
        }
        manager
    }
}

impl Caller {
    /// A plaintext listener that passes on what it gets over TLS, to whichever listener [`TO`] names.
    fn client(
        &self,
        index: usize,
        port: u16,
        authority: &Path,
        certificates: &Certificates,
        run: &RunDir,
    ) -> (Value, Value) {
        let name = format!("caller-{index}");
        let mut context = match &self.peer {
            Some(peer) => tls(run, &name, &(certificates.issue)(peer), authority),
            None => {
                json!({"common_tls_context": {"validation_context": {"trusted_ca": {"filename": authority}}}})
            }
        };
        context["@type"] =
            json!("type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext");
        context["sni"] = json!(self.sni.clone().unwrap_or_default());
        let cluster = json!({
            "name": name,
            "type": "ORIGINAL_DST",
            "lb_policy": "CLUSTER_PROVIDED",
            "connect_timeout": "5s",
            "original_dst_lb_config": {"use_http_header": true, "http_header_name": TO},
            "upstream_bind_config": {"source_address": {"address": self.source.to_string(), "port_value": 0}},
            "transport_socket": {"name": "tls", "typed_config": context},
        });
        // What the test wrote must arrive as it is.
        let manager = json!({
            "@type": HCM,
            "stat_prefix": name,
            "http_filters": [router()],
            "route_config": {"name": name, "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
                {"match": {"prefix": ""}, "route": {"cluster": name}}]}]},
        });
        (listener(&name, port, &manager), cluster)
    }
}

/// A Wasm filter of ours with its configuration.
#[must_use]
pub fn wasm(name: &str, configuration: &Value) -> Value {
    json!({"name": format!("sailcloth.{name}"), "typed_config": {
    "@type": "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm",
    "config": {
        "name": format!("sailcloth.{name}"),
        "failure_policy": "FAIL_RELOAD",
        "vm_config": {
            "vm_id": format!("sailcloth-{name}"),
            "runtime": "envoy.wasm.runtime.v8",
            "code": {"local": {"filename": build::path(name)}},
        },
        "configuration": {"@type": "type.googleapis.com/google.protobuf.Struct", "value": configuration},
    }}})
}

/// Puts what a test says about the connection where listeners and earlier proxies would have put it: the TCP peer's
/// address, and the peer's identity from `x-test-peer`.
#[must_use]
pub fn facts() -> Value {
    let state = |key: &str, format: &str| {
        json!({
            "object_key": key, "factory_key": "envoy.string", "skip_if_empty": true,
            "format_string": {"text_format_source": {"inline_string": format}, "omit_empty_values": true},
        })
    };
    json!({"name": "facts", "typed_config": {
    "@type": "type.googleapis.com/envoy.extensions.filters.http.set_filter_state.v3.Config",
    "on_request_headers": [
        state("sailcloth.source_ip", "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%"),
        state("io.istio.peer_principal", "%REQ(x-test-peer)%"),
    ]}})
}

/// Routes that answer 200 to everything.
#[must_use]
pub fn always_ok() -> Value {
    json!({"name": "ok", "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
        {"match": {"prefix": ""}, "direct_response": {"status": 200}}]}]})
}

fn router() -> Value {
    json!({"name": "envoy.filters.http.router", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}})
}

fn listener(name: &str, port: u16, manager: &Value) -> Value {
    json!({"name": name, "address": address(port), "filter_chains": [{"filters": [
        {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}]})
}

fn cluster(name: &str, port: u16) -> Value {
    json!({"name": name, "connect_timeout": "2s", "load_assignment": {"cluster_name": name, "endpoints": [
        {"lb_endpoints": [{"endpoint": {"address": address(port)}}]}]}})
}

fn address(port: u16) -> Value {
    json!({"socket_address": {"address": "127.0.0.1", "port_value": port}})
}

fn tls(run: &RunDir, name: &str, (certificate, key): &(String, String), authority: &Path) -> Value {
    json!({"common_tls_context": {
        "tls_certificates": [{
            "certificate_chain": {"filename": write(run, &format!("{name}.pem"), certificate)},
            "private_key": {"filename": write(run, &format!("{name}.key"), key)},
        }],
        "validation_context": {"trusted_ca": {"filename": authority}},
    }})
}

fn write(run: &RunDir, name: &str, text: &str) -> std::path::PathBuf {
    let path = run.file(name);
    std::fs::write(&path, text).expect("the run directory can be written");
    path
}
