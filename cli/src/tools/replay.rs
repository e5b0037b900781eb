//! `evoke replay`.

use evoke_api::credentials::Secret;
use http::Method;
use serde_json::{Value, json};

use super::args::{Output, ReplayArgs};
use super::channel::Channel;
use super::{ToolError, follow, list, number, print, print_json, text};

pub(super) async fn run(args: &ReplayArgs, channel: &Channel) -> Result<bool, ToolError> {
    let namespace = args.trigger.namespace.as_deref().unwrap_or(&args.namespace);
    let mut body = json!({
        "namespace": namespace,
        "trigger": args.trigger.name,
        "from": args.from,
        "dryRun": args.dry_run,
    });
    for (name, value) in [
        ("subscriber", args.subscriber.as_deref()),
        ("since", args.since.as_deref()),
        ("until", args.until.as_deref()),
        ("to", args.to.as_ref().map(Secret::expose)),
        ("bus", args.target.event_bus.as_deref()),
    ] {
        if let Some(value) = value {
            body[name] = value.into();
        }
    }
    if args.dry_run {
        return count(args, channel, &body).await;
    }
    if args.detach && args.to.is_some() && channel.is_direct() {
        return Err(ToolError("with -f and --to this command delivers by itself: leave out --detach".into()));
    }
    let answer = channel.call(Method::POST, "/v1/replays", Some(&body)).await?;
    let jobs = list(&answer, "jobs");
    let ids: Vec<String> = jobs.iter().map(|job| text(job, "id").to_owned()).collect();
    let jobs = if args.detach { jobs.to_vec() } else { follow::jobs(channel, &ids).await? };
    if args.output == Output::Json {
        print_json(&json!({ "jobs": jobs }))?;
    } else {
        for job in &jobs {
            print(&match args.detach {
                true => format!("{}: replayed by job {}\n", text(job, "subscription"), text(job, "id")),
                false => format!("{}\n", follow::line(job)),
            })?;
        }
    }
    Ok(args.detach || follow::went_well(&jobs))
}

async fn count(args: &ReplayArgs, channel: &Channel, body: &Value) -> Result<bool, ToolError> {
    let mut answer = channel.stream(Method::POST, "/v1/replays", Some(body)).await?;
    let mut progress = follow::Progress::start();
    let mut counted = Vec::new();
    while let Some(line) = answer.line().await? {
        let id = text(&line, "subscription");
        if let Some(error) = line.get("error").and_then(Value::as_str) {
            return Err(ToolError(format!("{id}: {error}")));
        }
        if line["done"] == true {
            counted.push(json!({ "subscription": id, "read": line["read"], "matched": line["matched"] }));
        } else {
            progress.show(|| format!("{id}: {} of {} match", number(&line, "matched"), number(&line, "read")));
        }
    }
    progress.end();
    if args.output == Output::Json {
        print_json(&json!({ "dryRun": counted }))?;
    } else {
        for line in &counted {
            let (matched, read) = (number(line, "matched"), number(line, "read"));
            print(&format!("{}: {matched} of {read} match\n", text(line, "subscription")))?;
        }
    }
    Ok(true)
}
