//! Shared by the suites.
#![allow(dead_code, clippy::panic, reason = "helpers of tests; each suite uses a part")]

use std::{fs, time::Duration};

pub(crate) const SOON: Duration = Duration::from_secs(10);

/// An Envoy that answers `hello` and writes an access log, on ports 10000 and 9901.
pub(crate) const HELLO: &str = r#"
admin: {address: {socket_address: {address: 127.0.0.1, port_value: 9901}}}
static_resources:
  listeners:
  - address: {socket_address: {address: 127.0.0.1, port_value: 10000}}
    filter_chains:
    - filters:
      - name: hcm
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: hello
          access_log:
          - name: stdout
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog
              log_format: {text_format_source: {inline_string: "%REQ(:path)% %RESPONSE_CODE%\n"}}
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - {match: {prefix: /}, direct_response: {status: 200, body: {inline_string: hello}}}
          http_filters:
          - name: router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
"#;

/// Whether a process with this id exists and is no zombie.
pub(crate) fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

/// Waits until the process is gone.
pub(crate) fn assert_gone(pid: u32) {
    sailcloth_launch::until("the end of a process", SOON, || Ok((!is_alive(pid)).then_some(())))
        .unwrap_or_else(|error| panic!("pid {pid}: {error}"));
}

/// Whether a server could listen there now.
pub(crate) fn is_free(port: u16) -> bool {
    std::net::TcpListener::bind(("127.0.0.1", port)).is_ok()
}
