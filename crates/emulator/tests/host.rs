//! What the emulated host answers, hostcall by hostcall, and what it keeps.

mod probe;

use std::time::Duration;

use probe::{get, module, plugin, said, vm};
use sailcloth_emulator::{
    Answer, AnswerError, Callback, Cluster, ConfigureError, Hostcall, Injection, Level, Module, ModuleError,
    PluginConfig, Process, Progress, Status, Stream, Trap, Value, Vm, VmOptions, VmState, pairs,
};

const CONTINUE_AFTER_LOGGING: &str = r#"
  (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
    (call $show) (i32.const 0))"#;

/// A plugin whose `$show` runs in `proxy_on_request_headers`.
fn showing(process: &Process, show: &str) -> sailcloth_emulator::Plugin {
    plugin(process, &format!("{show} {CONTINUE_AFTER_LOGGING}"))
}

fn options(vm_id: &str) -> VmOptions {
    VmOptions { vm_id: vm_id.to_owned(), ..VmOptions::default() }
}

// ---- loading

#[test]
fn import_outside_the_list_is_a_missing_import_by_name() {
    for (import, name) in [
        (
            r#"(import "wasi_snapshot_preview1" "fd_readdir" (func (param i32 i32 i32 i64 i32) (result i32)))"#,
            "wasi_snapshot_preview1.fd_readdir",
        ),
        (
            r#"(import "env" "proxy_remove_shared_data" (func (param i32) (result i32)))"#,
            "env.proxy_remove_shared_data",
        ),
        (r#"(import "other" "proxy_log" (func (param i32 i32 i32) (result i32)))"#, "other.proxy_log"),
    ] {
        let bytes = wat::parse_str(format!("(module {import})")).unwrap();
        let error = Module::compile(&bytes).err().unwrap();
        assert_eq!(error, ModuleError::MissingImport(name.to_owned()));
        assert_eq!(error.to_string(), format!("missing import: `{name}`"));
    }
}

#[test]
fn import_with_another_signature_is_refused() {
    let text = r#"(module (import "env" "proxy_log" (func (param i64) (result i32)))
        (func (export "proxy_abi_version_0_2_1")))"#;
    let error = Module::compile(&wat::parse_str(text).unwrap()).err().unwrap();
    assert!(
        matches!(&error, ModuleError::ImportSignature(reason) if reason.contains("proxy_log")),
        "{error}"
    );
}

#[test]
fn module_without_an_abi_version_is_refused() {
    let bytes = wat::parse_str("(module)").unwrap();
    assert_eq!(Module::compile(&bytes).err(), Some(ModuleError::UnknownAbi));
    assert!(matches!(Module::compile(b"not wasm"), Err(ModuleError::Invalid(_))));
}

#[test]
fn initialize_may_log_and_read_time_but_not_use_shared_data() {
    let process = Process::new();
    let allowed = r#"(func (export "_initialize")
        (call $say (call $clock (i32.const 0) (i64.const 0) (i32.const 16))))"#;
    vm(&process, allowed);
    assert_eq!(said(&process), ["0"]);
    let restricted = module(
        r#"(func (export "_initialize")
          (drop (call $set_shared (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 0))))"#,
    );
    let trap = Vm::new(&process, &restricted, VmOptions::default()).err().unwrap();
    assert!(
        matches!(&trap, Trap::Failed(why) if why.contains("restricted_callback: `proxy_set_shared_data`")),
        "{trap}"
    );
}

#[test]
fn configure_that_returns_false_is_refused() {
    let process = Process::new();
    let worker =
        vm(&process, r#"(func (export "proxy_on_configure") (param i32 i32) (result i32) (i32.const 0))"#);
    assert_eq!(worker.configure(PluginConfig::new("p", "")).err(), Some(ConfigureError::Refused));
    assert_eq!(worker.state(), VmState::Running);
    assert_eq!(worker.contexts(), 0);
}

#[test]
fn configuration_is_readable_in_configure_only() {
    let process = Process::new();
    let plugin = plugin(
        &process,
        r#"
        (func $show (call $say_result
          (call $get_buffer (i32.const 7) (i32.const 0) (i32.const 100) (i32.const 16) (i32.const 20))))
        (func (export "proxy_on_configure") (param i32 i32) (result i32)
          (call $show) (call $say (local.get 1)) (i32.const 1))
        (func (export "proxy_on_tick") (param i32) (call $show))"#,
    );
    plugin.tick().unwrap();
    assert_eq!(said(&process), ["0", "configuration", "13", "1"]);
}

// ---- shared data

#[test]
fn create_if_absent_and_cas_work_across_two_vms() {
    let process = Process::new();
    let body = r#"
        (data (i32.const 256) "key")
        (data (i32.const 264) "value")
        ;; create if absent, read, then write with the number just read
        (func (export "proxy_on_tick") (param i32)
          (call $say (call $set_shared (i32.const 256) (i32.const 3) (i32.const 264) (i32.const 5) (i32.const -1)))
          (call $say_result (call $get_shared (i32.const 256) (i32.const 3) (i32.const 16) (i32.const 20) (i32.const 24)))
          (call $say (i32.load (i32.const 24)))
          (call $say (call $set_shared
            (i32.const 256) (i32.const 3) (i32.const 264) (i32.const 5) (i32.load (i32.const 24))))
          (call $say (call $set_shared
            (i32.const 256) (i32.const 3) (i32.const 264) (i32.const 5) (i32.load (i32.const 24)))))"#;
    let module = module(body);
    let plugin = |vm_id| {
        let worker = Vm::new(&process, &module, options(vm_id)).unwrap();
        worker.configure(PluginConfig::new("p", "")).unwrap()
    };
    plugin("a").tick().unwrap();
    plugin("a").tick().unwrap();
    // The second VM finds the key: CasMismatch (8), and the counter goes on: it is one for the process.
    assert_eq!(said(&process), ["0", "0", "value", "1", "0", "8", "8", "0", "value", "2", "0", "8"]);
    plugin("other").tick().unwrap();
    assert_eq!(said(&process)[12..], ["0", "0", "value", "4", "0", "8"].map(str::to_owned));
    assert_eq!(process.shared_data("a", "key"), Some((b"value".to_vec(), 3)));
    assert_eq!(process.shared_keys("other"), [b"key".to_vec()]);
}

#[test]
fn unknown_key_is_not_found_and_cas_0_overwrites() {
    let process = Process::new();
    let plugin = plugin(
        &process,
        r#"(func (export "proxy_on_tick") (param i32) (call $say
          (call $get_shared (i32.const 256) (i32.const 3) (i32.const 16) (i32.const 20) (i32.const 24))))"#,
    );
    plugin.tick().unwrap();
    assert_eq!(said(&process), ["1"]);
    process.set_shared_data("", "k", "1", 0).unwrap();
    process.set_shared_data("", "k", "2", 0).unwrap();
    assert_eq!(process.set_shared_data("", "k", "3", 1), Err(Status::CasMismatch));
    assert_eq!(process.shared_data("", "k"), Some((b"2".to_vec(), 2)));
}

#[test]
fn workers_on_threads_lose_no_increment() {
    let process = Process::new();
    // read, add one to the first byte, write with the number read; repeat on mismatch
    let module = module(
        r#"
        (data (i32.const 256) "n")
        (func (export "proxy_on_tick") (param i32)
          (loop $again
            (drop (call $get_shared (i32.const 256) (i32.const 1) (i32.const 16) (i32.const 20) (i32.const 24)))
            (i32.store8 (i32.const 300) (i32.add (i32.load8_u (i32.load (i32.const 16))) (i32.const 1)))
            (br_if $again (call $set_shared
              (i32.const 256) (i32.const 1) (i32.const 300) (i32.const 1) (i32.load (i32.const 24))))))"#,
    );
    process.set_shared_data("", "n", [0], 0).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let worker = Vm::new(&process, &module, VmOptions::default()).unwrap();
                let plugin = worker.configure(PluginConfig::new("p", "")).unwrap();
                (0..50).for_each(|_| plugin.tick().unwrap());
            });
        }
    });
    assert_eq!(process.shared_data("", "n").unwrap().0, [200]);
}

// ---- headers

const SHOW_KEY: &str = r#"
  (data (i32.const 256) "x-key")
  (func $show (call $say_result
    (call $get_header (i32.const 0) (i32.const 256) (i32.const 5) (i32.const 16) (i32.const 20))))"#;

#[test]
fn request_headers_are_readable_in_their_callback_and_in_log_only() {
    let process = Process::new();
    let plugin = showing(
        &process,
        &format!(
            r#"{SHOW_KEY}
            (func (export "proxy_on_request_body") (param i32 i32 i32) (result i32) (call $show) (i32.const 0))
            (func (export "proxy_on_response_headers") (param i32 i32 i32) (result i32) (call $show) (i32.const 0))
            (func (export "proxy_on_log") (param i32) (call $show))"#
        ),
    );
    let mut stream = get(&process, [&plugin]);
    assert_eq!(stream.request_headers(false), Progress::Continue);
    stream.request_body("body", true);
    stream.response_headers([(":status", "200")], true);
    stream.finish().unwrap();
    // BadArgument (2) in between
    assert_eq!(said(&process), ["0", "v1", "2", "2", "0", "v1"]);
}

#[test]
fn headers_are_gone_after_resume_and_stay_while_paused() {
    let process = Process::new();
    let body = format!(
        r#"{SHOW_KEY}
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) (i32.const 1))
        (func (export "proxy_on_tick") (param i32)
          (call $say (call $effective (i32.const 2)))
          (call $show)
          (call $say (call $continue (i32.const 0)))
          (call $show))"#
    );
    let plugin = plugin(&process, &body);
    let mut stream = get(&process, [&plugin]);
    assert_eq!(stream.request_headers(true), Progress::Paused(0));
    assert!(!stream.reached_upstream());
    plugin.tick().unwrap();
    assert_eq!(said(&process), ["0", "0", "v1", "0", "2"]);
    assert_eq!(stream.proceed(), Progress::Continue);
    assert!(stream.reached_upstream());
    stream.finish().unwrap();
    plugin.tick().unwrap();
    assert_eq!(said(&process)[5], "2", "the context is gone");
}

#[test]
fn first_value_is_what_one_header_shows_and_the_block_has_all() {
    let process = Process::new();
    let plugin = showing(
        &process,
        r#"(data (i32.const 256) "Accept")
        (func $show
          (call $say_result (call $get_header (i32.const 0) (i32.const 256) (i32.const 6) (i32.const 16) (i32.const 20)))
          (drop (call $get_pairs (i32.const 0) (i32.const 16) (i32.const 20)))
          (drop (call $set_shared (i32.const 256) (i32.const 6) (i32.load (i32.const 16)) (i32.load (i32.const 20)) (i32.const 0))))"#,
    );
    let headers: Vec<(&[u8], &[u8])> =
        vec![(b"accept", b"a"), (b":path", b"/"), (b"Accept", b"b\xe9"), (b"empty", b"")];
    Stream::new(&process, &[&plugin], headers).request_headers(true);
    assert_eq!(said(&process), ["0", "a"]);
    let (block, _) = process.shared_data("", "Accept").unwrap();
    let pair = |name: &[u8], value: &[u8]| (name.to_vec(), value.to_vec());
    let expected =
        [pair(b":path", b"/"), pair(b"accept", b"a"), pair(b"accept", b"b\xe9"), pair(b"empty", b"")];
    assert_eq!(pairs::decode(&block).unwrap(), expected);
    assert_eq!(block[..12], [4, 0, 0, 0, 5, 0, 0, 0, 1, 0, 0, 0]);
    assert_eq!(&block[4 + 4 * 8..], b":path\0/\0accept\0a\0accept\0b\xe9\0empty\0\0");
}

#[test]
fn pairs_of_an_unreadable_map_are_empty_and_ok() {
    let process = Process::new();
    let plugin = showing(
        &process,
        r#"(func $show
          (i32.store (i32.const 16) (i32.const 7)) (i32.store (i32.const 20) (i32.const 7))
          (call $say (call $get_pairs (i32.const 2) (i32.const 16) (i32.const 20)))
          (call $say (i32.load (i32.const 16)))
          (call $say (i32.load (i32.const 20)))
          (call $say (call $get_pairs (i32.const 9) (i32.const 16) (i32.const 20))))"#,
    );
    get(&process, [&plugin]).request_headers(true);
    assert_eq!(said(&process), ["0", "0", "0", "2"]);
}

#[test]
fn header_edits_change_the_request_and_clear_the_route_cache() {
    let process = Process::new();
    let plugin = showing(
        &process,
        r#"(data (i32.const 256) "x-keyX-NEWz")
        (func $show
          (call $say (call $add_header (i32.const 0) (i32.const 256) (i32.const 5) (i32.const 266) (i32.const 1)))
          (call $say (call $replace_header (i32.const 0) (i32.const 256) (i32.const 5) (i32.const 266) (i32.const 1)))
          (call $say (call $add_header (i32.const 0) (i32.const 261) (i32.const 5) (i32.const 266) (i32.const 1)))
          (call $say (call $remove_header (i32.const 0) (i32.const 300) (i32.const 1)))
          ;; response headers are not there yet
          (call $say (call $add_header (i32.const 2) (i32.const 256) (i32.const 5) (i32.const 266) (i32.const 1))))"#,
    );
    let mut stream = get(&process, [&plugin]);
    stream.request_headers(true);
    assert_eq!(said(&process), ["0", "0", "0", "0", "2"]);
    let headers = stream.current_request_headers();
    assert_eq!(headers.get_all("x-key"), [b"z"]);
    assert_eq!(headers.get_all("x-new"), [b"z"]);
    assert_eq!(stream.route_cache_clears(), 4);
}

#[test]
fn body_can_be_buffered_read_and_replaced() {
    let process = Process::new();
    let plugin = plugin(
        &process,
        r#"(data (i32.const 256) "new")
        (func (export "proxy_on_request_body") (param i32 i32 i32) (result i32)
          (call $say (local.get 1))
          (if (i32.eqz (local.get 2)) (then (return (i32.const 1))))
          (call $say_result (call $get_buffer (i32.const 0) (i32.const 1) (i32.const 100) (i32.const 16) (i32.const 20)))
          (call $say (call $set_buffer (i32.const 0) (i32.const 1) (i32.const 1) (i32.const 256) (i32.const 3)))
          (call $say (call $set_buffer (i32.const 0) (i32.const 0) (i32.const -1) (i32.const 256) (i32.const 3)))
          (i32.const 0))"#,
    );
    let mut stream = get(&process, [&plugin]);
    stream.request_headers(false);
    assert_eq!(stream.request_body("abc", false), Progress::Paused(0));
    assert_eq!(stream.upstream_body(), b"");
    assert_eq!(stream.request_body("de", true), Progress::Continue);
    assert_eq!(said(&process), ["3", "5", "0", "bcde", "2", "0"]);
    assert_eq!(stream.upstream_body(), b"new");
}

#[test]
fn pausing_on_headers_holds_the_body_unless_the_plugin_allows_it() {
    let process = Process::new();
    let worker = vm(
        &process,
        r#"(func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) (i32.const 1))
        (func (export "proxy_on_request_body") (param i32 i32 i32) (result i32) (i32.const 0))"#,
    );
    let held = worker.configure(PluginConfig::new("held", "")).unwrap();
    let config = PluginConfig { allow_on_headers_stop_iteration: true, ..PluginConfig::new("let", "") };
    let allowed = worker.configure(config).unwrap();
    for (plugin, progress, bodies) in [(&held, Progress::Paused(0), 0), (&allowed, Progress::Continue, 1)] {
        process.reset_calls();
        let mut stream = get(&process, [plugin]);
        assert_eq!(stream.request_headers(false), Progress::Paused(0), "{}", plugin.name());
        assert_eq!(stream.request_body("x", true), progress, "{}", plugin.name());
        assert_eq!(process.calls().callback(Callback::OnRequestBody), bodies, "{}", plugin.name());
        assert_eq!(stream.reached_upstream(), bodies == 1);
    }
}

// ---- properties

/// Logs the property whose path (given with its size) is the string.
fn property(path: &str) -> String {
    format!(
        r#"(data (i32.const 256) "{}")
        (func $show (call $say_result
          (call $get_property (i32.const 256) (i32.const {}) (i32.const 16) (i32.const 20))))
        (func (export "proxy_on_response_headers") (param i32 i32 i32) (result i32) (call $show) (i32.const 0))
        (func (export "proxy_on_log") (param i32) (call $show))"#,
        path.replace('.', "\\00"),
        path.len()
    )
}

#[test]
fn attributes_are_readable_in_the_phases_of_envoy() {
    let not_found = "1";
    for (path, request, response, log) in [
        ("request.path", "/a/b?x=1#f", "", "/a/b?x=1#f"),
        ("request.url_path", "/a/b", "", "/a/b"),
        ("request.query", "x=1", "", "x=1"),
        ("request.method", "GET", "", "GET"),
        ("request.host", "shop.example", "", "shop.example"),
        ("request.headers.x-key", "v1", "", "v1"),
        ("request.headers.none", "", "", ""),
        ("request.protocol", "HTTP/1.1", "HTTP/1.1", "HTTP/1.1"),
        ("response.headers.server", "", "up", "up"),
        ("response.code_details", "", "via_upstream", "via_upstream"),
        ("source.address", "127.0.0.1:50000", "127.0.0.1:50000", "127.0.0.1:50000"),
        ("plugin_name", "probe", "probe", "probe"),
        ("node", "", "", ""),
        ("route_name", "", "", ""),
        ("xds.node.id", "n1", "n1", "n1"),
        ("metadata.filter_metadata.ns.key", "set", "set", "set"),
    ] {
        let process = Process::new();
        process.set_attribute(&["xds", "node", "id"], "n1");
        process.set_attribute(&["node", "id"], "n1");
        let plugin = showing(&process, &property(path));
        let mut stream = get(&process, [&plugin]);
        stream.set_attribute(&["metadata", "filter_metadata", "ns", "key"], "set");
        stream.request_headers(true);
        stream.response_headers([(":status", "200"), ("server", "up")], true);
        stream.finish().unwrap();
        let expected: Vec<&str> = [request, response, log]
            .iter()
            .flat_map(|value| if value.is_empty() { vec![not_found] } else { vec!["0", value] })
            .collect();
        assert_eq!(said(&process), expected, "{path}");
    }
}

#[test]
fn values_are_encoded_by_type() {
    let text = |s: &str| Value::String(s.to_owned());
    assert_eq!(Value::Int(-2).encode().unwrap(), (-2_i64).to_le_bytes());
    assert_eq!(Value::Double(1.5).encode().unwrap(), 1.5_f64.to_le_bytes());
    assert_eq!(Value::Bool(true).encode().unwrap(), [1]);
    let list = Value::List(vec![text("a"), Value::Bool(false)]).encode().unwrap();
    assert_eq!(
        pairs::decode(&list).unwrap(),
        [(b"a".to_vec(), vec![]), (vec![0], vec![])],
        "list items stand in the key slot"
    );
    let map = Value::Map(vec![("k".to_owned(), text("v"))]).encode().unwrap();
    assert_eq!(pairs::decode(&map).unwrap(), [(b"k".to_vec(), b"v".to_vec())]);
    assert_eq!(Value::List(vec![Value::Null]).encode(), Err(Status::SerializationFailure));
}

#[test]
fn whole_groups_have_no_byte_form() {
    let process = Process::new();
    let plugin = showing(&process, &property("request"));
    get(&process, [&plugin]).request_headers(true);
    assert_eq!(said(&process), ["3"]);
}

#[test]
fn property_set_by_one_plugin_is_read_by_another_vm() {
    let process = Process::new();
    let writer = showing(
        &process,
        r#"(data (i32.const 256) "jwtalice")
        (func $show (call $say (call $set_property (i32.const 256) (i32.const 3) (i32.const 259) (i32.const 5))))"#,
    );
    let by_name = showing(&process, &property("jwt"));
    let mut stream = get(&process, [&writer, &by_name]);
    stream.set_filter_state("sailcloth.source_ip", "10.0.0.1");
    stream.request_headers(true);
    assert_eq!(said(&process), ["0", "0", "alice"]);
    assert_eq!(stream.filter_state("wasm.jwt").as_deref(), Some(b"alice".as_slice()));
    assert_eq!(stream.route_cache_clears(), 0);
    let escaped = r#"(data (i32.const 256) "filter_state\00wasm.jwt")
        (func $show (call $say_result
          (call $get_property (i32.const 256) (i32.const 21) (i32.const 16) (i32.const 20))))"#;
    let by_key = showing(&process, escaped);
    let mut stream = get(&process, [&writer, &by_key]);
    stream.request_headers(true);
    assert_eq!(said(&process)[3..], ["0", "0", "alice"].map(str::to_owned));
}

#[test]
fn set_property_on_a_root_context_is_not_found() {
    let process = Process::new();
    let plugin = plugin(
        &process,
        r#"(func (export "proxy_on_tick") (param i32)
          (call $say (call $set_property (i32.const 256) (i32.const 3) (i32.const 259) (i32.const 5))))"#,
    );
    plugin.tick().unwrap();
    assert_eq!(said(&process), ["1"]);
}

#[test]
fn declared_read_only_property_is_written_once() {
    let process = Process::new();
    // DeclarePropertyArguments { name: "jwt", readonly: true }
    let plugin = showing(
        &process,
        r#"(data (i32.const 256) "declare_property\0a\03jwt\10\01")
        (func $declare (call $say (call $foreign
          (i32.const 256) (i32.const 16) (i32.const 272) (i32.const 7) (i32.const 16) (i32.const 20))))
        (func (export "proxy_on_configure") (param i32 i32) (result i32)
          (call $declare) (call $declare) (i32.const 1))
        (func $show
          (call $say (call $set_property (i32.const 274) (i32.const 3) (i32.const 259) (i32.const 5)))
          (call $say (call $set_property (i32.const 274) (i32.const 3) (i32.const 259) (i32.const 5))))"#,
    );
    get(&process, [&plugin]).request_headers(true);
    assert_eq!(said(&process), ["0", "2", "0", "2"]);
}

// ---- local replies and chains

const REPLY: &str = r#"
  (data (i32.const 256) "my details")
  (data (i32.const 272) "no")
  (data (i32.const 288) "\01\00\00\00\03\00\00\00\01\00\00\00X-A\00b\00")
  (func $answer
    (call $say (call $reply (i32.const 403) (i32.const 256) (i32.const 10) (i32.const 272) (i32.const 2)
      (i32.const 288) (i32.const 18) (i32.const -1))))"#;

#[test]
fn local_reply_stops_the_chain_and_everybody_logs() {
    let process = Process::new();
    let log = r#"(func (export "proxy_on_log") (param i32) (call $say (i32.const 77)))"#;
    let pass = plugin(&process, log);
    // returns Continue: the reply stops all the same
    let deny = plugin(
        &process,
        &format!(
            r#"{REPLY} {log}
            (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) (call $answer) (i32.const 0))
            (func (export "proxy_on_response_headers") (param i32 i32 i32) (result i32) (call $say (local.get 1)) (i32.const 0))"#
        ),
    );
    let late = plugin(
        &process,
        &format!(
            r#"{log}
            (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) (call $say (i32.const 99)) (i32.const 0))
            (func (export "proxy_on_response_headers") (param i32 i32 i32) (result i32) (call $say (i32.const 99)) (i32.const 0))"#
        ),
    );
    let mut stream = get(&process, [&pass, &deny, &late]);
    assert_eq!(stream.request_headers(true), Progress::LocalReply);
    let reply = stream.local_reply().unwrap();
    assert_eq!((reply.status, reply.details.as_str(), reply.plugin.as_str()), (403, "my_details", "probe"));
    assert_eq!((reply.body.as_slice(), reply.grpc_status), (b"no".as_slice(), None));
    assert_eq!(reply.headers.get("x-a"), Some(b"b".as_slice()));
    let headers = stream.current_response_headers().unwrap();
    assert_eq!(headers.text(":status"), Some("403"));
    assert_eq!(
        (headers.text("content-length"), headers.text("content-type")),
        (Some("2"), Some("text/plain"))
    );
    assert_eq!(stream.downstream_body(), b"no");
    assert_eq!(stream.context(2), None);
    assert!(!stream.reached_upstream());
    stream.finish().unwrap();
    // 0 from the reply, 4 response headers, then one log each: the late plugin on a fresh context
    assert_eq!(said(&process), ["0", "4", "77", "77", "77"]);
    assert_eq!([&pass, &deny, &late].map(|plugin| plugin.vm().contexts()), [1, 1, 1]);
}

#[test]
fn grpc_client_gets_200_and_a_grpc_status() {
    let process = Process::new();
    let deny = showing(&process, &format!("{REPLY} (func $show (call $answer))"));
    let headers = [(":method", "POST"), (":path", "/s/m"), ("content-type", "application/grpc+proto")];
    let mut stream = Stream::new(&process, &[&deny], headers);
    stream.request_headers(false);
    let headers = stream.current_response_headers().unwrap();
    assert_eq!(headers.text(":status"), Some("200"));
    assert_eq!((headers.text("grpc-status"), headers.text("grpc-message")), (Some("7"), Some("no")));
}

#[test]
fn second_reply_wins_and_both_are_seen() {
    let process = Process::new();
    let twice = plugin(
        &process,
        &format!(
            r#"{REPLY}
            (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) (call $answer) (i32.const 1))
            (func (export "proxy_on_response_headers") (param i32 i32 i32) (result i32)
              (drop (call $reply (i32.const 500) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)
                (i32.const 0) (i32.const 0) (i32.const 5))) (i32.const 0))"#
        ),
    );
    let mut stream = get(&process, [&twice]);
    stream.request_headers(true);
    let replies = stream.local_replies();
    assert_eq!(
        replies.iter().map(|reply| (reply.status, reply.grpc_status)).collect::<Vec<_>>(),
        [(403, None), (500, Some(5))]
    );
    assert_eq!(stream.current_response_headers().unwrap().text(":status"), Some("500"));
}

#[test]
fn closing_the_stream_resets_it() {
    let process = Process::new();
    let closing = showing(&process, "(func $show (call $say (call $close (i32.const 0))))");
    let mut stream = get(&process, [&closing]);
    assert_eq!(stream.request_headers(true), Progress::Reset);
    stream.finish().unwrap();
}

#[test]
fn responses_go_through_the_chain_in_reverse() {
    let process = Process::new();
    let say = |n: u32| {
        let body = format!(
            r#"(func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) (call $say (i32.const {n})) (i32.const 0))
            (func (export "proxy_on_response_headers") (param i32 i32 i32) (result i32) (call $say (i32.const {n})) (i32.const 0))"#
        );
        plugin(&process, &body)
    };
    let (one, two) = (say(1), say(2));
    let mut stream = get(&process, [&one, &two]);
    stream.request_headers(true);
    assert_eq!(stream.response_headers([(":status", "200")], false), Progress::Continue);
    stream.response_body("b", false);
    stream.response_trailers([("t", "1")]);
    assert_eq!(said(&process), ["1", "2", "2", "1"]);
    assert_eq!(stream.downstream_body(), b"b");
}

// ---- traps and limits

const TRAP_ON_X: &str = r#"
  (data (i32.const 256) "x-trap")
  (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
    (if (i32.eqz (call $get_header (i32.const 0) (i32.const 256) (i32.const 6) (i32.const 16) (i32.const 20)))
      (then unreachable))
    (i32.const 0))
  (func (export "proxy_on_log") (param i32) (call $say (i32.const 77)))"#;

#[test]
fn trap_kills_one_vm_and_no_other() {
    let process = Process::new();
    let module = module(TRAP_ON_X);
    let worker = || Vm::new(&process, &module, VmOptions::default()).unwrap();
    let (first, second) = (worker(), worker());
    let plugin = first.configure(PluginConfig::new("a", "")).unwrap();
    let neighbour = first.configure(PluginConfig::new("b", "")).unwrap();
    let elsewhere = second.configure(PluginConfig::new("a", "")).unwrap();
    let mut in_flight = get(&process, [&neighbour]);
    assert_eq!(in_flight.request_headers(false), Progress::Continue);

    let mut bad = Stream::new(&process, &[&plugin], [(":path", "/"), ("x-trap", "1")]);
    assert_eq!(bad.request_headers(true), Progress::LocalReply);
    let reply = bad.local_reply().unwrap();
    assert_eq!((reply.status, reply.details.as_str()), (503, "wasm_fail_stream"));
    assert!(matches!(first.state(), VmState::Failed(why) if why.contains("unreachable")));
    assert!(process.logs().iter().any(|line| line.level == Level::Error));
    bad.finish().unwrap();

    // The other plugin of that VM: its stream in flight and its next one.
    assert_eq!(in_flight.request_body("x", true), Progress::LocalReply);
    assert_eq!(in_flight.local_reply().unwrap().status, 503);
    assert_eq!(get(&process, [&neighbour]).request_headers(true), Progress::LocalReply);
    assert!(matches!(neighbour.tick(), Err(Trap::Dead(_))));
    assert!(matches!(first.configure(PluginConfig::new("c", "")), Err(ConfigureError::Trap(Trap::Dead(_)))));

    assert_eq!(get(&process, [&elsewhere]).request_headers(true), Progress::Continue);
    assert_eq!(second.state(), VmState::Running);
}

#[test]
fn fail_open_lets_later_streams_pass_but_not_the_trapping_one() {
    let process = Process::new();
    let worker = vm(&process, TRAP_ON_X);
    let open = PluginConfig { fail_open: true, ..PluginConfig::new("open", "") };
    let plugin = worker.configure(open).unwrap();
    let mut bad = Stream::new(&process, &[&plugin], [(":path", "/"), ("x-trap", "1")]);
    assert_eq!(bad.request_headers(true), Progress::LocalReply);
    let mut next = get(&process, [&plugin]);
    assert_eq!(next.request_headers(true), Progress::Continue);
    next.response_headers([(":status", "200")], true);
    next.finish().unwrap();
}

#[test]
fn endless_loop_ends_at_the_deadline() {
    let process = Process::new();
    let module = module(r#"(func (export "proxy_on_tick") (param i32) (loop $l (br $l)))"#);
    let options = VmOptions { deadline: Duration::from_millis(30), ..VmOptions::default() };
    let worker = Vm::new(&process, &module, options).unwrap();
    let plugin = worker.configure(PluginConfig::new("p", "")).unwrap();
    assert_eq!(plugin.tick(), Err(Trap::Deadline));
    assert!(matches!(worker.state(), VmState::Failed(_)));
}

#[test]
fn memory_beyond_the_limit_is_not_given() {
    let process = Process::new();
    let module = module(
        r#"(func (export "proxy_on_tick") (param i32)
          (call $say (i32.eq (memory.grow (i32.const 4)) (i32.const -1)))
          (call $say (i32.eq (memory.grow (i32.const 1)) (i32.const -1))))"#,
    );
    let options = VmOptions { max_memory: 8 * 65536, ..VmOptions::default() };
    let worker = Vm::new(&process, &module, options).unwrap();
    worker.configure(PluginConfig::new("p", "")).unwrap().tick().unwrap();
    assert_eq!(said(&process), ["0", "1"]);
    assert_eq!(worker.memory_bytes(), 8 * 65536);
    let tiny = VmOptions { max_memory: 65536, ..VmOptions::default() };
    assert!(matches!(Vm::new(&process, &module, tiny), Err(Trap::Failed(_))));
}

// ---- metrics

#[test]
fn metrics_follow_the_increment_rules() {
    let process = Process::new();
    let plugin = plugin(
        &process,
        r#"(data (i32.const 256) "requests")
        (func $def (param $kind i32) (result i32)
          (call $say (call $define (local.get $kind) (i32.const 256) (i32.const 8) (i32.const 16)))
          (i32.load (i32.const 16)))
        (func (export "proxy_on_tick") (param i32) (local $c i32) (local $g i32) (local $h i32)
          (local.set $c (call $def (i32.const 0)))
          (local.set $g (call $def (i32.const 1)))
          (local.set $h (call $def (i32.const 2)))
          (call $say (call $increment (local.get $c) (i64.const 3)))
          (call $say (call $increment (local.get $c) (i64.const 0)))
          (call $say (call $increment (local.get $c) (i64.const -1)))
          (call $say (call $record (local.get $c) (i64.const 4)))
          (call $say (call $record (local.get $g) (i64.const 10)))
          (call $say (call $increment (local.get $g) (i64.const -4)))
          (call $say (call $increment (local.get $h) (i64.const 1)))
          (call $say (call $record (local.get $h) (i64.const 250)))
          (call $say (call $record (i32.const 4000) (i64.const 1)))
          (call $say (call $def (i32.const 0)))
          (call $say (call $metric (local.get $c) (i32.const 16)))
          (call $say (i32.load (i32.const 16)))
          (call $say (call $define (i32.const 3) (i32.const 256) (i32.const 8) (i32.const 16))))"#,
    );
    plugin.tick().unwrap();
    let expected = ["0", "0", "0", "0", "2", "2", "0", "0", "0", "2", "0", "1", "0", "4", "0", "7", "2"];
    assert_eq!(said(&process), expected);
    assert_eq!(process.counter("requests"), Some(7));
    assert_eq!(process.gauge("requests"), Some(6));
    assert_eq!(process.histogram("requests"), Some(vec![250]));
    assert_eq!(process.counter("other"), None);
    // A second VM that defines the same name shares the value.
    let other = probe::plugin(
        &process,
        r#"(data (i32.const 256) "requests")
        (func (export "proxy_on_tick") (param i32)
          (drop (call $define (i32.const 0) (i32.const 256) (i32.const 8) (i32.const 16)))
          (drop (call $increment (i32.load (i32.const 16)) (i64.const 1))))"#,
    );
    other.tick().unwrap();
    assert_eq!(process.counter("requests"), Some(8));
}

// ---- time

#[test]
fn ticks_follow_the_virtual_clock() {
    let process = Process::new();
    let plugin = plugin(
        &process,
        r#"(func (export "proxy_on_configure") (param i32 i32) (result i32)
          (drop (call $tick_period (i32.const 500))) (i32.const 1))
        (func (export "proxy_on_tick") (param i32) (drop (call $now (i32.const 16)))
          (call $say (i32.wrap_i64 (i64.div_u (i64.load (i32.const 16)) (i64.const 1000000000)))))"#,
    );
    process.set_realtime_ns(0);
    assert_eq!(plugin.tick_period(), Some(Duration::from_millis(500)));
    let worker = plugin.vm();
    worker.run_timers().unwrap();
    process.advance(Duration::from_millis(499));
    worker.run_timers().unwrap();
    assert!(said(&process).is_empty());
    process.advance(Duration::from_secs(3));
    worker.run_timers().unwrap();
    worker.run_timers().unwrap();
    assert_eq!(said(&process), ["3"], "fixed delay: one tick however late");
    process.set_realtime_ns(1_000_000_000);
    process.advance(Duration::from_millis(500));
    worker.run_timers().unwrap();
    assert_eq!(said(&process), ["3", "1"], "realtime may jump back, timers go on");
}

#[test]
fn random_bytes_repeat_with_the_seed_and_environment_is_readable() {
    let body = r#"(func (export "proxy_on_tick") (param i32)
      (call $say (call $random (i32.const 16) (i32.const 4)))
      (call $say (i32.load (i32.const 16)))
      (call $say (call $random (i32.const 16) (i32.const 70000)))
      (call $say (call $env_sizes (i32.const 16) (i32.const 20)))
      (call $say (i32.load (i32.const 16)))
      (drop (call $env_get (i32.const 16) (i32.const 1000)))
      (drop (call $log (i32.const 2) (i32.const 1000) (i32.load (i32.const 20)))))"#;
    let run = |seed| {
        let process = Process::new();
        process.seed_random(seed);
        let env = vec![("A".to_owned(), "b".to_owned())];
        let worker = Vm::new(&process, &module(body), VmOptions { env, ..VmOptions::default() }).unwrap();
        worker.configure(PluginConfig::new("p", "")).unwrap().tick().unwrap();
        said(&process)
    };
    let (one, two) = (run(1), run(2));
    assert_eq!(one, run(1));
    assert_ne!(one[1], two[1]);
    assert_eq!([&one[0], &one[2], &one[3], &one[4], &one[5]], ["0", "28", "0", "1", "A=b\0"]);
}

// ---- callouts

/// On a tick, calls cluster `auth` with a timeout of 200 ms; logs the token, the answer and its `:status`.
const CALLER: &str = r#"
  (data (i32.const 256) "auth")
  (data (i32.const 512) "\03\00\00\00\07\00\00\00\03\00\00\00\05\00\00\00\01\00\00\00\0a\00\00\00\01\00\00\00:method\00GET\00:path\00/\00:authority\00a\00")
  (data (i32.const 600) ":status")
  (func (export "proxy_on_tick") (param i32)
    (call $say (call $http_call (i32.const 256) (i32.const 4) (i32.const 512) (i32.const 61)
      (i32.const 256) (i32.const 4) (i32.const 0) (i32.const 0) (i32.const 200) (i32.const 16)))
    (call $say (i32.load (i32.const 16))))
  (func (export "proxy_on_http_call_response") (param i32 i32 i32 i32 i32)
    (call $say (local.get 1)) (call $say (local.get 2)) (call $say (local.get 3))
    (call $say_result (call $get_header (i32.const 6) (i32.const 600) (i32.const 7) (i32.const 16) (i32.const 20)))
    (drop (call $get_status (i32.const 24) (i32.const 16) (i32.const 20)))
    (call $say_out))"#;

#[test]
fn callout_outcomes_have_the_shapes_of_envoy() {
    let process = Process::new();
    let plugin = plugin(&process, CALLER);
    let mut seen = 0;
    let mut after = |step: &str, expected: &[&str]| {
        let said = said(&process);
        assert_eq!(said[seen..], *expected, "{step}");
        seen = said.len();
    };
    plugin.tick().unwrap();
    after("unknown cluster", &["2", "0"]);
    process.set_cluster("auth", Cluster::NoEndpoints);
    plugin.tick().unwrap();
    after("no endpoints", &["10", "0"]);
    process.set_cluster("auth", Cluster::Reachable);
    for (answer, expected) in [
        (Answer::response(200, "hello"), &["2", "5", "0", "200", ""][..]),
        (Answer::Timeout, &["2", "24", "0", "504", ""][..]),
        (Answer::Reset, &["0", "0", "2", "reset"][..]),
    ] {
        plugin.tick().unwrap();
        let callouts = plugin.vm().callouts();
        let [callout] = callouts.as_slice() else { panic!("one callout, not {callouts:?}") };
        assert_eq!((callout.cluster.as_str(), callout.body.as_slice()), ("auth", b"auth".as_slice()));
        assert_eq!(callout.timeout, Some(Duration::from_millis(200)));
        assert_eq!(callout.headers.text(":authority"), Some("a"));
        let token = callout.token.to_string();
        assert_eq!(
            plugin.vm().answer(callout, Answer::GrpcClose(0, String::new())),
            Err(AnswerError::WrongKind)
        );
        plugin.vm().answer(callout, answer.clone()).unwrap();
        assert_eq!(plugin.vm().answer(callout, answer), Err(AnswerError::NotPending));
        after("answered", &[&["0", &token, &token], expected].concat());
    }
    plugin.tick().unwrap();
    let token = plugin.vm().callouts()[0].token.to_string();
    process.advance(Duration::from_millis(200));
    plugin.vm().run_timers().unwrap();
    after("timed out", &["0", &token, &token, "2", "24", "0", "504", ""]);
    assert!(plugin.vm().callouts().is_empty());
}

#[test]
fn callout_answer_can_deny_the_paused_stream() {
    let process = Process::new();
    process.set_cluster("auth", Cluster::Reachable);
    let body = CALLER.replace("proxy_on_http_call_response", "unused")
        + REPLY.replace("256", "700").as_str()
        + r#"
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
          (drop (call $http_call (i32.const 256) (i32.const 4) (i32.const 512) (i32.const 61)
            (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 200) (i32.const 16)))
          (global.set $stream (local.get 0)) (i32.const 1))
        (global $stream (mut i32) (i32.const 0))
        (func (export "proxy_on_http_call_response") (param i32 i32 i32 i32 i32)
          (call $say (call $effective (global.get $stream)))
          (call $answer))"#;
    let plugin = plugin(&process, &body);
    let mut stream = get(&process, [&plugin]);
    assert_eq!(stream.request_headers(true), Progress::Paused(0));
    let callout = plugin.vm().callouts().remove(0);
    assert_eq!(callout.plugin, "probe");
    plugin.vm().answer(&callout, Answer::ConnectionRefused).unwrap();
    assert_eq!(stream.proceed(), Progress::LocalReply);
    assert_eq!(stream.local_reply().unwrap().details, "my_details");
    stream.finish().unwrap();
    // The same answer after the stream has gone.
    let mut gone = get(&process, [&plugin]);
    gone.request_headers(true);
    let callout = plugin.vm().callouts().remove(0);
    gone.finish().unwrap();
    plugin.vm().answer(&callout, Answer::response(200, "")).unwrap();
    assert_eq!(said(&process), ["0", "0", "2", "0"]);
}

/// On a tick, a gRPC call to the target of the given bytes.
fn grpc_caller(target: &str, size: usize) -> String {
    format!(
        r#"(data (i32.const 256) "{target}")
        (data (i32.const 300) "svc")
        (func (export "proxy_on_tick") (param i32)
          (call $say (call $grpc_call (i32.const 256) (i32.const {size}) (i32.const 300) (i32.const 3) (i32.const 300)
            (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 256) (i32.const 2) (i32.const 100) (i32.const 16))))
        (func (export "proxy_on_grpc_receive") (param i32 i32 i32)
          (call $say_result (call $get_buffer (i32.const 5) (i32.const 0) (local.get 2) (i32.const 16) (i32.const 20))))
        (func (export "proxy_on_grpc_close") (param i32 i32 i32) (call $say (local.get 2)))"#
    )
}

#[test]
fn grpc_callouts_end_as_in_envoy() {
    let process = Process::new();
    let encoded = plugin(&process, &grpc_caller("\\0a\\05\\0a\\03rls", 7));
    encoded.tick().unwrap();
    assert_eq!(said(&process), ["10", "14"], "missing cluster, encoded: refused, and a close all the same");
    let plain = plugin(&process, &grpc_caller("\\ff\\ff", 2));
    plain.tick().unwrap();
    assert_eq!(said(&process)[2..], ["4".to_owned()], "missing cluster, plain name");
    process.set_cluster("rls", Cluster::Reachable);
    for (answer, expected) in [
        (Answer::GrpcMessage(b"pong".to_vec()), &["0", "0", "pong"][..]),
        (Answer::Timeout, &["0", "14"][..]),
        (Answer::Reset, &["0", "13"][..]),
        (Answer::GrpcClose(5, "no".to_owned()), &["0", "5"][..]),
    ] {
        let before = said(&process).len();
        encoded.tick().unwrap();
        let callout = encoded.vm().callouts().remove(0);
        assert_eq!(callout.grpc, Some(("svc".to_owned(), "svc".to_owned())));
        encoded.vm().answer(&callout, answer).unwrap();
        assert_eq!(said(&process)[before..], *expected);
    }
    // The bytes of this name are a protobuf message without a target: Envoy aborts.
    let hostile = plugin(&process, &grpc_caller("authz-rls", 9));
    assert!(matches!(hostile.tick(), Err(Trap::Failed(why)) if why.contains("aborts")));
}

// ---- foreign functions, faults, counts, life

#[test]
fn foreign_functions_are_built_in_registered_or_not_found() {
    let process = Process::new();
    let plugin = showing(
        &process,
        r#"(data (i32.const 256) "clear_route_cacheechonone")
        (func $call (param i32 i32) (call $say_result (call $foreign
          (local.get 0) (local.get 1) (i32.const 256) (i32.const 5) (i32.const 16) (i32.const 20))))
        (func $show
          (call $call (i32.const 256) (i32.const 17))
          (call $call (i32.const 273) (i32.const 4))
          (call $call (i32.const 277) (i32.const 4)))"#,
    );
    process.set_foreign_function("echo", |arguments| (Status::Ok, arguments.to_vec()));
    let mut stream = get(&process, [&plugin]);
    stream.request_headers(true);
    assert_eq!(said(&process), ["0", "", "0", "clear", "1"]);
    assert_eq!(stream.route_cache_clears(), 1);
}

#[test]
fn envoy_filter_state_needs_a_known_key() {
    let process = Process::new();
    let plugin = showing(
        &process,
        r#"(data (i32.const 256) "set_envoy_filter_state")
        (data (i32.const 300) "\0a\0cenvoy.string\12\01v")
        (data (i32.const 340) "\0a\0cenvoy.strinX\12\01v")
        (func $call (param i32) (call $say (call $foreign
          (i32.const 256) (i32.const 22) (local.get 0) (i32.const 17) (i32.const 16) (i32.const 20))))
        (func $show (call $call (i32.const 300)) (call $call (i32.const 340)))"#,
    );
    let mut stream = get(&process, [&plugin]);
    stream.request_headers(true);
    assert_eq!(said(&process), ["0", "1"]);
    assert_eq!(stream.filter_state("envoy.string").as_deref(), Some(b"v".as_slice()));
}

#[test]
fn injected_statuses_replace_the_work() {
    let process = Process::new();
    let plugin = plugin(
        &process,
        r#"(data (i32.const 256) "key")
        (func (export "proxy_on_tick") (param i32)
          (call $say (call $set_shared (i32.const 256) (i32.const 3) (i32.const 256) (i32.const 3) (i32.const 0)))
          (call $say (call $random (i32.const 16) (i32.const 4))))"#,
    );
    process.inject(Hostcall::SetSharedData, Injection::nth(2, Status::CasMismatch));
    process.inject(Hostcall::WasiRandomGet, Injection::always(Status::Ok).with_code(29));
    plugin.tick().unwrap();
    plugin.tick().unwrap();
    plugin.tick().unwrap();
    assert_eq!(said(&process), ["0", "29", "8", "29", "0", "29"]);
    assert_eq!(process.shared_data("", "key").unwrap().1, 2, "the injected call wrote nothing");
    process.clear_injections();
    process.inject(Hostcall::SetSharedData, Injection::first(1, Status::InternalFailure));
    plugin.tick().unwrap();
    plugin.tick().unwrap();
    assert_eq!(said(&process)[6..], ["10", "0", "0", "0"].map(str::to_owned));
    assert_eq!(process.calls().hostcall(Hostcall::SetSharedData), 5);
}

#[test]
fn calls_are_counted_and_missing_callbacks_are_free() {
    let process = Process::new();
    let plugin = showing(
        &process,
        "(func $show (drop (call $get_pairs (i32.const 0) (i32.const 16) (i32.const 20))))",
    );
    process.reset_calls();
    for _ in 0..3 {
        let mut stream = get(&process, [&plugin]);
        stream.request_headers(true);
        stream.response_headers([(":status", "200")], true);
        stream.finish().unwrap();
    }
    let calls = process.calls();
    assert_eq!(calls.hostcall(Hostcall::GetHeaderMapPairs), 3);
    assert_eq!(calls.hostcalls.len(), 1);
    assert_eq!(calls.callbacks.into_iter().collect::<Vec<_>>(), [(Callback::OnRequestHeaders, 3)]);
    assert_eq!(plugin.vm().contexts(), 1, "only the root context is left");
}

#[test]
fn root_context_that_is_not_done_waits_for_proxy_done() {
    let process = Process::new();
    let plugin = plugin(
        &process,
        r#"(func (export "proxy_on_done") (param i32) (result i32) (i32.const 0))
        (func (export "proxy_on_tick") (param i32) (call $say (call $done)))
        (func (export "proxy_on_delete") (param i32) (call $say (i32.const 88)))"#,
    );
    plugin.tick().unwrap();
    assert!(!plugin.shut_down().unwrap());
    assert_eq!(plugin.vm().contexts(), 1);
    plugin.tick().unwrap();
    assert_eq!(said(&process), ["1", "0", "88"]);
    assert_eq!(plugin.vm().contexts(), 0);
}

#[test]
fn shared_queues_trap_rather_than_pretend() {
    let process = Process::new();
    let plugin = plugin(
        &process,
        r#"(func (export "proxy_on_tick") (param i32)
          (drop (call $register_queue (i32.const 0) (i32.const 0) (i32.const 16))))"#,
    );
    assert!(
        matches!(plugin.tick(), Err(Trap::Failed(why)) if why.contains("`proxy_register_shared_queue` is not emulated"))
    );
}

#[test]
fn bad_pointers_are_invalid_memory_access() {
    let process = Process::new();
    let plugin = showing(
        &process,
        r#"(func $show
          (call $say (call $get_header (i32.const 0) (i32.const -8) (i32.const 16) (i32.const 16) (i32.const 20)))
          (call $say (call $now (i32.const -4)))
          (call $say (call $log (i32.const 9) (i32.const 0) (i32.const 0))))"#,
    );
    get(&process, [&plugin]).request_headers(true);
    assert_eq!(said(&process), ["6", "6", "2"]);
}

#[test]
fn pairs_blocks_round_trip_and_bad_ones_are_refused() {
    let pairs_in = vec![(b"a".to_vec(), vec![0, 255]), (vec![], vec![])];
    let block = pairs::encode(&pairs_in);
    assert_eq!(pairs::decode(&block), Some(pairs_in));
    for end in 0..block.len() {
        assert_eq!(pairs::decode(&block[..end]), None, "cut at {end}");
    }
    let many = vec![(vec![b'k'], vec![]); pairs::MAX_PAIRS + 1];
    assert_eq!(pairs::decode(&pairs::encode(&many)), None);
    assert!(pairs::decode(&pairs::encode(&many[1..])).is_some());
    assert_eq!(pairs::decode(&[0xff; 8]), None);
}

#[test]
fn log_lines_carry_level_and_plugin_and_wasi_output_too() {
    let process = Process::new();
    let plugin = plugin(
        &process,
        r#"(data (i32.const 256) "to stderr\0a")
        (func (export "proxy_on_tick") (param i32)
          (i32.store (i32.const 300) (i32.const 256)) (i32.store (i32.const 304) (i32.const 10))
          (drop (call $fd_write (i32.const 2) (i32.const 300) (i32.const 1) (i32.const 16)))
          (drop (call $log (i32.const 1) (i32.const 256) (i32.const 2))))"#,
    );
    plugin.tick().unwrap();
    process.set_log_level(Level::Trace);
    plugin.tick().unwrap();
    let lines = process.logs();
    assert_eq!(lines.iter().map(|l| l.level).collect::<Vec<_>>(), [Level::Error, Level::Error, Level::Debug]);
    assert_eq!((lines[0].message.as_str(), lines[0].plugin.as_str()), ("to stderr", "probe"));
}
