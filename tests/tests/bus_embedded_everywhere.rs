//! `--bus embedded`: every bus that manifests declare or name is one inside of evoke.

use evoke_tests::SOON;
use evoke_tests::case::Verdict;
use evoke_tests::evoke::{Evoke, Home};
use evoke_tests::http::Sink;
use evoke_tests::manifests::{bare_source, cluster_bus, objects, pass};

/// A webhook and a Trigger on a bus of this name.
fn pipeline(bus: &str, sink: &Sink) -> [String; 2] {
    let passed = pass(bus, &format!("web-{bus}"), "in", &sink.url(&format!("/{bus}")));
    [
        bare_source(&format!("web-{bus}"), &format!("eventBus: {bus}\nwebhook: {{in: {{}}}}")),
        passed.replace("eventBus: default", &format!("eventBus: {bus}")),
    ]
}

async fn send(evoke: &Evoke, bus: &str, id: &str, bytes: usize) -> u16 {
    let headers = [("ce-specversion", "1.0"), ("ce-id", id), ("ce-source", "/s"), ("ce-type", "t")];
    evoke.post(&format!("/default/web-{bus}/in"), &headers, vec![b'x'; bytes]).await.status.as_u16()
}

pub(crate) async fn a_bus_that_is_away_or_elsewhere_is_inside_and_keeps_its_limit() -> Verdict {
    let sink = Sink::start().await;
    let away = cluster_bus("prod", "maxEventBytes: 2Ki\nkafka: {brokers: \"127.0.0.1:1\"}");
    let [prod, elsewhere] = ["prod", "elsewhere"].map(|bus| pipeline(bus, &sink));
    let home = Home::with(objects(&[&[away][..], &prod, &elsewhere].concat()));
    let (status, log) = home.evoke().output(SOON).await;
    assert_eq!(status.code(), Some(1), "{}", log.text());
    assert!(log.text().contains("elsewhere"), "a bus that nobody declares is named: {}", log.text());

    let mut evoke = home.evoke().args(["--bus", "embedded"]).ready().await;
    for (bus, id, bytes, status) in [
        ("prod", "small", 1024, 202),
        ("prod", "large", 3 * 1024, 413),
        ("elsewhere", "small", 1024, 202),
        ("elsewhere", "large", 3 * 1024, 202),
    ] {
        assert_eq!(send(&evoke, bus, id, bytes).await, status, "{id} on {bus}");
    }
    let received = sink.wait_at("/elsewhere", 2, SOON).await;
    let mut arrived: Vec<(&str, usize)> = received.iter().map(|request| (request.id(), request.body.len())).collect();
    arrived.sort_unstable();
    assert_eq!(arrived, [("large", 3 * 1024), ("small", 1024)]);
    assert_eq!(sink.wait_at("/prod", 1, SOON).await[0].id(), "small");
    evoke.stop().await;
    assert_eq!(sink.count(), 3);

    let mut kept: Vec<String> = std::fs::read_dir(home.data().join("bus"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    kept.sort();
    assert_eq!(kept, ["_cluster.prod", "default.elsewhere"], "each is a log of its own");
    Ok(())
}
