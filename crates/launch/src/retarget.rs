//! Committed Envoy configurations name fixed, documented ports, so that `envoy -c envoy/authz.yaml` works as it
//! stands. Tests and the demo run the same files on free ports.

use std::{collections::BTreeMap, net::IpAddr};

use serde_json::Value;

use crate::{Error, Result};

/// Which port of a file becomes which: old → new.
pub type PortMap = BTreeMap<u16, u16>;

/// The configuration with every `port_value` replaced through `ports`, as JSON. Nothing else changes.
///
/// # Errors
/// [`Error::InvalidConfig`] when `yaml` is not YAML, or names ports that are not in the map: all are listed, since a
/// port that is left as it was would reach whatever happens to listen there.
pub fn retarget(yaml: &str, ports: &PortMap) -> Result<String> {
    let mut config = parse(yaml)?;
    let mut problems = Vec::new();
    rewrite(&mut config, "", ports, &mut problems);
    if problems.is_empty() { Ok(config.to_string()) } else { Err(Error::InvalidConfig(problems.join("\n"))) }
}

/// The TCP addresses that a configuration listens on: (host, port) of `admin` and of the static listeners.
///
/// # Errors
/// [`Error::InvalidConfig`] when `yaml` is not YAML.
pub fn listening_ports(yaml: &str) -> Result<ListeningPorts> {
    let config = parse(yaml)?;
    let listeners = config.pointer("/static_resources/listeners").and_then(Value::as_array);
    Ok(ListeningPorts {
        admin: config.pointer("/admin/address").and_then(tcp_address),
        listeners: listeners
            .map(|all| all.iter().filter_map(|listener| tcp_address(listener.get("address")?)).collect())
            .unwrap_or_default(),
    })
}

/// See [`listening_ports`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ListeningPorts {
    /// Of the admin interface, if there is one.
    pub admin: Option<(IpAddr, u16)>,
    /// Of the static listeners, in the order of the file. Pipes, UDP and internal listeners are not among them.
    pub listeners: Vec<(IpAddr, u16)>,
}

fn tcp_address(address: &Value) -> Option<(IpAddr, u16)> {
    let socket = address.get("socket_address")?;
    if socket.get("protocol").and_then(Value::as_str).is_some_and(|protocol| protocol != "TCP") {
        return None;
    }
    let host = socket.get("address")?.as_str()?.parse().ok()?;
    let port = socket.get("port_value")?.as_u64()?;
    Some((host, u16::try_from(port).ok()?))
}

fn parse(yaml: &str) -> Result<Value> {
    // What programs write is JSON, of any size; the reader of YAML has a budget against hostile documents.
    if let Ok(value) = serde_json::from_str(yaml) {
        return Ok(value);
    }
    serde_saphyr::from_str(yaml)
        .map_err(|error| Error::InvalidConfig(format!("the Envoy configuration is not YAML: {error}")))
}

fn rewrite(value: &mut Value, path: &str, ports: &PortMap, problems: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                // Envoy reads both spellings of a protobuf field.
                if name == "port_value" || name == "portValue" {
                    rewrite_port(field, &path, ports, problems);
                } else {
                    rewrite(field, &path, ports, problems);
                }
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                rewrite(item, &format!("{path}[{index}]"), ports, problems);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn rewrite_port(field: &mut Value, path: &str, ports: &PortMap, problems: &mut Vec<String>) {
    let old = field.as_u64().and_then(|port| u16::try_from(port).ok());
    match old.map(|old| (old, ports.get(&old))) {
        Some((_, Some(&new))) => *field = Value::from(new),
        Some((old, None)) => problems.push(format!("{path}: port `{old}` is not in the port map")),
        None => problems.push(format!("{path}: `{field}` is not a port")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const YAML: &str = "
admin: {address: {socket_address: {address: 127.0.0.1, port_value: 9901}}}
static_resources:
  listeners:
  - name: a
    address: {socket_address: {address: 127.0.0.1, port_value: 10000}}
    text: 'port_value: 10000'   # a string, not a port
    zip: '0123'
    ratio: 0.5
  - name: udp
    address: {socket_address: {protocol: UDP, address: 127.0.0.1, port_value: 10000}}
";

    #[test]
    fn ports_change_and_nothing_else() {
        let json = retarget(YAML, &PortMap::from([(9901, 1), (10000, 2)])).unwrap();
        let value: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(value.pointer("/admin/address/socket_address/port_value"), Some(&Value::from(1)));
        let listener = value.pointer("/static_resources/listeners/0").unwrap();
        assert_eq!(listener.pointer("/address/socket_address/port_value"), Some(&Value::from(2)));
        assert_eq!(listener.get("text"), Some(&Value::from("port_value: 10000")));
        assert_eq!(listener.get("zip"), Some(&Value::from("0123")));
        assert_eq!(listener.get("ratio"), Some(&Value::from(0.5)));
    }

    #[test]
    fn every_port_that_is_not_in_the_map_is_named_with_its_path() {
        let error = retarget(YAML, &PortMap::from([(9901, 1)])).unwrap_err().to_string();
        let place = "static_resources.listeners[0].address.socket_address.port_value";
        assert!(error.contains(&format!("{place}: port `10000` is not in the port map")), "{error}");
        assert!(error.contains("listeners[1]"), "{error}");
        let error = retarget("a: {port_value: x}", &PortMap::new()).unwrap_err().to_string();
        assert!(error.contains("a.port_value: `\"x\"` is not a port"), "{error}");
    }

    #[test]
    fn text_that_is_not_yaml_is_refused() {
        for bad in ["a: [", "a: 1\na: 2", "a: b: c"] {
            assert!(matches!(retarget(bad, &PortMap::new()), Err(Error::InvalidConfig(_))), "{bad:?}");
        }
    }

    #[test]
    fn listening_ports_are_those_of_tcp_listeners_and_admin() {
        let found = listening_ports(YAML).unwrap();
        let local: IpAddr = "127.0.0.1".parse().unwrap();
        assert_eq!(found, ListeningPorts { admin: Some((local, 9901)), listeners: vec![(local, 10000)] });
    }
}
