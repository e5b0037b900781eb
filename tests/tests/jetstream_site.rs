//! What tests of the JetStream bus start from: a pipeline on a server, what it is sent, and what became of that.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use evoke_eventbus::bus::EventBus;
use evoke_tests::bus::counted;
use evoke_tests::case::Skipped;
use evoke_tests::evoke::{Evoke, Home};
use evoke_tests::http::{Sink, post};
use evoke_tests::ledger::assert_conserved;
use evoke_tests::load::{Load, Sent};
use evoke_tests::manifests::{bus, objects, pass, source};
use evoke_tests::servers::nats::Nats;
use evoke_tests::{SOON, eventually};

/// What an outage of the servers or a kill of evoke may repeat: twice the default `maxInFlight`. A kill leaves so much delivered and
/// not recorded, and so does an outage after which the work is given up.
pub(crate) const PER_OUTAGE: usize = 2 * 100;
pub(crate) const LATER: Duration = Duration::from_secs(60);
pub(crate) const TOPIC: &str = "default.web.in";
pub(crate) const STREAM: &str = "evoke+default+web+in";

/// A server, and a webhook on a bus there that is passed on to a sink.
pub(crate) struct Site {
    pub(crate) nats: Nats,
    pub(crate) sink: Sink,
    pub(crate) home: Home,
}

impl Site {
    /// One on a new server; `fields` are those of the bus beside its URL.
    pub(crate) async fn start(fields: &str) -> Result<Self, Skipped> {
        Ok(Self::on(Nats::start().await?, fields).await)
    }

    /// One on a server that is there, running or not.
    pub(crate) async fn on(nats: Nats, fields: &str) -> Self {
        let (sink, home) = (Sink::start().await, Home::new());
        let site = Self { nats, sink, home };
        site.set(fields);
        site
    }

    /// Gives the bus these fields beside its URL, for the next run.
    pub(crate) fn set(&self, fields: &str) {
        self.home.write("evoke.yaml", manifests(&jetstream(&self.nats.url(), fields), &self.sink));
    }
}

/// A webhook on a bus with these fields beside its spec, passed on to a sink.
pub(crate) fn manifests(fields: &str, sink: &Sink) -> String {
    objects(&[bus("default", fields), source("web", "webhook: {in: {}}"), pass("all", "web", "in", &sink.url("/"))])
}

pub(crate) fn jetstream(url: &str, more: &str) -> String {
    format!("jetStream: {{url: \"{url}\", {more}}}")
}

pub(crate) async fn send(evoke: &Evoke, id: &str, body: impl Into<bytes::Bytes>) -> u16 {
    let headers = [("ce-specversion", "1.0"), ("ce-id", id), ("ce-source", "/s"), ("ce-type", "t")];
    post(&evoke.webhook("/default/web/in"), &headers, body).await.status.as_u16()
}

fn names(ids: Range<usize>) -> BTreeSet<String> {
    ids.map(|n| format!("e-{n}")).collect()
}

pub(crate) async fn send_all(evoke: &Evoke, ids: Range<usize>) -> BTreeSet<String> {
    let ids = names(ids);
    for id in &ids {
        assert_eq!(send(evoke, id, id.clone()).await, 202);
    }
    ids
}

/// As [`send_all`], on a bus that has just come back: what it does not take yet is sent again.
pub(crate) async fn send_all_again(evoke: &Evoke, ids: Range<usize>) -> BTreeSet<String> {
    let ids = names(ids);
    for id in &ids {
        eventually("it is taken", SOON, async || (send(evoke, id, id.clone()).await == 202).then_some(())).await;
    }
    ids
}

/// Ends a load under which `outages` happened, and asserts that everything arrives and is on the bus.
pub(crate) async fn all_arrive(load: Load, sink: &Sink, evoke: &mut Evoke, bus: Arc<dyn EventBus>, outages: usize) {
    let Sent { ids, again } = load.end().await;
    sink.wait_all(&ids, LATER).await;
    evoke.stop().await;
    // The servers recognise an event that is published again, whoever publishes it.
    let stored = counted(bus, TOPIC).await;
    assert_conserved(&ids, [&stored], 0);
    let found = assert_conserved(&ids, [&sink.delivered()], outages * PER_OUTAGE);
    println!("{outages} outages: {} sent, {again} sent again, {} repeated", ids.len(), found.repeats);
}
