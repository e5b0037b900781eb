//! The pipeline, as `run` prints it on standard output before it starts.

use std::fmt::Write;
use std::net::SocketAddr;

use anstyle::Style;
use evoke_adapters::plan::SourcePlan;
use evoke_api::names::ObjectName;
use evoke_delivery::plan::{DeadLetterPlan, SinkPlan, SubscriptionPlan};

use super::buses::label;
use super::plan::Plans;
use crate::args::RunArgs;
use crate::logging;

/// Prints what starts.
pub(crate) fn print(plans: &Plans, args: &RunArgs, admin: SocketAddr) {
    logging::print(&mut anstream::stdout(), &render(plans, args, admin));
}

fn render(plans: &Plans, args: &RunArgs, admin: SocketAddr) -> String {
    let mut out = String::new();
    let bold = Style::new().bold();
    let mut line = |kind: &str, name: &str, what: &str| {
        // Writing to a string cannot fail.
        _ = writeln!(out, "{bold}{kind:<9}{bold:#} {name:<32} {what}");
    };
    line("evoke", env!("CARGO_PKG_VERSION"), &format!("data in {}", args.data_dir.display()));
    for (name, plan) in &plans.buses {
        line("bus", &label(name), plan.kind.name());
    }
    for plan in plans.event_sources.values() {
        for event in &plan.events {
            let what = match &event.source {
                SourcePlan::Kafka(kafka) => {
                    format!("kafka {}, topic {}, group {}", kafka.brokers(), kafka.topic(), kafka.group())
                }
                SourcePlan::Cron(cron) => format!("cron {}", cron.schedule()),
                SourcePlan::Redis(redis) => format!("redis {}", redis.key()),
                SourcePlan::Mqtt(mqtt) => format!("mqtt {}, topic {}", mqtt.broker(), mqtt.topic()),
                SourcePlan::Nats(nats) => format!("nats {}, {}", nats.servers(), nats.reads()),
                SourcePlan::Webhook(webhook) => match webhook.address(args.listen).port() {
                    // A log line says which one, once it is bound.
                    0 => format!("{} {}, on a free port", webhook.method, webhook.path),
                    _ => format!("{} {}", webhook.method, webhook.url(args.listen)),
                },
            };
            line("source", &format!("{}/{}", plan.name, event.origin.event), &what);
        }
        if let Some(sink) = &plan.sink {
            line("sink", &plan.name.to_string(), &destination(sink));
        }
    }
    for plan in plans.triggers.values() {
        for subscriber in &plan.subscribers {
            let what = format!("{} -> {}", subscriber.condition.text(), destination(&subscriber.subscription));
            line("trigger", &subscriber.subscription.id.to_string(), &what);
        }
    }
    for plan in plans.functions.values() {
        let ObjectName { namespace, name } = &plan.name;
        let what = format!("http://{name}.{namespace}.svc.cluster.local: {}", plan.command.join(" "));
        line("function", &plan.name.to_string(), &what);
    }
    line("admin", &format!("http://{admin}/"), "metrics, healthz, readyz");
    out
}

fn destination(plan: &SubscriptionPlan) -> String {
    let posted = plan.sink.as_ref().map(sink);
    let topic = plan.topic.as_ref().map(|topic| format!("topic {topic}"));
    let to: Vec<String> = posted.into_iter().chain(topic).collect();
    let dead = match &plan.dead_letter {
        DeadLetterPlan::Sink(plan) => format!(", else {}", sink(plan)),
        DeadLetterPlan::Topic(topic) => format!(", else topic {topic}"),
        DeadLetterPlan::Store => String::new(),
    };
    format!("{}{dead}", to.join(" and "))
}

/// Where a sink is, without credentials.
fn sink(plan: &SinkPlan) -> String {
    match plan {
        SinkPlan::Http(url) => {
            let host = url.host_str().unwrap_or_default();
            let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
            format!("{}://{host}{port}{}", url.scheme(), url.path())
        }
        SinkPlan::Function { name, path } if path == "/" => format!("function {name}"),
        SinkPlan::Function { name, path } => format!("function {name}{path}"),
    }
}
