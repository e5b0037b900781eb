//! Faults at random, under load, on every kind of bus: whatever is killed, frozen, cut, full or set to another time, and in whatever
//! order, everything that was accepted arrives, in order where that was asked for, and repeats stay within what is promised.
//!
//! The faults follow from a seed, which a failed test shows. `EVOKE_FAULTS` says how many there are, `EVOKE_FAULT_SEED` which. What a
//! bus is on says what can go wrong there; all of that comes before anything comes again, and once when nobody says otherwise.

mod deal;
mod server;

use std::fs;
use std::time::Duration;

use evoke_tests::case::Verdict;
use evoke_tests::clock::FakeClock;
use evoke_tests::disk::SmallDisk;
use evoke_tests::eventually;
use evoke_tests::evoke::{Evoke, Home, Run};
use evoke_tests::function::Function;
use evoke_tests::http::{Answer, Received, Sink, get};
use evoke_tests::ledger::{assert_conserved, assert_ordered};
use evoke_tests::load::Load;
use evoke_tests::manifests::{bus, objects, source, trigger};
use evoke_tests::process::Signal;
use evoke_tests::proxy::{Line, Proxy};
use evoke_tests::servers::kafka::{self, Broker};
use evoke_tests::servers::nats::{self, Nats};
use evoke_tests::servers::redis::{Group, Redis};
use tokio::time::{Instant, sleep};

use self::deal::{Fault, MOST, deal, setting};
use self::server::Server;

/// Events that are accepted between two faults, at the least.
const BETWEEN: usize = 200;
/// How long anything may take to recover.
const RECOVERY: Duration = Duration::from_secs(120);
/// How long something stays frozen, cut or full: longer than every time limit on the way would be a different test.
const PAUSE: Duration = Duration::from_secs(2);
const TOPIC: &str = "default.web.in";

/// How long a test may take: what it takes here, and much more for every fault.
pub(crate) fn limit() -> Duration {
    Duration::from_secs(300 + 60 * setting("EVOKE_FAULTS").unwrap_or(MOST))
}

/// The paths of a function, one a subscriber.
const CALLED: &str = "/called";
const CALLED_IN_ORDER: &str = "/called-in-order";

/// Two subscribers with sinks, of which one fails at times, and two with a function; one of each keeps the order of each key.
///
/// What waited for a retry when evoke was killed, and its clock was set back before, is put off by as much as a `Retry-After` may be:
/// less than [`RECOVERY`] here.
fn subscribers(any: &Sink, ordered: &Sink, function: &Function) -> String {
    let subscriber = |name: &str, uri: &str, delivery: &str| {
        format!(
            "- {{name: {name}, condition: it, sink: {{uri: \"{uri}\"}}, delivery: {{retryAfterMax: PT1M{delivery}}}}}"
        )
    };
    let subscribers = [
        subscriber("any", &any.url("/"), ", backoffDelay: PT0.05S"),
        subscriber("ordered", &ordered.url("/"), ", ordering: partitionKey"),
        subscriber("called", &function.url(CALLED), ""),
        subscriber("called-in-order", &function.url(CALLED_IN_ORDER), ", ordering: partitionKey"),
    ];
    trigger(
        "t",
        &format!("inputs: {{it: {{eventSource: web, event: in}}}}\nsubscribers:\n  {}", subscribers.join("\n  ")),
    )
}

/// What things go wrong with.
struct Scene {
    evoke: Evoke,
    run: Run,
    function: Function,
    /// The wall clock that evoke has, if that is set.
    clock: Option<FakeClock>,
    /// How far it is ahead.
    hours: i32,
    server: Server,
    home: Home,
}

impl Scene {
    async fn strike(&mut self, fault: Fault, load: &Load) {
        match fault {
            Fault::KillEvoke => {
                self.evoke.kill().await;
                self.evoke = self.run.clone().start().await;
            }
            Fault::FreezeEvoke => {
                self.evoke.signal(Signal::STOP);
                sleep(PAUSE).await;
                self.evoke.signal(Signal::CONT);
            }
            Fault::SetClockBack => self.set_clock(-1),
            Fault::SetClockAhead => self.set_clock(1),
            Fault::KillFunction => self.function.kill().await,
            Fault::FreezeFunction => self.function.freeze(PAUSE).await,
            Fault::KillServer => self.server.restart().await,
            Fault::FreezeServer => self.server.freeze().await,
            Fault::CutLine => self.server.disturb(Line::Cut).await,
            Fault::HoldLine => self.server.disturb(Line::Held).await,
            Fault::SlowLine => self.server.disturb(Line::Slow(Duration::from_millis(50))).await,
            Fault::FillDisk => self.fill_disk().await,
            Fault::ChangeLeader => self.server.change_leader(load).await,
        }
    }

    fn set_clock(&mut self, hours: i32) {
        self.hours += hours;
        self.clock.as_ref().expect("evoke has a clock of its own").set(&format!("{:+}h", self.hours));
    }

    /// Fills the disk until the bus has been full for a while, and takes away again what filled it.
    async fn fill_disk(&self) {
        let Server::SmallDisk(disk) = &self.server else { panic!("there is no disk to fill") };
        // What everybody has finished is given up for what comes. A subscription that stands still has not.
        self.set_subscription("pause").await;
        let filler = disk.fill();
        let mut full_since: Option<Instant> = None;
        eventually("the bus is full and stays so", RECOVERY, async || {
            disk.fill();
            let answer = get(&self.evoke.admin("/readyz")).await.ok()?;
            if !answer.text().contains(": full: ") {
                full_since = None;
                return None;
            }
            (full_since.get_or_insert_with(Instant::now).elapsed() >= PAUSE).then_some(())
        })
        .await;
        fs::remove_file(filler).unwrap();
        self.set_subscription("resume").await;
    }

    async fn set_subscription(&self, to: &str) {
        let (code, text) = self.home.tool(&["subscription", to, "t/any"]).await;
        assert_eq!(code, Some(0), "{text}");
    }
}

async fn faults(name: &str, home: Home, server: Server) -> Verdict {
    let kinds = server.faults();
    let seed = setting("EVOKE_FAULT_SEED").unwrap_or_else(|| name.bytes().map(u64::from).sum());
    let count = setting("EVOKE_FAULTS").map_or(kinds.len(), |count| usize::try_from(count).unwrap());
    println!("faults on {name}: EVOKE_FAULT_SEED={seed} EVOKE_FAULTS={count}");
    let clock = kinds.contains(&Fault::SetClockBack).then(|| FakeClock::new(home.path())).transpose()?;
    let flaky = |request: &Received| match request.attempt {
        1 if request.id().ends_with('7') => Answer::Status(503),
        _ => Answer::Status(200),
    };
    let (any, ordered) = (Sink::scripted(flaky).await, Sink::start().await);
    let function = Function::new(&home, "f");
    home.write(
        "evoke.yaml",
        objects(&[
            bus("default", &server.bus()),
            source("web", "webhook: {in: {}}"),
            function.manifest(),
            subscribers(&any, &ordered, &function),
        ]),
    );
    // Nobody looks at a clock through a library where nobody sets it.
    let run = match &clock {
        Some(clock) => clock.wear(home.evoke()),
        None => home.evoke(),
    };
    let evoke = run.clone().start().await;
    let mut scene = Scene { evoke, run, function, clock, hours: 0, server, home };
    scene.evoke.ready(RECOVERY).await;
    let load = Load::start(&scene.run.webhook("/default/web/in"));
    let dealt = deal(&kinds, count, seed);
    for fault in dealt.iter().copied() {
        load.more(BETWEEN, RECOVERY).await;
        println!("faults on {name}: {fault:?} after {} events", load.accepted());
        // It holds a client of every kind of server.
        Box::pin(scene.strike(fault, &load)).await;
    }
    load.more(BETWEEN, RECOVERY).await;
    let Scene { home, server, function, mut evoke, .. } = scene;
    evoke.ready(RECOVERY).await;
    let sent = load.end().await;
    let total = sent.ids.len();
    any.wait_delivered(total, RECOVERY).await;
    ordered.wait_delivered(total, RECOVERY).await;
    let called = function.wait_taken(CALLED, total, RECOVERY).await;
    let called_in_order = function.wait_taken(CALLED_IN_ORDER, total, RECOVERY).await;
    evoke.stop().await;
    let unanswered: usize = dealt.iter().copied().map(Fault::stored_again).sum();
    let twice = match server.stored(&home).await {
        // What was sent again may be there twice, and so may what was being published when the server did not answer.
        Some(stored) => assert_conserved(&sent.ids, [&stored], sent.again + unanswered).repeats,
        // Without a server, only what each sender was not answered for.
        None => unanswered,
    };
    println!("faults on {name}: {total} events, {} sent again, at most {twice} stored again", sent.again);
    let allowed = dealt.iter().copied().map(Fault::repeats).sum::<usize>() + twice;
    for (subscriber, delivered) in [
        ("any", any.delivered()),
        ("ordered", ordered.delivered()),
        ("called", called),
        ("called-in-order", called_in_order),
    ] {
        let repeats = assert_conserved(&sent.ids, [&delivered], allowed).repeats;
        println!("faults on {name}: {subscriber} got {repeats} repeats of at most {allowed}");
    }
    let answered = ordered.received().into_iter().filter(|request| request.status == Some(200));
    assert_ordered(answered.map(|request| request.id().to_owned()));
    assert_ordered(function.taken(CALLED_IN_ORDER));
    Ok(())
}

pub(crate) async fn an_embedded_bus_loses_nothing() -> Verdict {
    faults("embedded", Home::new(), Server::Embedded).await
}

pub(crate) async fn an_embedded_bus_on_a_small_disk_loses_nothing() -> Verdict {
    let home = Home::new();
    let disk = SmallDisk::mount(home.data(), "32m").await?;
    faults("small disk", home, Server::SmallDisk(disk)).await
}

pub(crate) async fn a_bus_on_jetstream_loses_nothing() -> Verdict {
    // A publish ack of NATS comes before the data is synced, which a kill of the server alone survives.
    let nats = Nats::start().await?;
    let proxy = Proxy::start(nats.address).await;
    faults("jetstream", Home::new(), Server::Nats(nats, proxy)).await
}

pub(crate) async fn a_bus_on_three_nats_servers_loses_nothing() -> Verdict {
    faults("three nats servers", Home::new(), Server::NatsCluster(nats::Cluster::start().await?)).await
}

pub(crate) async fn a_bus_on_kafka_loses_nothing() -> Verdict {
    let broker = Broker::prepare().await?;
    broker.start().await;
    faults("kafka", Home::new(), Server::Kafka(broker)).await
}

pub(crate) async fn a_bus_on_three_kafka_brokers_loses_nothing() -> Verdict {
    faults("three kafka brokers", Home::new(), Server::KafkaCluster(kafka::Cluster::start().await?)).await
}

pub(crate) async fn a_bus_on_redis_loses_nothing() -> Verdict {
    let redis = Redis::start().await?;
    let proxy = Proxy::start(redis.address).await;
    faults("redis", Home::new(), Server::Redis(redis, proxy)).await
}

pub(crate) async fn a_bus_on_redis_with_a_replica_loses_nothing() -> Verdict {
    faults("redis with a replica", Home::new(), Server::RedisGroup(Box::new(Group::start().await?))).await
}
