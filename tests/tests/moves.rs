//! A join that moves: whoever is its owner next fills its window again from the bus, and goes on where the last one was.

use std::time::Duration;

use evoke_tests::case::Verdict;
use evoke_tests::evoke::{Evoke, Home};
use evoke_tests::http::Sink;
use evoke_tests::ledger::count;
use evoke_tests::manifests::{bus, objects, source, trigger};
use evoke_tests::servers::bus::BusServer;
use evoke_tests::{SOON, eventually};

/// Longer than it takes to be taken for dead and replaced.
const TAKEOVER: Duration = Duration::from_secs(45);
const PARTITIONS: u64 = 4;

/// A join that only the latest `a` can fulfil, and beside it what is split between the processes.
fn manifest(server: &BusServer, join: &Sink, seen: &Sink) -> String {
    let subscribers = format!(
        "inputs: {{a: {{eventSource: web, event: a}}, b: {{eventSource: web, event: b}}}}\n\
         subscribers:\n  \
         - {{name: join, condition: 'a && b && a.data.n == b.data.n', sink: {{uri: \"{}\"}}}}\n  \
         - {{name: seen, condition: a, sink: {{uri: \"{}\"}}}}",
        join.url("/"),
        seen.url("/")
    );
    objects(&[
        bus("default", &server.spec(PARTITIONS)),
        source("web", "webhook: {a: {}, b: {}}"),
        trigger("t", &subscribers),
    ])
}

async fn send(evoke: &Evoke, event: &str, id: &str, n: u32) {
    let headers = [
        ("ce-specversion", "1.0"),
        ("ce-id", id),
        ("ce-source", "/s"),
        ("ce-type", "t"),
        ("content-type", "application/json"),
    ];
    let answer = evoke.post(&format!("/default/web/{event}"), &headers, format!("{{\"n\": {n}}}")).await;
    assert_eq!(answer.status, 202, "{}", answer.text());
}

/// Waits until so many events have been judged, as the position says that the next owner begins with.
async fn judged(home: &Home, events: u64) {
    eventually(&format!("{events} events are judged"), TAKEOVER, async || {
        let listed = home.json(&["subscription", "list", "--subscriber", "join"]).await;
        (listed["subscriptions"][0]["evaluated"] == events).then_some(())
    })
    .await;
}

/// Which of two processes has the join. That each has its part of what is split shows that both know of each other, and that it stays
/// where it is.
async fn owner(processes: &[Evoke; 2]) -> usize {
    eventually("the join has an owner", TAKEOVER, async || {
        let mut owners = Vec::new();
        for (index, evoke) in processes.iter().enumerate() {
            let split = evoke.subscriber("default/t", "seen").await?;
            if split["mine"].as_array().is_none_or(Vec::is_empty) {
                return None;
            }
            if evoke.subscriber("default/t", "join").await?["mine"] == "all" {
                owners.push(index);
            }
        }
        match owners[..] {
            [owner] => Some(owner),
            _ => None,
        }
    })
    .await
}

pub(crate) async fn a_join_moves_with_its_window() -> Verdict {
    a_join_moves(&BusServer::redis().await?).await
}

pub(crate) async fn a_join_moves_with_its_window_on_jetstream() -> Verdict {
    a_join_moves(&BusServer::jetstream().await?).await
}

pub(crate) async fn a_join_moves_with_its_window_on_kafka() -> Verdict {
    a_join_moves(&BusServer::kafka().await?).await
}

async fn a_join_moves(server: &BusServer) -> Verdict {
    let (join, seen) = (Sink::start().await, Sink::start().await);
    let homes = [0, 1].map(|_| Home::with(manifest(server, &join, &seen)));
    let mut processes = [homes[0].run().await, homes[1].run().await];
    owner(&processes).await;
    send(&processes[0], "a", "a1", 1).await;
    judged(&homes[0], 1).await;
    send(&processes[1], "a", "a2", 2).await;
    judged(&homes[0], 2).await;

    // The owner dies with all that it knew; what comes before another one has taken over waits for it.
    let dead = owner(&processes).await;
    let other = 1 - dead;
    processes[dead].kill().await;
    send(&processes[other], "b", "b1", 1).await;
    send(&processes[other], "b", "b2", 2).await;
    judged(&homes[other], 4).await;
    join.wait_delivered(1, SOON).await;
    assert_eq!(join.delivered(), count(["b2"]), "a2 is the latest, and fires nothing by itself");

    // One that drains hands it over, and with it nothing of what it knew.
    processes[dead] = homes[dead].run().await;
    owner(&processes).await;
    send(&processes[dead], "a", "a3", 3).await;
    judged(&homes[other], 5).await;
    let leaving = owner(&processes).await;
    let stays = 1 - leaving;
    processes[leaving].stop().await;
    send(&processes[stays], "b", "b3", 2).await;
    send(&processes[stays], "b", "b4", 3).await;
    judged(&homes[stays], 7).await;
    join.wait_delivered(2, SOON).await;
    seen.wait_all(&["a1", "a2", "a3"].map(str::to_owned).into(), TAKEOVER).await;
    processes[stays].stop().await;
    assert_eq!(join.delivered(), count(["b2", "b4"]), "a3 is the latest");
    Ok(())
}
