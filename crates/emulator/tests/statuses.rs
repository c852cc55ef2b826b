//! The emulator against stock Envoy: one module makes the calls of `envoy-1.40.0-statuses.txt` in every callback, and
//! each status must be the one that Envoy gave. To record again, load [`module_bytes`] in an Envoy and read its log: each
//! line is `phase * 1000000 + row * 1000 + status`.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests, outside #[test] functions")]

mod probe;

use sailcloth_emulator::{Module, PluginConfig, Process, Stream, Vm, VmOptions};

const RECORDED: &str = include_str!("envoy-1.40.0-statuses.txt");

/// Strings that the calls point at.
const DATA: &str = r#"
  (data (i32.const 8192) "x-key")
  (data (i32.const 8200) "request\00path\00x")
  (data (i32.const 8220) "response\00code")
  (data (i32.const 8240) "response\00flags")
  (data (i32.const 8260) "filter_state")
  (data (i32.const 8280) "node")
  (data (i32.const 8300) "request\00query")
  (data (i32.const 8320) "request\00size")
  (data (i32.const 8340) "response\00size")
  (data (i32.const 8360) "request\00duration")
  (data (i32.const 8380) "connection_id")
  (data (i32.const 8400) "response\00code_details")
  (data (i32.const 8430) "clear_route_cache")
  (func (export "proxy_on_configure") (param i32 i32) (result i32) (call $all (i32.const 0)) (i32.const 1))
  (func (export "proxy_on_context_create") (param i32 i32))
  (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) (call $all (i32.const 1)) (i32.const 0))
  (func (export "proxy_on_request_body") (param i32 i32 i32) (result i32) (call $all (i32.const 2)) (i32.const 0))
  (func (export "proxy_on_response_headers") (param i32 i32 i32) (result i32) (call $all (i32.const 3)) (i32.const 0))
  (func (export "proxy_on_response_body") (param i32 i32 i32) (result i32) (call $all (i32.const 4)) (i32.const 0))
  (func (export "proxy_on_log") (param i32) (call $all (i32.const 5)))"#;

const PHASES: [&str; 6] =
    ["configure", "request_headers", "request_body", "response_headers", "response_body", "log"];

struct Row {
    name: &'static str,
    statuses: Vec<u32>,
    call: &'static str,
}

fn rows() -> Vec<Row> {
    let row = |line: &'static str| {
        let [name, statuses, call] = line.split(" | ").collect::<Vec<_>>()[..] else { panic!("{line}") };
        let statuses = statuses.split(' ').map(|status| status.parse().unwrap()).collect();
        Row { name, statuses, call }
    };
    RECORDED.lines().filter(|line| !line.starts_with('#')).map(row).collect()
}

/// `(call $f 1 2L OUT)` in WebAssembly text.
fn instruction(call: &str) -> String {
    let words = call.trim_matches(['(', ')']).split(' ').map(|word| match word.parse::<i64>() {
        Ok(number) => format!("(i32.const {number})"),
        Err(_) if word == "OUT" => "(i32.const 16) (i32.const 20)".to_owned(),
        Err(_) => match word.strip_suffix('L').and_then(|long| long.parse::<i64>().ok()) {
            Some(long) => format!("(i64.const {long})"),
            None => word.to_owned(),
        },
    });
    format!("({})", words.collect::<Vec<_>>().join(" "))
}

fn module_bytes(rows: &[Row]) -> Vec<u8> {
    let calls: String = rows
        .iter()
        .enumerate()
        .map(|(index, row)| {
            let mark = format!("(i32.mul (local.get 0) (i32.const 1000000)) (i32.const {})", index * 1000);
            format!("(call $say (i32.add (i32.add {mark}) {}))\n", instruction(row.call))
        })
        .collect();
    let size = r#"(import "env" "proxy_get_header_map_size" (func $map_size (param i32 i32) (result i32)))"#;
    let text = format!("(module {size} {} {DATA} (func $all (param i32) {calls}))", probe::PRELUDE);
    wat::parse_str(text).unwrap()
}

#[test]
fn every_status_is_the_one_of_envoy_in_every_phase() {
    let rows = rows();
    let process = Process::new();
    let module = Module::compile(&module_bytes(&rows)).unwrap();
    let worker = Vm::new(&process, &module, VmOptions::default()).unwrap();
    let plugin = worker.configure(PluginConfig::new("statuses", "configuration")).unwrap();
    let request = [
        (":authority", "127.0.0.1"),
        (":path", "/a/b?x=1"),
        (":method", "POST"),
        (":scheme", "http"),
        ("x-key", "v1"),
        ("content-length", "4"),
    ];
    let mut stream = Stream::new(&process, &[&plugin], request);
    stream.request_headers(false);
    stream.request_body("body", false);
    stream.response_headers([(":status", "200"), ("content-length", "2"), ("x-key", "r")], false);
    stream.response_body("ok", false);
    stream.finish().unwrap();
    let said: Vec<u32> = probe::said(&process).iter().map(|line| line.parse().unwrap()).collect();
    assert_eq!(said.len(), rows.len() * PHASES.len());
    let mut wrong = Vec::new();
    for (phase, name) in PHASES.iter().enumerate() {
        for (index, row) in rows.iter().enumerate() {
            let line = said[phase * rows.len() + index] as usize;
            assert_eq!((line / 1_000_000, line / 1000 % 1000), (phase, index), "the order of the log");
            if line % 1000 != row.statuses[phase] as usize {
                wrong.push(format!(
                    "{} in {name}: {} here, {} in Envoy",
                    row.name,
                    line % 1000,
                    row.statuses[phase]
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
