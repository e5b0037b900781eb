//! How fast conditions are on one core: as Triggers evaluate them, beside the obvious way (a context and a tree an event).
//!
//! `benches/run conditions`

#![allow(clippy::print_stdout, reason = "this is what it is for")]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use evoke_api::catalog::Catalog;
use evoke_api::events::{EventSourceSpec, Input, Subscriber, TriggerSpec, WebhookSource};
use evoke_api::names::ObjectName;
use evoke_benches::measure::{Outcome, resident_kib};
use evoke_benches::promises::Promises;
use evoke_delivery::subscription::{Selector, Verdict};
use evoke_eventbus::bus::{Position, Record};
use evoke_eventbus::event::Event;
use evoke_trigger::plan::plan;
use evoke_trigger::shared::Readings;

/// How long each figure is measured, three times.
const MEASURED: Duration = Duration::from_millis(700);
/// As many events as a lane judges before the next one has its turn.
const BATCH: usize = 1024;
const GOLD: &str =
    "event.type == \"order.created\" && event.data.amount > 100.0 && event.data.customer.tier == \"gold\"";
/// What the project promises, in events a second.
const TARGET: f64 = 500_000.0;

fn main() -> Outcome<()> {
    let batch = batch()?;
    let bytes: usize = batch.iter().map(|record| record.event.encoded_len()).sum();
    println!("events of {} bytes, one core, best of three; matched: one in four", bytes / BATCH);
    let ours = run(&mut selectors(&[GOLD])?, &batch)?;
    println!("\n{:<58}{:>12}", "one subscriber", "events/s");
    row("type, amount and tier", ours, None);
    for (what, condition) in [
        ("attributes alone", "event.type == \"order.created\" && event.source.startsWith(\"/shop\")"),
        ("an input's name alone", "orders"),
        ("nothing but data", "event.data.amount > 100.0"),
        ("twelve comparisons", &["event.data.amount > 1.0"; 12].join(" && ")),
        ("a list of literals", "event.data.customer.tier in [\"silver\", \"bronze\", \"gold\"]"),
        ("a regular expression", "event.data.customer.tier.matches(\"^g.ld$\")"),
        ("a macro over two items", "event.data.items.exists(item, item.price > 50.0)"),
        ("arithmetic", "event.data.amount * 2.0 > 200.0"),
        ("a join that reads the other input", "orders && payments.data.amount > 1.0 || event.type == \"none\""),
    ] {
        row(what, run(&mut selectors(&[condition])?, &batch)?, None);
    }
    println!("\n{:<58}{:>12}{:>14}", "subscribers of one Trigger", "events/s", "conditions/s");
    for count in [1, 10, 100] {
        let conditions: Vec<String> = (0..count).map(|n| GOLD.replace("100.0", &format!("{}.0", 100 + n))).collect();
        let conditions: Vec<&str> = conditions.iter().map(String::as_str).collect();
        for (what, batch) in [("", &batch), (", 8 KiB of data", &padded(&batch, 8 * 1024)?)] {
            let shared = run(&mut selectors(&conditions)?, batch)?;
            row(&format!("{count} that share{what}"), shared, Some(shared * count as f64));
            if count > 1 {
                let mut alone = conditions.iter().map(|one| selectors(&[one])).collect::<Result<Vec<_>, _>>()?;
                let apart = run(&mut alone.iter_mut().flat_map(std::mem::take).collect::<Vec<_>>(), batch)?;
                row(&format!("{count} that do not{what}"), apart, Some(apart * count as f64));
            }
        }
    }
    println!("\n{:<58}{:>12}", "the obvious way", "events/s");
    let tree = naive(&batch, false)?;
    row("a context and a serde_json tree an event", tree, None);
    row("the same, the standard library made anew each time", naive(&batch, true)?, None);
    println!("\nratio to the obvious way: {:.1}x", ours / tree);
    println!("resident memory: {} MiB", resident_kib().unwrap_or(0) >> 10);
    let mut promises = Promises::default();
    promises.at_least("events a second on one core", ours, TARGET);
    promises.end()
}

fn row(what: &str, rate: f64, conditions: Option<f64>) {
    let conditions = conditions.map_or(String::new(), |rate| format!("{rate:>14.0}"));
    println!("  {what:<56}{rate:>12.0}{conditions}");
}

/// Orders, one in four of which is what the condition asks for; no two are the same.
fn batch() -> Outcome<Vec<Record>> {
    let record = |n: usize| -> Outcome<Record> {
        let ty = if n % 4 == 3 { "order.deleted" } else { "order.created" };
        let tier = if n.is_multiple_of(2) { "gold" } else { "tin" };
        let amount = if n % 4 == 2 { 12.25 } else { 150.5 + n as f64 };
        let data = format!(
            "{{\"id\":\"o-{n:06}\",\"customer\":{{\"id\":{n},\"name\":\"Ada Lovelace\",\"tier\":\"{tier}\"}},\
             \"items\":[{{\"sku\":\"x1\",\"price\":10.5,\"qty\":2}},{{\"sku\":\"y2\",\"price\":99.5,\"qty\":1}}],\
             \"currency\":\"EUR\",\"amount\":{amount}}}"
        );
        let event = Event::builder(format!("orders/0/{n}"), "/shop", ty)
            .attribute("datacontenttype", "application/json")
            .attribute("time", "2026-01-02T03:04:05Z")
            .data(data)
            .build()?;
        let appended = UNIX_EPOCH + Duration::from_secs(1_767_000_000) + Duration::from_micros(n as u64);
        Ok(Record::new(Position(n as u128), appended, event))
    };
    (0..BATCH).map(record).collect()
}

/// The same events with as much more data that no condition reads.
fn padded(batch: &[Record], bytes: usize) -> Outcome<Vec<Record>> {
    let note = "lorem ipsum dolor sit amet ".repeat(bytes / 27);
    let pad = |record: &Record| -> Outcome<Record> {
        let data =
            String::from_utf8(record.event.data_slice().to_vec())?.replacen('{', &format!("{{\"note\":\"{note}\","), 1);
        Ok(Record::new(record.at, record.appended, record.event.to_builder().data(data).build()?))
    };
    batch.iter().take(128).map(pad).collect()
}

/// The selectors of a Trigger with these conditions, as `evoke run` makes them.
fn selectors(conditions: &[&str]) -> Outcome<Vec<Box<dyn Selector>>> {
    let input = |event: &str| Input { event_source: Some("web".into()), event: Some(event.into()), ..Input::default() };
    let subscriber = |(index, condition): (usize, &&str)| Subscriber {
        name: Some(index.to_string()),
        condition: (*condition).into(),
        topic: Some("out".into()),
        ..Subscriber::default()
    };
    let spec = TriggerSpec {
        event_bus: "default".into(),
        inputs: ["orders", "payments"].map(|name| (name.to_owned(), input(name))).into_iter().collect(),
        subscribers: conditions.iter().enumerate().map(subscriber).collect(),
        ..TriggerSpec::default()
    };
    let source = EventSourceSpec {
        event_bus: Some("default".into()),
        webhook: ["orders", "payments"].map(|name| (name.to_owned(), WebhookSource::default())).into_iter().collect(),
        ..EventSourceSpec::default()
    };
    let catalog = Catalog {
        event_sources: BTreeMap::from([(ObjectName::new("shop", "web"), source)]),
        default_bus: true,
        ..Catalog::default()
    };
    let planned = plan(&ObjectName::new("shop", "bench"), &spec, &catalog);
    match planned.plan {
        Some(plan) => Ok(plan.selectors(&Readings::default())),
        None => Err(format!("{:?}", planned.problems).into()),
    }
}

/// Events a second, each judged by every selector: batch by batch, as lanes do.
fn run(selectors: &mut [Box<dyn Selector>], batch: &[Record]) -> Outcome<f64> {
    let mut best = 0.0_f64;
    for _ in 0..3 {
        let (mut took, mut events) = (Duration::ZERO, 0);
        while took < MEASURED {
            // As they come from a bus, with nothing read of them yet.
            let batch: Vec<_> = batch.iter().map(|r| Record::new(r.at, r.appended, r.event.clone())).collect();
            let start = Timer::start();
            for selector in selectors.iter_mut() {
                for record in &batch {
                    if let Verdict::Error(why) = black_box(selector.select(0, black_box(record))) {
                        return Err(why.into());
                    }
                }
            }
            events += batch.len();
            took += start.elapsed();
        }
        best = best.max(events as f64 / took.as_secs_f64());
    }
    Ok(best)
}

/// What a first version would do for each event: parse all of the data, put all of the event into a context, evaluate.
fn naive(batch: &[Record], anew: bool) -> Outcome<f64> {
    use cel_interpreter::{Context, Env, Program, Value};
    let program = Program::compile(GOLD)?;
    let env = Arc::new(Env::stdlib());
    let mut best = 0.0_f64;
    for _ in 0..3 {
        let (start, mut events) = (Timer::start(), 0);
        while start.elapsed() < MEASURED {
            for Record { event, .. } in batch {
                let mut members = serde_json::Map::new();
                for (name, value) in event.attributes() {
                    members.insert(name.to_owned(), value.into());
                }
                members.insert("data".to_owned(), serde_json::from_slice(event.data_slice())?);
                let mut context = if anew { Context::default() } else { Context::with_env(Arc::clone(&env)) };
                context.add_variable("event", serde_json::Value::Object(members))?;
                if !matches!(black_box(program.execute(&context))?, Value::Bool(_)) {
                    return Err("not a boolean".into());
                }
                events += 1;
            }
        }
        best = best.max(events as f64 / start.elapsed().as_secs_f64());
    }
    Ok(best)
}

/// Counts the time that this thread ran, so that others on the machine do not count; the time that passed where that is not told.
struct Timer {
    ran: Option<Duration>,
    passed: Instant,
}

impl Timer {
    fn start() -> Self {
        Self { ran: Self::ran(), passed: Instant::now() }
    }

    fn elapsed(&self) -> Duration {
        match (self.ran, Self::ran()) {
            (Some(before), Some(now)) => now.saturating_sub(before),
            _ => self.passed.elapsed(),
        }
    }

    fn ran() -> Option<Duration> {
        let told = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
        told.split(' ').next()?.parse().ok().map(Duration::from_nanos)
    }
}
