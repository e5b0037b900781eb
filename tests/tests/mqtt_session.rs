//! The session of an MQTT source: one that the broker is not to keep, and one that it keeps while evoke is not let in.

use std::collections::BTreeSet;
use std::time::Duration;

use evoke_tests::case::Verdict;
use evoke_tests::evoke::Home;
use evoke_tests::http::Sink;
use evoke_tests::ledger::assert_conserved;
use evoke_tests::manifests::{objects, pass, source};
use evoke_tests::servers::mqtt::{Mosquitto, PASSWORD, Publisher, USER};
use evoke_tests::{SOON, eventually};

use super::mqtt_source::{logs, reading};

/// What a kill of evoke may deliver again.
const REPEATS: usize = 3;
/// What it may take until a source is let in again.
const LATER: Duration = Duration::from_secs(60);

/// Publishes a message while evoke is there, and waits until it arrives.
async fn goes_through(publisher: &mut Publisher, sink: &Sink, payload: &str) {
    publisher.send("a", 1, payload).await;
    eventually(payload, SOON, async || sink.bodies().contains_key(payload).then_some(())).await;
}

pub(crate) async fn a_clean_session_brings_only_what_comes_while_evoke_is_there() -> Verdict {
    for (version, level) in [("v3.1.1", 2), ("v5", 5)] {
        let broker = Mosquitto::start().await?;
        let more = format!(", topic: a, qos: 2, cleanSession: true, protocolVersion: {version}");
        let (home, mut evoke, sink) = reading(&broker, &more).await;
        // A clean session is asked for.
        logs(&broker, &format!("as default.mqtt.in (p{level}, c1"), 1).await;
        let mut publisher = broker.publisher().await;
        goes_through(&mut publisher, &sink, "while it is there").await;
        evoke.stop().await;
        for qos in [1, 2] {
            publisher.send("a", qos, format!("away at QoS {qos}")).await;
        }
        let mut evoke = home.run().await;
        goes_through(&mut publisher, &sink, "after a stop").await;
        evoke.kill().await;
        for qos in [1, 2] {
            publisher.send("a", qos, format!("killed at QoS {qos}")).await;
        }
        let mut evoke = home.run().await;
        goes_through(&mut publisher, &sink, "after a kill").await;
        // A broker that knows nothing of the session is subscribed with again.
        broker.kill().await;
        evoke.waits_for(&["mqtt/in"], SOON).await;
        broker.resume().await;
        evoke.ready(SOON).await;
        goes_through(&mut broker.publisher().await, &sink, "after the broker").await;
        evoke.stop().await;
        let there = ["while it is there", "after a stop", "after a kill", "after the broker"];
        let sent: BTreeSet<String> = there.map(str::to_owned).into();
        assert_conserved(&sent, [&sink.bodies()], REPEATS);
    }
    Ok(())
}

pub(crate) async fn a_password_that_is_withdrawn_is_named_and_what_comes_meanwhile_waits() -> Verdict {
    for version in ["v3.1.1", "v5"] {
        let broker = Mosquitto::with_password_file().await?;
        let more = format!(", topic: a, username: {USER}, password: {PASSWORD}, protocolVersion: {version}");
        let (_home, mut evoke, sink) = reading(&broker, &more).await;
        goes_through(&mut broker.publisher().await, &sink, "before").await;
        // An acknowledgement that is lost with the connection has the broker send the message again.
        eventually("it is acknowledged", SOON, async || {
            (broker.logged(&["Received PUBACK from default.mqtt.in"]) == 1).then_some(())
        })
        .await;
        // Mosquitto keeps a connection that it has let in: who is not let in any more is so at the next one.
        broker.stop().await;
        broker.set_password("an0ther-mqtt-secret").await;
        broker.resume().await;
        let text = evoke.waits_for(&["mqtt/in", "correct username and password"], LATER).await;
        assert!(!text.contains(PASSWORD), "{text}");
        eventually("the metric says so too", SOON, async || {
            (evoke.metrics().await.sum("evoke_source_up", &[]) == 0.0).then_some(())
        })
        .await;
        let meanwhile = (0..50).map(|n| format!("meanwhile-{n}"));
        broker.publisher().await.send_all("a", 1, meanwhile.clone()).await;
        assert_eq!(sink.count(), 1, "evoke is not let in");
        broker.stop().await;
        broker.set_password(PASSWORD).await;
        broker.resume().await;
        evoke.ready(LATER).await;
        goes_through(&mut broker.publisher().await, &sink, "after").await;
        let sent: BTreeSet<String> = meanwhile.chain(["before", "after"].map(str::to_owned)).collect();
        eventually("everything arrives", SOON, async || (sink.bodies().len() == sent.len()).then_some(())).await;
        evoke.stop().await;
        assert_conserved(&sent, [&sink.bodies()], 0);
        assert_eq!(evoke.log().count(PASSWORD), 0, "the password is in the log");
    }
    Ok(())
}

pub(crate) async fn two_sources_of_one_id_are_two_clients() -> Verdict {
    let broker = Mosquitto::start().await?;
    let sink = Sink::start().await;
    let spec = format!("mqtt: {{in: {{url: \"tcp://{}\", topic: a, consumerID: me}}}}", broker.address);
    let named = |name: &str| [source(name, &spec), pass(name, name, "in", &sink.url(&format!("/{name}")))];
    // The one that is read first is not the first one by name.
    let home = Home::with(objects(&[named("two"), named("one")].concat()));
    let mut evoke = home.run().await;
    for id in ["me", "default.two.in"] {
        logs(&broker, &format!("as {id} (p5, c0"), 1).await;
    }
    broker.publisher().await.send("a", 1, "to both").await;
    for path in ["/one", "/two"] {
        let there = async || (sink.received_at(path).first()?.body == "to both").then_some(());
        eventually(&format!("it arrives at {path}"), SOON, there).await;
    }
    let warning = "spec.mqtt.in.consumerID: mqtt \"in\" of EventSource default/two connects as \"default.two.in\"";
    assert_eq!(evoke.log().count(warning), 1, "{}", evoke.log().text());
    evoke.stop().await;
    Ok(())
}
