//! Logging in to the brokers of a bus on Kafka: credentials, certificates, and what is said when they are refused, also later.

use evoke_api::credentials::Secret;
use evoke_connect::kafka::{Brokers, Login};
use evoke_connect::tls::Mechanism;
use evoke_eventbus::bus::{BusError, EventBus, Health};
use evoke_tests::SOON;
use evoke_tests::case::Verdict;
use evoke_tests::evoke::Home;
use evoke_tests::http::Sink;
use evoke_tests::load::Load;
use evoke_tests::manifests::{bus, objects, pass, secret, source};
use evoke_tests::process::Signal;
use evoke_tests::servers::kafka::{self, Broker, PASSWORD, USER};
use evoke_tests::servers::tls;

use super::bus_kafka::{LATER, Pipeline, health, open};

pub(crate) async fn credentials_log_in_or_are_named() -> Verdict {
    let broker = kafka::shared().await?;
    let brokers = |password: &str| Brokers {
        addresses: broker.listeners.sasl.to_string(),
        login: Some(Login {
            mechanism: Mechanism::ScramSha512,
            username: Secret::new(USER),
            password: Secret::new(password),
        }),
        tls: None,
    };
    let good = open(brokers(PASSWORD), &broker.name("site"));
    health(&good, |health| *health == Health::Up).await;
    assert!(good.load("").await.unwrap().is_empty());
    let wrong = open(brokers("wr0ng-secret-31"), &broker.name("site"));
    let known = |health: &Health| matches!(health, Health::Down(why) if why.contains("uthentication"));
    let Health::Down(cause) = health(&wrong, known).await else { unreachable!() };
    assert!(cause.contains("check the user, the password and the mechanism"), "{cause}");
    assert!(!format!("{cause} {wrong:?}").contains("wr0ng-secret"));
    assert!(matches!(wrong.load("").await, Err(BusError::Unavailable(_))));
    good.close().await.unwrap();
    wrong.close().await.unwrap();
    Ok(())
}

pub(crate) async fn a_manifest_with_credentials_runs() -> Verdict {
    let broker = kafka::shared().await?;
    let (name, sink) = (broker.name("web"), Sink::start().await);
    let spec = format!(
        "kafka:\n  brokers: \"{}\"\n  authRequired: true\n  tls: {{disabled: true}}\n  partitions: 2\n  \
         sasl: {{mechanism: SCRAM-SHA-256, username: {USER}, passwordFrom: {{secretKeyRef: {{name: kafka, key: password}}}}}}",
        broker.listeners.sasl
    );
    let home = Home::with(objects(&[
        bus("default", &spec),
        secret("kafka", "password", PASSWORD),
        source(&name, "webhook: {in: {}}"),
        pass(&format!("all-{name}"), &name, "in", &sink.url("/")),
    ]));
    let pipeline = Pipeline { home, name, sink };
    let mut evoke = pipeline.home.run().await;
    assert_eq!(pipeline.send(&evoke, "a", &[], "x").await, 202);
    assert_eq!(pipeline.sink.wait(1, SOON).await[0].id(), "a");
    evoke.stop().await;
    assert_eq!(evoke.log().count(PASSWORD), 0, "the password is in the log");
    Ok(())
}

pub(crate) async fn tls_is_spoken_and_a_stranger_is_named() -> Verdict {
    let (broker, authority) = (kafka::shared().await?, tls::authority().await?);
    let (ca, client, listeners) = (authority.ca(), authority.client(), broker.listeners);
    let [mutual, sasl] = [listeners.mutual_tls, listeners.sasl_tls].map(|address| address.to_string());
    let files = |name: &str| {
        format!(
            "partitions: 1, tls: {{caFrom: {{file: {ca:?}}}, certFrom: {{file: {:?}}}, keyFrom: {{file: {:?}}}, serverName: {name}}}",
            client.cert, client.key
        )
    };
    let login = format!(
        "partitions: 1, authRequired: true, sasl: {{username: {USER}, password: {PASSWORD}}}, tls: {{caFrom: {{file: {ca:?}}}}}"
    );
    let pipeline = Pipeline::at(&mutual, broker.name("web"), "tls: {}").await;
    for (more, said) in [
        ("tls: {}".to_owned(), &["SSL handshake failed", "for a private authority set `tls.ca`"][..]),
        (files("other.test"), &["as \"other.test\"", "other.test"]),
    ] {
        pipeline.on(&mutual, &more);
        let mut evoke = pipeline.home.evoke().start().await;
        evoke.waits_for(&[&["bus default.default", &mutual], said].concat(), LATER).await;
        evoke.signal(Signal::TERM);
        evoke.ended(LATER).await;
    }
    for (id, brokers, more) in [("certificate", &mutual, files("broker.test")), ("password", &sasl, login)] {
        pipeline.on(brokers, &more);
        let mut evoke = pipeline.home.run().await;
        assert_eq!(pipeline.send(&evoke, id, &[], "x").await, 202);
        pipeline.sink.wait_all(&[id.to_owned()].into(), SOON).await;
        evoke.stop().await;
    }
    Ok(())
}

pub(crate) async fn a_user_that_is_removed_while_connected_is_named_and_welcome_again() -> Verdict {
    // Every session is so short that a client which is connected has to say who it is again and again.
    let broker = Broker::prepare_with(&[("connections.max.reauth.ms", "4000")]).await?;
    broker.start().await;
    let login = format!(
        "partitions: 2, authRequired: true, tls: {{disabled: true}}, \
         sasl: {{mechanism: SCRAM-SHA-512, username: {USER}, password: {PASSWORD}}}"
    );
    let pipeline = Pipeline::at(&broker.listeners.sasl.to_string(), broker.name("web"), &login).await;
    let run = pipeline.home.evoke();
    let mut evoke = run.clone().ready().await;
    let load = Load::start(&run.webhook(&pipeline.path()));
    load.more(200, LATER).await;
    broker.remove_user().await;
    let said = ["bus default.default", "uthentication", "check the user, the password and the mechanism"];
    let said = evoke.waits_for(&said, LATER).await;
    assert!(!said.contains(PASSWORD), "{said}");
    assert_eq!(pipeline.send(&evoke, "refused", &[], "x").await, 503);

    broker.restore_user().await;
    evoke.ready(LATER).await;
    load.more(200, LATER).await;
    let log = evoke.log().clone();
    pipeline.all_arrive(load, evoke, &broker.listeners.plain.to_string(), 1).await;
    assert_eq!(log.count(PASSWORD), 0, "the password is in the log");
    broker.stop().await;
    Ok(())
}
