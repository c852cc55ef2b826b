//! Interoperability with an OpenID provider written elsewhere: `oidc-provider-mock` (Python, on Authlib and joserfc), which
//! `scripts/setup.sh oidc` installs. It signs without `kid`, and makes a new key at each start.

use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use sailcloth_launch::http::{Client, Request};
use sailcloth_launch::process::{Process, Spec};
use sailcloth_launch::{Ports, RunDir, envoy, until};
use sailcloth_tests::corpus::root;
use sailcloth_tests::report::note;
use sailcloth_tests::shipped::Shipped;
use serde_json::Value;

use super::wait;

fn python() -> Option<PathBuf> {
    let python = root().join(".tools/oidc/bin/python");
    if python.is_file() {
        return Some(python);
    }
    let missing = "no OpenID provider in .tools/oidc; `scripts/setup.sh oidc` installs one";
    assert!(std::env::var("REQUIRE_OIDC").map_or(true, |value| value != "1"), "{missing}");
    note(&format!("skipped: {missing}"));
    None
}

fn start(python: &PathBuf, port: u16, run: &RunDir, name: &str) -> Process {
    let spec = Spec::new(name, python).args(["-W", "ignore", "-m", "oidc_provider_mock", "-p"]);
    let process = spec.arg(port.to_string()).start(run).unwrap();
    let listens = || Ok(TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).ok().map(|_| ()));
    until("the provider to listen", Duration::from_secs(30), listens).unwrap();
    process
}

/// An ID token by the authorization code flow.
fn id_token(port: u16, subject: &str) -> String {
    let client = Client::local(port).timeout(Duration::from_secs(20));
    let form = |target: &str, body: String| {
        let request =
            Request::new("POST", target).header("content-type", "application/x-www-form-urlencoded");
        // `client:secret`, which it takes from anybody.
        let request = request.header("authorization", "Basic Y2xpZW50OnNlY3JldA==");
        client.send(&request.body(body)).unwrap()
    };
    let target = "/oauth2/authorize?client_id=client&redirect_uri=http://127.0.0.1/cb&response_type=code&scope=openid&state=x";
    let redirect = form(target, format!("sub={subject}"));
    let location = redirect.header("location").unwrap_or_else(|| panic!("{redirect:?}")).into_owned();
    let code = location.split_once("code=").unwrap().1.split('&').next().unwrap();
    let body = format!("grant_type=authorization_code&code={code}&redirect_uri=http://127.0.0.1/cb");
    let answer: Value = serde_json::from_slice(&form("/oauth2/token", body).body).unwrap();
    answer["id_token"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
}

#[test]
fn tokens_of_another_provider_verify_also_after_it_has_changed_its_key() {
    let (Some(binary), Some(python)) = (envoy::find_or_skip(), python()) else { return };
    let (mut ports, run) = (Ports::new(), RunDir::temp().unwrap());
    let port = ports.free().unwrap();
    ports.release();
    let mut provider = start(&python, port, &run, "first");

    let uri = r#""jwksUri":"http://issuer.auth.svc.cluster.local:8090/.well-known/jwks.json","#;
    let issuer = format!(r#""audiences":["client"],"issuer":"http://127.0.0.1:{port}""#);
    let clusters = r#""jwks":{"clusters":{"127.0.0.1":"outbound|8090||issuer.auth.svc.cluster.local"},"#;
    let mut shipped = Shipped::new(&binary, "jwt-jwks")
        .replaced(uri, "")
        .replaced(r#""issuer":"http://127.0.0.1:8090""#, &issuer)
        .replaced(r#""jwks":{"#, clusters);
    let endpoint = "/static_resources/clusters/0/load_assignment/endpoints/0/lb_endpoints/0/endpoint/address/socket_address/port_value";
    *shipped.config.pointer_mut(endpoint).unwrap() = port.into();
    let running = shipped.start(2);
    let send = |token: &str| running.send(&Request::get("/").bearer(token));

    let first = id_token(port, "alice");
    let answer = send(&first);
    assert_eq!(answer.status, 200, "{}\n{}", answer.text(), running.envoy.logs().unwrap());
    assert_eq!(answer.header("x-upstream-jwt-sub").as_deref(), Some("alice"));
    let (head, _) = first.rsplit_once('.').unwrap();
    assert_eq!(send(&format!("{head}.AAAA")).status, 401, "another signature");

    provider.kill().unwrap();
    drop(provider);
    std::thread::sleep(Duration::from_secs(2));
    let _provider = start(&python, port, &run, "second");
    let second = id_token(port, "bob");
    let answer = send(&second);
    assert_eq!(answer.status, 200, "{}\n{}", answer.text(), running.envoy.logs().unwrap());
    assert_eq!(answer.header("x-upstream-jwt-sub").as_deref(), Some("bob"));
    wait(&running, "tokens of the old key to be refused", || send(&first).status == 401);
}
