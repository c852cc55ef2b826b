//! Generated VirtualServices in a real Envoy: its own router, fed with Istio's translation, beside our filter.

use std::collections::BTreeMap;
use std::path::Path;

use sailcloth_launch::envoy;
use sailcloth_launch::http::Request;
use sailcloth_tests::differential::client::{Runner, Way};
use sailcloth_tests::differential::random::Random;
use sailcloth_tests::differential::routing::generate::{Generator, cluster, subset};
use sailcloth_tests::differential::routing::{World, chosen, features, with_bench};
use sailcloth_tests::differential::{Tally, scaled, seed};
use sailcloth_tests::echo;
use sailcloth_tests::yaml;

#[test]
fn our_filter_routes_as_envoys_own_router() {
    let Some(binary) = envoy::find_or_skip() else { return };
    let mut tally = Tally::new("routing: the native router and ours");
    let (features, refused) = features();
    refused.into_iter().for_each(|what| tally.skip(format!("not in the language yet: {what}")));
    for batch in 0..scaled(1, 8) {
        tally.add(run(&binary, &features, batch));
    }
    tally.finish(scaled(2_500, 100_000));
}

/// Else a configuration would be missing from the comparison without a word.
#[test]
fn generated_documents_are_valid() {
    let (features, _) = features();
    for number in 0..300 {
        let mut generator = Generator { features: &features, random: Random::new(seed()).nth(number) };
        let world = World::new(generator.documents());
        assert_eq!(world.check(), Ok(()));
    }
}

fn run(binary: &Path, features: &[&'static str], batch: usize) -> Tally {
    let (mut worlds, mut skipped) = (Vec::new(), Tally::default());
    for number in 0..scaled(40, 60) {
        let random = Random::new(seed()).nth(batch * 1_000 + number);
        let mut generator = Generator { features, random };
        let documents = generator.documents();
        let calls = (0..scaled(80, 250)).map(|_| generator.call(&documents)).collect();
        let mut world = World::new(documents);
        (world.calls, world.normalizes) = (calls, number % 4 != 3);
        match world.check() {
            Ok(()) => worlds.push(world),
            Err(reason) => skipped.skip(reason),
        }
    }
    let mut tally = World::run(binary, &worlds);
    tally.add(skipped);
    tally
}

/// The value of a repeated header that matches is enough; joined they are never compared.
#[test]
fn values_of_a_repeated_header_are_compared_alone() {
    let Some(binary) = envoy::find_or_skip() else { return };
    let document = yaml::parse(
        "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: a, namespace: production}, spec: {hosts: [a.test], \
         http: [{match: [{headers: {x: {exact: one}}}, {headers: {x: {exact: 'a,b'}}}, {withoutHeaders: {x: {regex: 'n.*'}}, headers: {y: {}}}], \
         route: [{destination: {host: api.production.svc.cluster.local, subset: d0-r0-0}}]}]}}",
    );
    with_bench(&binary, &[World::new(vec![document.unwrap()])], |bench| {
        let [native, ours] = [bench.ports[0], bench.ports[1]];
        for (headers, status) in [
            (vec![("x", "one")], 200),
            (vec![("x", "one"), ("x", "two")], 200),
            (vec![("x", "two"), ("x", "one")], 200),
            (vec![("x", "one,two")], 404),
            (vec![("x", "a,b")], 200),
            (vec![("x", "a"), ("x", "b")], 404),
            (vec![("y", ""), ("x", "a"), ("x", "b")], 200),
            (vec![("y", ""), ("x", "a"), ("x", "no")], 404),
        ] {
            for port in [native, ours] {
                let request = Request::get("/").header("host", "a.test");
                let request =
                    headers.iter().fold(request, |request, (name, value)| request.header(name, value));
                let response = Runner::default().send(Way::Direct { port }, &request);
                assert_eq!(response.status, status, "{headers:?}, native {}", port == native);
            }
        }
    });
}

/// The upstream learns the host that the client asked for.
#[test]
fn both_tell_the_original_host() {
    let Some(binary) = envoy::find_or_skip() else { return };
    let document = yaml::parse(
        "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: a, namespace: production}, spec: {hosts: [a.test], \
         http: [{rewrite: {authority: b.test}, route: [{destination: {host: api.production.svc.cluster.local, subset: d0-r0-0}}]}]}}",
    );
    with_bench(&binary, &[World::new(vec![document.unwrap()])], |bench| {
        let told = |port: u16| {
            let request = Request::get("/").header("host", "a.test");
            let response = Runner::default().send(Way::Direct { port }, &request);
            let headers = echo::read(&response.body);
            assert!(headers.contains(&(":authority".to_owned(), b"b.test".to_vec())), "{headers:?}");
            headers.iter().any(|(name, _)| name == "x-envoy-original-host")
        };
        assert_eq!([told(bench.ports[0]), told(bench.ports[1])], [true, true]);
    });
}

/// Which of several destinations is chance, so it is counted: each side within five standard deviations of the weights.
#[test]
fn both_split_by_the_weights() {
    let Some(binary) = envoy::find_or_skip() else { return };
    let mut tally = Tally::new("routing: shares of weighted destinations, native and ours");
    let all: [&[u32]; 4] = [&[90, 10], &[1, 99], &[50, 0, 150], &[1, 1, 1]];
    let worlds: Vec<World> = all.iter().map(|weights| World::new(vec![weighted(weights)])).collect();
    let requests = scaled(800, 10_000);
    with_bench(&binary, &worlds, |bench| {
        for (number, weights) in all.iter().enumerate() {
            for (side, name) in ["native", "ours"].iter().enumerate() {
                let (mut runner, mut counts) = (Runner::default(), BTreeMap::new());
                let way = Way::Direct { port: bench.ports[2 * number + side] };
                let request = Request::get("/").header("host", "shop.example.com");
                for _ in 0..requests {
                    let cluster = chosen(&runner.send(way, &request)).expect("a cluster");
                    *counts.entry(cluster).or_insert(0_u32) += 1;
                }
                let sum: u32 = weights.iter().sum();
                for (arm, weight) in weights.iter().enumerate() {
                    let seen = f64::from(counts.remove(&cluster(&subset(0, 0, arm))).unwrap_or_default());
                    let share = f64::from(*weight) / f64::from(sum);
                    let n = f64::from(u32::try_from(requests).unwrap());
                    let bound = 5.0 * (n * share * (1.0 - share)).sqrt();
                    if (seen - n * share).abs() <= bound {
                        tally.agreed(format!("{name} within the weights"));
                    } else {
                        tally.differed(|| format!("{name}: {seen} of {n} at weight {weight} of {weights:?}"));
                    }
                }
                assert!(counts.is_empty(), "{name} chose {counts:?}");
            }
        }
    });
    tally.finish(20);
}

fn weighted(weights: &[u32]) -> sailcloth_core::config::Node {
    let arm = |(arm, weight): (usize, &u32)| {
        let subset = subset(0, 0, arm);
        format!(
            "{{destination: {{host: api.production.svc.cluster.local, subset: {subset}}}, weight: {weight}}}"
        )
    };
    let route: Vec<String> = weights.iter().enumerate().map(arm).collect();
    yaml::parse(&format!(
        "{{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {{name: w, namespace: production}}, \
         spec: {{hosts: [shop.example.com], http: [{{route: [{}]}}]}}}}",
        route.join(", ")
    ))
    .unwrap()
}
