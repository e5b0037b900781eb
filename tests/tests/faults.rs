//! Faults at random, under load, on every kind of bus: whatever is killed, frozen or cut, and in whatever order, everything that was
//! accepted arrives, in order where that was asked for, and repeats stay within what is promised.
//!
//! The faults follow from a seed, which a failed test shows. `EVOKE_FAULTS` says how many there are, `EVOKE_FAULT_SEED` which. Every
//! kind comes before any comes again, and each once when nobody says otherwise.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use evoke_tests::bus as log;
use evoke_tests::case::{Skipped, Verdict};
use evoke_tests::evoke::{Evoke, Home, Run};
use evoke_tests::function::Function;
use evoke_tests::http::{Answer, Sink};
use evoke_tests::ledger::{Counts, assert_conserved};
use evoke_tests::load::{self, Load};
use evoke_tests::manifests::{bus, objects, source, trigger};
use evoke_tests::process::Signal;
use evoke_tests::proxy::{Line, Proxy};
use evoke_tests::servers::kafka::Broker;
use evoke_tests::servers::nats::Nats;
use evoke_tests::servers::redis::Redis;

/// Events that are accepted between two faults, at the least.
const BETWEEN: usize = 200;
/// How long anything may take to recover.
const RECOVERY: Duration = Duration::from_secs(120);
/// What a fault may repeat for a subscriber at the default `maxInFlight` of 100, beside what is on the bus twice: what was delivered
/// and not yet recorded when evoke died, or could not record for so long that it had to give its work up; what a function took
/// and did not answer for.
const PER_FAULT: usize = 2 * 100;
/// How long something stays frozen or cut: longer than every time limit on the way would be a different test.
const PAUSE: Duration = Duration::from_secs(2);
const TOPIC: &str = "default.web.in";

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    KillEvoke,
    FreezeEvoke,
    KillFunction,
    FreezeFunction,
    KillServer,
    FreezeServer,
    CutLine,
    HoldLine,
    SlowLine,
}

/// How many of all there are without a server.
const WITHOUT_SERVER: usize = 4;
const ALL: &[Fault] = &[
    Fault::KillEvoke,
    Fault::FreezeEvoke,
    Fault::KillFunction,
    Fault::FreezeFunction,
    Fault::KillServer,
    Fault::FreezeServer,
    Fault::CutLine,
    Fault::HoldLine,
    Fault::SlowLine,
];

/// The server below a bus.
enum Server {
    None,
    Kafka(Broker),
    Nats(Nats, Proxy),
    Redis(Redis, Proxy),
}

impl Server {
    fn faults(&self) -> &'static [Fault] {
        match self {
            Self::None => &ALL[..WITHOUT_SERVER],
            Self::Kafka(_) | Self::Nats(..) | Self::Redis(..) => ALL,
        }
    }

    fn bus(&self) -> String {
        match self {
            Self::None => "embedded: {}".to_owned(),
            Self::Kafka(broker) => format!("kafka: {{brokers: \"{}\", replication: 1}}", broker.listeners.proxied),
            Self::Nats(_, proxy) => format!("jetStream: {{url: \"nats://{}\"}}", proxy.address()),
            Self::Redis(_, proxy) => format!("redis: {{address: \"{}\"}}", proxy.address()),
        }
    }

    /// How often each event is on the bus.
    async fn stored(&self, home: &Home) -> Counts {
        let bus = match self {
            Self::None => log::embedded(&home.data()),
            Self::Kafka(broker) => log::kafka(&broker.listeners.plain.to_string()),
            Self::Nats(nats, _) => log::jetstream(&nats.url()).await,
            Self::Redis(redis, _) => log::redis(&[redis.address]),
        };
        log::counted(bus, TOPIC).await
    }

    async fn kill(&self) {
        match self {
            Self::None => {}
            Self::Kafka(broker) => broker.kill().await,
            Self::Nats(nats, _) => nats.kill().await,
            Self::Redis(redis, _) => redis.kill().await,
        }
    }

    async fn resume(&self) {
        match self {
            Self::None => {}
            Self::Kafka(broker) => broker.start().await,
            Self::Nats(nats, _) => nats.resume().await,
            Self::Redis(redis, _) => redis.resume().await,
        }
    }

    fn freeze(&self, frozen: bool) {
        match (self, frozen) {
            (Self::None, _) => {}
            (Self::Kafka(broker), true) => broker.freeze(),
            (Self::Kafka(broker), false) => broker.thaw(),
            (Self::Nats(nats, _), true) => nats.freeze(),
            (Self::Nats(nats, _), false) => nats.thaw(),
            (Self::Redis(redis, _), true) => redis.freeze(),
            (Self::Redis(redis, _), false) => redis.thaw(),
        }
    }

    fn line(&self, line: Line) {
        match self {
            Self::None => {}
            Self::Kafka(broker) => broker.line(line),
            Self::Nats(_, proxy) | Self::Redis(_, proxy) => proxy.set(line),
        }
    }
}

/// A seeded source of chance.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % n as u64).unwrap()
    }
}

/// So many faults in an order of chance.
fn deal(kinds: &[Fault], count: usize, dice: &mut Dice) -> Vec<Fault> {
    let (mut dealt, mut left) = (Vec::new(), Vec::new());
    while dealt.len() < count {
        if left.is_empty() {
            left.extend_from_slice(kinds);
        }
        dealt.push(left.swap_remove(dice.below(left.len())));
    }
    dealt
}

fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// How long a test may take: what it takes here, and much more for every fault.
pub(crate) fn limit() -> Duration {
    Duration::from_secs(300 + 60 * setting("EVOKE_FAULTS").unwrap_or(ALL.len() as u64))
}

/// The paths of a function, one a subscriber.
const CALLED: &str = "/called";
const CALLED_IN_ORDER: &str = "/called-in-order";

/// Two subscribers with sinks, of which one fails at times, and two with a function; one of each keeps the order of each key.
fn subscribers(any: &Sink, ordered: &Sink, function: &Function) -> String {
    trigger(
        "t",
        &format!(
            "inputs: {{it: {{eventSource: web, event: in}}}}\n\
             subscribers:\n  \
             - {{name: any, condition: it, sink: {{uri: \"{}\"}}, delivery: {{backoffDelay: PT0.05S}}}}\n  \
             - {{name: ordered, condition: it, sink: {{uri: \"{}\"}}, delivery: {{ordering: partitionKey}}}}\n  \
             - {{name: called, condition: it, sink: {{uri: \"{}\"}}}}\n  \
             - {{name: called-in-order, condition: it, sink: {{uri: \"{}\"}}, delivery: {{ordering: partitionKey}}}}",
            any.url("/"),
            ordered.url("/"),
            function.url(CALLED),
            function.url(CALLED_IN_ORDER)
        ),
    )
}

async fn faults(name: &str, server: Server) -> Verdict {
    let kinds = server.faults();
    let seed = setting("EVOKE_FAULT_SEED").unwrap_or_else(|| name.bytes().map(u64::from).sum());
    let count = setting("EVOKE_FAULTS").map_or(kinds.len(), |count| usize::try_from(count).unwrap());
    println!("faults on {name}: EVOKE_FAULT_SEED={seed} EVOKE_FAULTS={count}");
    let flaky = |request: &evoke_tests::http::Received| match request.attempt {
        1 if request.id().ends_with('7') => Answer::Status(503),
        _ => Answer::Status(200),
    };
    let (any, ordered) = (Sink::scripted(flaky).await, Sink::start().await);
    let home = Home::new();
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
    let run = home.evoke();
    let mut evoke = run.clone().ready().await;
    let load = Load::start(&run.webhook("/default/web/in"));
    for fault in deal(kinds, count, &mut Dice(seed)) {
        load.more(BETWEEN, RECOVERY).await;
        println!("faults on {name}: {fault:?} after {} events", load.accepted());
        evoke = strike(fault, &server, &function, &run, evoke).await;
    }
    load.more(BETWEEN, RECOVERY).await;
    evoke.ready(RECOVERY).await;
    let sent = load.end().await;
    let total = sent.ids.len();
    any.wait_delivered(total, RECOVERY).await;
    ordered.wait_delivered(total, RECOVERY).await;
    let called = function.wait_taken(CALLED, total, RECOVERY).await;
    let called_in_order = function.wait_taken(CALLED_IN_ORDER, total, RECOVERY).await;
    evoke.stop().await;
    // What was sent again may be there twice, and so may what was being published when the server did not answer.
    let stored = server.stored(&home).await;
    let twice = assert_conserved(&sent.ids, [&stored], sent.again + count * load::SENDERS).repeats;
    println!("faults on {name}: {total} events, {} sent again, {twice} stored again", sent.again);
    let allowed = count * PER_FAULT + twice;
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

async fn strike(fault: Fault, server: &Server, function: &Function, run: &Run, mut evoke: Evoke) -> Evoke {
    match fault {
        Fault::KillEvoke => {
            evoke.kill().await;
            evoke = run.clone().start().await;
        }
        Fault::FreezeEvoke => {
            evoke.signal(Signal::STOP);
            tokio::time::sleep(PAUSE).await;
            evoke.signal(Signal::CONT);
        }
        Fault::KillFunction => function.kill().await,
        Fault::FreezeFunction => function.freeze(PAUSE).await,
        Fault::KillServer => {
            server.kill().await;
            server.resume().await;
        }
        Fault::FreezeServer => {
            server.freeze(true);
            tokio::time::sleep(PAUSE).await;
            server.freeze(false);
        }
        Fault::CutLine | Fault::HoldLine | Fault::SlowLine => {
            server.line(match fault {
                Fault::CutLine => Line::Cut,
                Fault::HoldLine => Line::Held,
                _ => Line::Slow(Duration::from_millis(50)),
            });
            tokio::time::sleep(PAUSE).await;
            server.line(Line::Open);
        }
    }
    evoke
}

/// The events of a key came first in the order in which they were sent: a repeat may follow later, but nothing is overtaken.
fn assert_ordered(ids: impl IntoIterator<Item = String>) {
    let mut last: BTreeMap<String, u64> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for id in ids {
        let (key, number) = id.split_once('-').unwrap();
        let number: u64 = number.parse().unwrap();
        if seen.insert((key.to_owned(), number)) {
            let before = last.insert(key.to_owned(), number);
            assert!(
                before.is_none_or(|before| before < number),
                "{id} came after {key}-{}",
                before.unwrap_or_default()
            );
        }
    }
}

pub(crate) async fn an_embedded_bus_loses_nothing() -> Verdict {
    faults("embedded", Server::None).await
}

pub(crate) async fn a_bus_on_jetstream_loses_nothing() -> Verdict {
    // A publish ack of NATS comes before the data is synced, which a kill of the server alone survives.
    let nats = Nats::start().await?;
    let proxy = Proxy::start(nats.address).await;
    faults("jetstream", Server::Nats(nats, proxy)).await
}

pub(crate) async fn a_bus_on_kafka_loses_nothing() -> Verdict {
    let broker = Broker::prepare().await?;
    broker.start().await;
    faults("kafka", Server::Kafka(broker)).await
}

pub(crate) async fn a_bus_on_redis_loses_nothing() -> Verdict {
    let redis: Result<Redis, Skipped> = Redis::start().await;
    let redis = redis?;
    let proxy = Proxy::start(redis.address).await;
    faults("redis", Server::Redis(redis, proxy)).await
}
