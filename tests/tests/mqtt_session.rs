//! MQTT sources whose session the broker is not to keep.

use std::collections::BTreeSet;

use evoke_tests::case::Verdict;
use evoke_tests::http::Sink;
use evoke_tests::ledger::assert_conserved;
use evoke_tests::servers::mqtt::{Mosquitto, Publisher};
use evoke_tests::{SOON, eventually};

use super::mqtt_source::reading;

/// What a kill of evoke may deliver again.
const REPEATS: usize = 3;

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
        assert_eq!(broker.logged(&[&format!("as default.mqtt.in (p{level}, c1")]), 1, "a clean session is asked for");
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
