//! The Envoy configuration around one filter under test, as JSON.

use std::collections::BTreeMap;
use std::path::Path;

use sailcloth_core::config::Node;
use sailcloth_launch::RunDir;
use serde_json::{Value, json};

use crate::build;
use crate::subject::filter_of;
use crate::yaml;

/// How a test's client reaches the filter.
#[derive(Debug)]
pub enum Transport {
    /// Plaintext, with the PROXY protocol in front; the peer's identity comes by filter state.
    Plaintext,
    /// Mutual TLS; the peer's identity is that of its certificate.
    MutualTls(Certificates),
}

impl Transport {
    pub(super) fn suffix(&self) -> &'static str {
        match self {
            Self::Plaintext => "",
            Self::MutualTls(_) => " over mutual TLS",
        }
    }
}

/// Certificate and key of an identity.
pub type Issue = dyn Fn(&str) -> (String, String) + Send + Sync;

/// Makes certificates: PEM of a certificate with this URI SAN and of its key, and of the authority that signed it.
pub struct Certificates {
    /// The authority's certificate.
    pub authority: String,
    /// Certificate and key of an identity.
    pub issue: Box<Issue>,
}

impl std::fmt::Debug for Certificates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Certificates")
    }
}

/// What goes into a configuration.
#[derive(Clone, Copy)]
pub(super) struct Plan<'p> {
    pub(super) filter: &'p str,
    pub(super) configuration: &'p Node,
    pub(super) port: u16,
    pub(super) admin: u16,
    pub(super) upstream: u16,
    pub(super) probe: bool,
    pub(super) clusters: &'p [&'p str],
    pub(super) normalize_path: bool,
}

/// A client's peer identity and server name, with the port of its listener.
type Clients = BTreeMap<(Option<String>, Option<String>), u16>;

const HCM: &str =
    "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";

impl Plan<'_> {
    /// A plaintext listener behind the PROXY protocol.
    pub(super) fn plaintext(&self) -> String {
        let mut listener = self.listener();
        listener["listener_filters"] = json!([{"name": "envoy.filters.listener.proxy_protocol", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol"}}]);
        self.bootstrap(vec![listener], Vec::new())
    }

    /// A listener that demands client certificates, and a plaintext one in front of it for each client.
    pub(super) fn mutual_tls(&self, certificates: &Certificates, clients: &Clients, run: &RunDir) -> String {
        let authority = write(run, "authority.pem", &certificates.authority);
        let mut listener = self.listener();
        let mut context = tls_context(
            run,
            "server",
            &(certificates.issue)("spiffe://cluster.local/ns/test/sa/server"),
            &authority,
        );
        context["@type"] =
            json!("type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext");
        // As Istio's PERMISSIVE over TLS: who shows no certificate has no identity.
        context["require_client_certificate"] = json!(false);
        listener["filter_chains"][0]["transport_socket"] = json!({"name": "tls", "typed_config": context});
        let (mut listeners, mut clusters) = (vec![listener], Vec::new());
        for (index, ((peer, sni), port)) in clients.iter().enumerate() {
            let name = format!("client-{index}");
            let mut context = match peer {
                Some(peer) => tls_context(run, &name, &(certificates.issue)(peer), &authority),
                None => {
                    json!({"common_tls_context": {"validation_context": {"trusted_ca": {"filename": authority}}}})
                }
            };
            context["@type"] =
                json!("type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext");
            context["sni"] = json!(sni.clone().unwrap_or_default());
            let mut cluster = cluster(&name, self.port);
            cluster["transport_socket"] = json!({"name": "tls", "typed_config": context});
            clusters.push(cluster);
            // The client must reach the filter with the path and headers that the test wrote.
            listeners.push(listener_of(
                &name,
                *port,
                &json!({
                    "@type": HCM,
                    "stat_prefix": name,
                    "http_filters": [router()],
                    "route_config": route_config(&name),
                }),
            ));
        }
        self.bootstrap(listeners, clusters)
    }

    fn bootstrap(&self, listeners: Vec<Value>, mut clusters: Vec<Value>) -> String {
        clusters.push(cluster("upstream", self.upstream));
        for name in self.clusters {
            if !clusters.iter().any(|cluster| cluster["name"] == *name) {
                clusters.push(cluster(name, self.upstream));
            }
        }
        json!({
            "node": {"id": "sailcloth-test", "cluster": "sailcloth"},
            "admin": {"address": address(self.admin)},
            "static_resources": {"listeners": listeners, "clusters": clusters},
        })
        .to_string()
    }

    fn listener(&self) -> Value {
        let state = if filter_of(self.filter) == "jwt" {
            "-".to_owned()
        } else {
            format!("%FILTER_STATE(wasm.sailcloth.{}:PLAIN)%", filter_of(self.filter))
        };
        let line = format!(
            "%RESPONSE_CODE%\t%RESPONSE_CODE_DETAILS%\t%UPSTREAM_CLUSTER_RAW%\t%REQ(:PATH)%\t{state}\n"
        );
        listener_of(
            "test",
            self.port,
            &json!({
                "@type": HCM,
                "stat_prefix": "test",
                "normalize_path": self.normalize_path,
                "merge_slashes": false,
                "path_with_escaped_slashes_action": "KEEP_UNCHANGED",
                "access_log": [{"name": "stdout", "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog",
                    "log_format": {"text_format_source": {"inline_string": line}}}}],
                "http_filters": self.http_filters(),
                "route_config": self.route_config(),
            }),
        )
    }

    /// The routing filter names the cluster, as in `envoy/routing.yaml`.
    fn route_config(&self) -> Value {
        let mut config = route_config("upstream");
        if self.filter == "routing" {
            let header = sailcloth_routing::CLUSTER_HEADER;
            let copies = yaml::at(self.configuration, &["settings", "mirrors"]);
            let copies = if let Some(Node::Integer(copies)) = copies { *copies } else { 0 };
            let policies =
                (1..=copies).map(|number| json!({"cluster_header": format!("x-sailcloth-mirror-{number}")}));
            config["virtual_hosts"][0]["routes"][0] = json!({
                "match": {"prefix": ""},
                "route": {"cluster_header": header, "request_mirror_policies": policies.collect::<Vec<_>>()},
                "request_headers_to_remove": [header],
            });
        }
        config
    }

    fn http_filters(&self) -> Vec<Value> {
        let state = |key: &str, format: &str| {
            json!({
                "object_key": key, "factory_key": "envoy.string", "skip_if_empty": true,
                "format_string": {"text_format_source": {"inline_string": format}, "omit_empty_values": true},
            })
        };
        let mut filters = vec![
            json!({"name": "facts", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.set_filter_state.v3.Config",
            "on_request_headers": [
                state("sailcloth.source_ip", "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%"),
                state("sailcloth.source_ip", "%REQ(x-test-source-ip)%"),
                state("io.istio.peer_principal", "%REQ(x-test-peer)%"),
            ]}}),
            json!({"name": "clean", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation",
                "mutations": {"request_mutations": [{"remove": "x-test-source-ip"}, {"remove": "x-test-peer"}]}}}),
        ];
        if self.probe {
            filters.push(wasm("probe", &Node::Map(Vec::new())));
        }
        filters.push(wasm(self.filter, self.configuration));
        filters.push(router());
        filters
    }
}

/// A Wasm filter with its configuration.
fn wasm(name: &str, configuration: &Node) -> Value {
    let text = yaml::json(configuration);
    // A Struct is what shipped configurations use; it cannot say a key twice.
    let configuration = if configuration.has_duplicate_keys() {
        json!({"@type": "type.googleapis.com/google.protobuf.StringValue", "value": text})
    } else {
        let value: Value = serde_json::from_str(&text).expect("the tree was written as JSON");
        json!({"@type": "type.googleapis.com/google.protobuf.Struct", "value": value})
    };
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
        "configuration": configuration,
    }}})
}

fn router() -> Value {
    json!({"name": "envoy.filters.http.router", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}})
}

fn route_config(cluster: &str) -> Value {
    json!({"name": "test", "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
        {"match": {"prefix": "/"}, "route": {"cluster": cluster}}]}]})
}

fn listener_of(name: &str, port: u16, connection_manager: &Value) -> Value {
    json!({"name": name, "address": address(port), "filter_chains": [{"filters": [
        {"name": "envoy.filters.network.http_connection_manager", "typed_config": connection_manager}]}]})
}

fn cluster(name: &str, port: u16) -> Value {
    json!({"name": name, "connect_timeout": "2s", "load_assignment": {"cluster_name": name, "endpoints": [
        {"lb_endpoints": [{"endpoint": {"address": address(port)}}]}]}})
}

fn address(port: u16) -> Value {
    json!({"socket_address": {"address": "127.0.0.1", "port_value": port}})
}

fn tls_context(run: &RunDir, name: &str, (certificate, key): &(String, String), authority: &Path) -> Value {
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
