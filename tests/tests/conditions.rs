//! Conditions: which events go to whom.

use std::collections::BTreeSet;

use evoke_tests::case::Verdict;
use evoke_tests::evoke::{Evoke, Home};
use evoke_tests::http::{Received, Sink};
use evoke_tests::manifests::{objects, source, trigger};
use evoke_tests::{SOON, eventually};

/// Sends an event with an id, a type and JSON data to a webhook event of the source `web`.
async fn send(evoke: &Evoke, event: &str, id: &str, ty: &str, data: &str) {
    let headers = [
        ("ce-specversion", "1.0"),
        ("ce-id", id),
        ("ce-source", "/test"),
        ("ce-type", ty),
        ("content-type", "application/json"),
    ];
    let answer = evoke.post(&format!("/default/web/{event}"), &headers, data.to_owned()).await;
    assert_eq!(answer.status, 202, "{}", answer.text());
}

/// Subscribers by name and condition, each with a path of its own at the sink.
fn subscribers(sink: &Sink, conditions: &[(&str, &str)]) -> String {
    let subscriber = |(name, condition): &(&str, &str)| {
        format!(
            "\n  - {{name: {name}, condition: '{condition}', sink: {{uri: \"{}\"}}}}",
            sink.url(&format!("/{name}"))
        )
    };
    format!("subscribers:{}", conditions.iter().map(subscriber).collect::<String>())
}

fn ids(sink: &Sink, name: &str) -> Vec<String> {
    sink.received_at(&format!("/{name}")).iter().map(|r| r.id().to_owned()).collect()
}

fn set(ids: &[&str]) -> BTreeSet<String> {
    ids.iter().map(|id| (*id).to_owned()).collect()
}

pub(crate) async fn conditions_read_attributes_and_data() -> Verdict {
    let sink = Sink::start().await;
    let conditions = [
        ("all", "true"),
        ("typed", "event.type == \"order.created\""),
        (
            "large",
            "event.type == \"order.created\" && event.data.amount > 100.0 && event.data.customer.tier == \"gold\"",
        ),
        ("input", "it && has(it.data.coupon)"),
        ("optional", "it.?data.?coupon.orValue(\"none\") == \"none\""),
        ("list", "event.data.items.exists(item, item.sku == \"x\" && item.n >= 2)"),
        ("never", "event.source == \"/other\""),
        ("extension", "event.id.startsWith(\"2\") && event.source.matches(\"^/te.t$\")"),
        ("end", "event.type == \"end\""),
    ];
    let spec = format!("inputs: {{it: {{eventSource: web, event: in}}}}\n{}", subscribers(&sink, &conditions));
    let home = Home::with(objects(&[source("web", "webhook: {in: {}}"), trigger("t", &spec)]));
    let evoke = home.evoke().args(["-vv"]).ready().await;
    let gold = r#"{"amount": 150, "customer": {"tier": "gold"}, "items": [{"sku": "x", "n": 2}]}"#;
    let tin = r#"{"amount": 150.5, "customer": {"tier": "tin"}, "coupon": "A", "items": []}"#;
    send(&evoke, "in", "1", "order.created", gold).await;
    send(&evoke, "in", "2", "order.created", tin).await;
    send(&evoke, "in", "3", "order.created", r#"{"amount": "many"}"#).await;
    send(&evoke, "in", "4", "order.deleted", "[]").await;
    send(&evoke, "in", "5", "end", "{").await;
    sink.wait_at("/end", 1, SOON).await;
    sink.wait_at("/all", 5, SOON).await;
    for (name, expected) in [
        ("all", &["1", "2", "3", "4", "5"][..]),
        ("typed", &["1", "2", "3"]),
        ("large", &["1"]),
        ("input", &["2"]),
        ("list", &["1"]),
        ("never", &[]),
        ("extension", &["2"]),
    ] {
        // The subscribers are independent: one may be behind another.
        if !expected.is_empty() {
            sink.wait_at(&format!("/{name}"), expected.len(), SOON).await;
        }
        assert_eq!(ids(&sink, name).into_iter().collect::<BTreeSet<_>>(), set(expected), "{name}");
    }
    let has_first = async || ids(&sink, "optional").contains(&"1".to_owned()).then_some(());
    eventually("what has no such field comes", SOON, has_first).await;
    // The log says of every event what came of it; of a wrong type, which is no match, why as well.
    for (name, id, outcome) in [
        ("optional", "2", "outcome=\"no_match\""),
        ("large", "1", "outcome=\"match\""),
        ("large", "4", "outcome=\"no_match\""),
        ("large", "3", "outcome=\"error\" cause=\""),
        ("never", "1", "outcome=\"no_match\""),
    ] {
        let of = format!("judged subscriber=default/t/{name} id=\"{id}\" source=\"/test\" {outcome}");
        evoke.log().wait_for(&["DEBUG", "evoke::decision", &of], SOON).await;
    }
    Ok(())
}

const JOIN: &str = "inputs: {orders: {eventSource: web, event: orders}, payments: {eventSource: web, event: payments}}";

pub(crate) async fn a_join_needs_both_and_reads_the_latest() -> Verdict {
    let sink = Sink::start().await;
    let conditions = [
        ("join", "orders && orders.data.amount > 100.0 && payments.type == \"paid\""),
        ("order", "orders"),
        ("payment", "payments"),
        ("either", "orders || payments"),
        ("both", "orders && payments"),
        ("none", "orders && payments.type == \"none\""),
        ("last", "event.type == \"end\""),
    ];
    let spec = format!("{JOIN}\n{}", subscribers(&sink, &conditions));
    let home = Home::with(objects(&[source("web", "webhook: {orders: {}, payments: {}}"), trigger("t", &spec)]));
    let mut evoke = home.evoke().args(["-vv"]).ready().await;
    let events = [
        ("orders", "o1", "order", r#"{"amount": 50}"#),
        ("payments", "p1", "paid", "{}"),
        ("orders", "o2", "order", r#"{"amount": 150}"#),
        ("payments", "p2", "refund", "{}"),
        ("payments", "p3", "paid", "{}"),
        ("orders", "end", "end", "{}"),
    ];
    for (sent, (event, id, ty, data)) in events.into_iter().enumerate() {
        send(&evoke, event, id, ty, data).await;
        // Of two topics, what is not read yet when the other brings news is judged after it.
        sink.wait_at("/either", sent + 1, SOON).await;
    }
    sink.wait_at("/last", 1, SOON).await;
    sink.wait_at("/both", 5, SOON).await;
    sink.wait_at("/join", 2, SOON).await;
    sink.wait_at("/order", 3, SOON).await;
    sink.wait_at("/payment", 3, SOON).await;
    for (id, outcome) in [("o1", "waiting"), ("p1", "no_match")] {
        let of = format!("judged subscriber=default/t/none id=\"{id}\" source=\"/test\" outcome=\"{outcome}\"");
        evoke.log().wait_for(&["DEBUG", "evoke::decision", &of], SOON).await;
    }
    evoke.stop().await;
    // Each fires with the event at hand; a subscriber of one input alone never gets another's payload.
    let in_order = |name: &str| ids(&sink, name).into_iter().collect::<BTreeSet<_>>();
    assert_eq!(in_order("join"), set(&["o2", "p3"]));
    assert_eq!(in_order("order"), set(&["o1", "o2", "end"]));
    assert_eq!(in_order("payment"), set(&["p1", "p2", "p3"]));
    assert_eq!(in_order("either"), set(&["o1", "p1", "o2", "p2", "p3", "end"]));
    assert_eq!(in_order("both"), set(&["p1", "o2", "p2", "p3", "end"]));
    assert_eq!(ids(&sink, "both").len(), 5);
    Ok(())
}

pub(crate) async fn a_join_survives_restart_and_kill() -> Verdict {
    let sink = Sink::start().await;
    let spec =
        format!("{JOIN}\n{}", subscribers(&sink, &[("join", "orders && payments"), ("seen", "orders || payments")]));
    let home = Home::with(objects(&[source("web", "webhook: {orders: {}, payments: {}}"), trigger("t", &spec)]));
    let mut evoke = home.run().await;
    send(&evoke, "orders", "o1", "order", "{}").await;
    sink.wait_at("/seen", 1, SOON).await;
    evoke.stop().await;
    let mut evoke = home.run().await;
    send(&evoke, "payments", "p1", "paid", "{}").await;
    sink.wait_at("/join", 1, SOON).await;
    evoke.kill().await;
    let mut evoke = home.run().await;
    send(&evoke, "payments", "p2", "paid", "{}").await;
    let mut joined = sink.wait_at("/join", 2, SOON).await;
    if joined.iter().filter(|r| r.id() == "p1").count() > 1 {
        joined = sink.wait_at("/join", 3, SOON).await;
    }
    let found: BTreeSet<&str> = joined.iter().map(Received::id).collect();
    assert_eq!(found, BTreeSet::from(["p1", "p2"]), "o1 is still in the window, and fires nothing by itself");
    evoke.stop().await;
    Ok(())
}
