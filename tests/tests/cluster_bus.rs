//! ClusterEventBus: the bus of every namespace that has none of that name.

use evoke_tests::SOON;
use evoke_tests::bus::stored_ids;
use evoke_tests::case::Verdict;
use evoke_tests::evoke::{Home, assert_has, command};
use evoke_tests::http::{Sink, post};
use evoke_tests::manifests::{bus, cluster_bus, objects, pass, secret, source, within};
use evoke_tests::servers::redis::Redis;
use redis::cmd;
use serde_json::json;

const PASSWORD: &str = "cluster-secret-6e17";

/// A ClusterEventBus whose password is in a Secret that is named so.
fn of_all(address: &str, secret: &str) -> String {
    let from = format!("passwordFrom: {{secretKeyRef: {secret}}}");
    cluster_bus("default", &format!("redis: {{address: \"{address}\", partitions: 1, {from}}}"))
}

/// A webhook and a Trigger in a namespace.
fn pipeline(namespace: &str, sink: &Sink) -> [String; 2] {
    let passed = pass("t", "web", "in", &sink.url(&format!("/{namespace}")));
    [within(namespace, &source("web", "webhook: {in: {}}")), within(namespace, &passed)]
}

pub(crate) async fn the_bus_of_a_namespace_goes_before_that_of_the_cluster() -> Verdict {
    let server = Redis::with(&[&format!("requirepass {PASSWORD}")]).await?;
    let sink = Sink::start().await;
    let own = [
        of_all(&server.address.to_string(), "{namespace: infra, name: redis, key: password}"),
        within("infra", &secret("redis", "password", PASSWORD)),
        // One of the same name elsewhere is another one's.
        within("shop", &secret("redis", "password", "wr0ng-secret-6e17")),
        within("apart", &bus("default", "embedded: {}")),
    ];
    let home = Home::with(objects(
        &[&own[..], &pipeline("shop", &sink), &pipeline("crm", &sink), &pipeline("apart", &sink)].concat(),
    ));
    let mut evoke = home.run().await;
    for namespace in ["shop", "crm", "apart"] {
        let headers = [("ce-specversion", "1.0"), ("ce-id", namespace), ("ce-source", "/s"), ("ce-type", "t")];
        assert_eq!(post(&evoke.webhook(&format!("/{namespace}/web/in")), &headers, "x").await.status, 202);
        let received = sink.wait_at(&format!("/{namespace}"), 1, SOON).await;
        assert_eq!(received[0].id(), namespace);
    }
    let mut redis = server.connection_as("default", PASSWORD).await;
    let mut streams: Vec<String> = cmd("KEYS").arg("evoke:*:web:in").query_async(&mut redis).await.unwrap();
    streams.sort();
    assert_eq!(streams, ["evoke:crm:web:in", "evoke:shop:web:in"]);

    let listed = home.json(&["subscription", "list"]).await;
    let rows = listed["subscriptions"].as_array().unwrap();
    assert_eq!(rows.len(), 3, "{listed}");
    for (namespace, bus) in [("shop", "_cluster.default"), ("crm", "_cluster.default"), ("apart", "apart.default")] {
        let row = rows.iter().find(|row| row["namespace"] == namespace).unwrap();
        assert_has(row, &json!({ "bus": bus, "name": format!("{namespace}/t/all"), "running": true }));
    }
    let labels = [("bus", "_cluster.default"), ("topic", "crm.web.in")];
    evoke.metric("evoke_bus_published_events_total", &labels, 1.0, SOON).await;
    evoke.stop().await;
    assert_eq!(evoke.log().count("secret-6e17"), 0, "a password is in the log");
    assert_eq!(stored_ids(&home.data(), "apart.web.in").await, ["apart"]);
    Ok(())
}

pub(crate) async fn a_secret_is_looked_for_where_it_may_be() -> Verdict {
    let sink = Sink::start().await;
    let shop = |beside: &[String]| objects(&[beside, &pipeline("shop", &sink)].concat());
    let here = within("shop", &secret("redis", "password", PASSWORD));
    let away = within("infra", &secret("redis", "password", PASSWORD));
    let own = |secret: &str| {
        let from = format!("passwordFrom: {{secretKeyRef: {secret}}}");
        within("shop", &bus("default", &format!("redis: {{address: \"127.0.0.1:1\", {from}}}")))
    };
    let at = "spec.redis.passwordFrom.secretKeyRef.namespace: ";
    for (manifest, said) in [
        // A ClusterEventBus is in no namespace in which a Secret could be looked for.
        (
            shop(&[of_all("127.0.0.1:1", "{name: redis, key: password}"), here.clone()]),
            &[at, "must be set", "ClusterEventBus"][..],
        ),
        (
            shop(&[of_all("127.0.0.1:1", "{namespace: other, name: redis, key: password}"), here.clone()]),
            &["there is no Secret other/redis"],
        ),
        // An object of a namespace does not get at what belongs to another one.
        (shop(&[own("{namespace: infra, name: redis, key: password}"), away]), &[at, "\"infra\"", "shop"]),
    ] {
        let home = Home::with(manifest);
        let (code, text) = command(["validate".into(), home.manifests().into_os_string()]).await;
        assert_eq!(code, Some(1), "{text}");
        let (status, log) = home.evoke().output(SOON).await;
        assert_eq!(status.code(), Some(1), "{}", log.text());
        for part in said {
            assert!(text.contains(part), "{part} in {text}");
            assert!(log.text().contains(part), "{part} in {}", log.text());
        }
        assert!(!text.contains("secret-6e17"), "{text}");
    }
    // Its own namespace it may name.
    let home = Home::with(shop(&[own("{namespace: shop, name: redis, key: password}"), here]));
    let (code, text) = command(["validate".into(), home.manifests().into_os_string()]).await;
    assert_eq!(code, Some(0), "{text}");
    Ok(())
}
