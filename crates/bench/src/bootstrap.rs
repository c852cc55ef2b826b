//! The Envoy around what is measured: one listener, one worker, no access log.

use std::path::Path;

use serde_json::{Value, json};

use crate::policy::{V1, V2};

/// The ports of one Envoy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EnvoyPorts {
    pub(crate) listener: u16,
    pub(crate) admin: u16,
    /// Of the service behind it.
    pub(crate) upstream: u16,
}

/// An HTTP filter of the list.
pub(crate) fn filter(name: &str, typed_config: Value) -> Value {
    json!({"name": name, "typed_config": typed_config})
}

/// A module with its configuration, as in `envoy/*.yaml`.
pub(crate) fn wasm(name: &str, vm_id: &str, module: &Path, configuration: Value) -> Value {
    let configuration =
        json!({"@type": "type.googleapis.com/google.protobuf.Struct", "value": configuration});
    let vm = json!({
        "vm_id": vm_id,
        "runtime": "envoy.wasm.runtime.v8",
        "code": {"local": {"filename": module}},
    });
    filter(
        name,
        json!({
            "@type": "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm",
            "config": {"name": name, "failure_policy": "FAIL_RELOAD", "vm_config": vm, "configuration": configuration},
        }),
    )
}

/// One route that answers without an upstream.
pub(crate) fn direct_response() -> Value {
    json!([{"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": {"inline_string": "ok"}}}])
}

/// One route to the first version.
pub(crate) fn plain_route() -> Value {
    json!([{"match": {"prefix": "/"}, "route": {"cluster": V1, "timeout": "30s"}}])
}

/// One virtual host with these routes.
pub(crate) fn any_host(routes: Value) -> Value {
    json!([{"name": "any", "domains": ["*"], "routes": routes}])
}

/// The complete configuration: `filters` before the router.
pub(crate) fn bootstrap(ports: EnvoyPorts, filters: &[Value], virtual_hosts: &Value) -> Value {
    let router = filter(
        "envoy.filters.http.router",
        json!({"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}),
    );
    let filters: Vec<&Value> = filters.iter().chain([&router]).collect();
    let manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "normalize_path": true,
        "merge_slashes": false,
        "path_with_escaped_slashes_action": "KEEP_UNCHANGED",
        "http_filters": filters,
        "route_config": {"name": "bench", "virtual_hosts": virtual_hosts},
    });
    let chain = json!({"filters": [filter("envoy.filters.network.http_connection_manager", manager)]});
    json!({
        "node": {"id": "sailcloth-bench", "cluster": "sailcloth"},
        "admin": {"address": address(ports.admin)},
        "static_resources": {
            "listeners": [{"name": "bench", "address": address(ports.listener), "filter_chains": [chain]}],
            "clusters": [cluster(V1, ports.upstream), cluster(V2, ports.upstream)],
        },
    })
}

fn address(port: u16) -> Value {
    json!({"socket_address": {"address": "127.0.0.1", "port_value": port}})
}

fn cluster(name: &str, port: u16) -> Value {
    let endpoint = json!({"endpoint": {"address": address(port)}});
    json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "10s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
    })
}
