//! The client sends what it is given and shows what arrives, against a server that records bytes.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    thread::JoinHandle,
    time::Duration,
};

use sailcloth_launch::{
    Error,
    http::{Client, Request},
};

/// Whom a server met, and what it read from them.
type Met = (SocketAddr, Vec<Vec<u8>>);

/// Accepts one connection; for each of `answers` reads once, then writes it. Returns what it read.
fn server(answers: &[&'static [u8]]) -> (Client, JoinHandle<Met>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = Client::new(listener.local_addr().unwrap()).timeout(Duration::from_secs(5));
    let answers = answers.to_vec();
    let thread = std::thread::spawn(move || {
        let (mut stream, peer) = listener.accept().unwrap();
        let mut read = Vec::new();
        for answer in answers {
            let mut buffer = vec![0; 65536];
            let length = stream.read(&mut buffer).unwrap();
            buffer.truncate(length);
            read.push(buffer);
            stream.write_all(answer).unwrap();
        }
        (peer, read)
    });
    (client, thread)
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

#[test]
fn bytes_duplicates_and_odd_targets_are_sent_as_given() {
    let (client, server) = server(&[b"HTTP/1.1 204 No Content\r\n\r\n"]);
    let request = Request::new("GET", "http://other.example/a/../b?%zz")
        .header("X-Odd", b"\xff\xfe")
        .header("x-twice", "1")
        .header("x-twice", "2");
    assert_eq!(client.send(&request).unwrap().status, 204);
    let (_, read) = server.join().unwrap();
    assert!(read[0].starts_with(b"GET http://other.example/a/../b?%zz HTTP/1.1\r\nhost: 127.0.0.1:"));
    assert!(contains(&read[0], b"X-Odd: \xff\xfe\r\nx-twice: 1\r\nx-twice: 2\r\n\r\n"));
}

#[test]
fn host_and_length_are_added_only_when_wanted() {
    let server_address = "127.0.0.1:80".parse().unwrap();
    let text = |request: Request| String::from_utf8(request.to_bytes(server_address)).unwrap();
    assert_eq!(text(Request::get("*").without_host()), "GET * HTTP/1.1\r\n\r\n");
    assert_eq!(text(Request::get("/").header("Host", "a")), "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(
        text(Request::new("POST", "/").without_host().body("ab")),
        "POST / HTTP/1.1\r\ncontent-length: 2\r\n\r\nab"
    );
    assert_eq!(
        text(Request::new("POST", "/").without_host().body("ab").trailer("x-t", "1")),
        "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nx-t: 1\r\n\r\n"
    );
}

#[test]
fn a_connection_carries_several_requests() {
    let ok: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    let (client, server) = server(&[ok, ok, b"HTTP/1.1 200 OK\r\n\r\nto the end"]);
    let mut connection = client.connect().unwrap();
    assert_eq!(connection.send(&Request::get("/1")).unwrap().text(), "ok");
    assert_eq!(connection.send(&Request::get("/2")).unwrap().text(), "ok");
    assert_eq!(connection.send(&Request::get("/3")).unwrap().text(), "to the end");
    assert!(connection.is_closed().unwrap());
    assert_eq!(server.join().unwrap().1.len(), 3);
}

#[test]
fn a_chunked_body_with_trailers_and_interim_responses_is_read() {
    let (client, _server) = server(&[b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\n\
        Transfer-Encoding: chunked\r\nX-Raw: \xff\r\nx-raw: b\r\n\r\n3;ext=1\r\nabc\r\n2\r\nde\r\n0\r\nGrpc-Status: 7\r\n\r\n"]);
    let answer = client.send(&Request::get("/")).unwrap();
    assert_eq!((answer.interim.as_slice(), answer.text().as_ref()), ([103].as_slice(), "abcde"));
    assert_eq!(answer.header_bytes("x-raw").collect::<Vec<_>>(), [b"\xff".as_slice(), b"b"]);
    assert_eq!(answer.trailers, [(b"Grpc-Status".to_vec(), b"7".to_vec())]);
}

#[test]
fn an_answer_to_head_has_no_body() {
    let (client, _server) = server(&[b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"]);
    let answer = client.send(&Request::new("HEAD", "/")).unwrap();
    assert_eq!((answer.header("content-length").as_deref(), answer.body.len()), (Some("5"), 0));
}

#[test]
fn the_source_address_can_be_chosen() {
    let (client, server) = server(&[b"HTTP/1.1 204 No Content\r\n\r\n"]);
    client.source(Ipv4Addr::new(127, 0, 0, 7)).send(&Request::get("/")).unwrap();
    assert_eq!(server.join().unwrap().0.ip().to_string(), "127.0.0.7");
}

#[test]
fn broken_or_oversized_answers_are_errors() {
    for (answer, words) in [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nshort".as_slice(), "ended in the middle of its body"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n", "larger than 64 bytes"),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffff\r\n",
            "larger than 64 bytes",
        ),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nabc\r\n", "longer than it says"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n", "no number"),
        (b"SMTP ready\r\n\r\n", "malformed"),
        (b"", "no response"),
    ] {
        let (client, _server) = server(&[answer]);
        let error = client.max_body(64).send(&Request::get("/")).unwrap_err().to_string();
        assert!(error.contains(words), "{error} instead of {words}");
    }
}

#[test]
fn a_silent_server_is_given_up_on() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = Client::new(listener.local_addr().unwrap()).timeout(Duration::from_millis(150));
    let error = client.send(&Request::get("/")).unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. }), "{error}");
}
