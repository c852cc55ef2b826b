//! An issuer that changes its keys under load: not one false 401, and none of the old key for longer than was said.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use sailcloth_launch::http::{Client, Request};
use sailcloth_tests::issuer::{Issuer, Mode, token};

use super::{claims, metric, send, shipped};

const KEYS: [&str; 4] = ["ec1", "ec2", "rsa1", "rsa2"];

#[test]
fn keys_change_under_load_without_one_false_refusal() {
    let issuer = Issuer::start(&KEYS[..1]);
    // As slow as real ones, so that requests of both workers wait for the same fetch.
    issuer.set(Mode::Slow(Duration::from_millis(100)));
    let Some(shipped) = shipped(&issuer) else { return };
    let running = shipped.replaced(r#""jwks":{"#, r#""jwks":{"refetchInterval":"500ms","#).start(2);
    let port = running.shipped.port;
    let tokens = KEYS.map(|key| token(key, &claims()));
    let (current, over, sent) = (AtomicUsize::new(0), AtomicBool::new(false), AtomicUsize::new(0));
    let began = Instant::now();
    thread::scope(|scope| {
        for client in 0..6 {
            let (tokens, current, over, sent) = (&tokens, &current, &over, &sent);
            scope.spawn(move || {
                let mut connection = Client::local(port).connect().unwrap();
                while !over.load(Ordering::SeqCst) {
                    let key = current.load(Ordering::SeqCst);
                    let answer = connection.send(&Request::get("/").bearer(&tokens[key % 4])).unwrap();
                    let after = began.elapsed();
                    assert_eq!(
                        answer.status,
                        200,
                        "client {client}, key {key}, {after:?}: {}",
                        answer.text()
                    );
                    sent.fetch_add(1, Ordering::SeqCst);
                    thread::sleep(Duration::from_millis(2));
                }
            });
        }
        for number in 1..=10_usize {
            // Published, then used at once; the one before goes when the next one comes.
            issuer.publish(&[KEYS[(number - 1) % 4], KEYS[number % 4]]);
            current.store(number, Ordering::SeqCst);
            thread::sleep(Duration::from_millis(1200));
        }
        over.store(true, Ordering::SeqCst);
    });
    let waited = metric(&running, "key_waits_total;.;issuer=.=http://127.0.0.1:8090;.;outcome=.=found");
    assert_eq!(metric(&running, "key_waits_total;.;issuer=.=http://127.0.0.1:8090;.;outcome=.=refused"), 0);
    assert!(waited >= 9, "{waited} requests waited");
    assert!(sent.load(Ordering::SeqCst) > 500, "{} requests", sent.load(Ordering::SeqCst));
    let most = began.elapsed().as_millis() / 500 + 1;
    assert!(issuer.count() as u128 <= most, "{} fetches, at most {most}", issuer.count());
}

#[test]
fn a_withdrawn_key_is_refused_within_the_refresh_interval_also_from_the_cache() {
    let issuer = Issuer::start(&["ec1", "ec2"]);
    let Some(shipped) = shipped(&issuer) else { return };
    let running = shipped.replaced(r#""refreshInterval":"5m""#, r#""refreshInterval":"10s""#).start(2);
    // On several connections, so that both workers have both tokens in their caches.
    for _ in 0..20 {
        assert_eq!((send(&running, "ec1").status, send(&running, "ec2").status), (200, 200));
    }
    issuer.publish(&["ec2"]);
    let withdrawn = Instant::now();
    let mut last = Duration::ZERO;
    while withdrawn.elapsed() < Duration::from_secs(15) {
        if send(&running, "ec1").status == 200 {
            last = withdrawn.elapsed();
        }
        assert_eq!(send(&running, "ec2").status, 200, "the key that stays");
        thread::sleep(Duration::from_millis(50));
    }
    assert!(last > Duration::from_secs(1) && last < Duration::from_secs(12), "accepted until {last:?}");
}
