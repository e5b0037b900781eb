//! `evoke subscription`.

use http::Method;
use serde_json::{Value, json};

use super::args::{ListArgs, Name, NamedArgs, Output, SubscriptionCommand};
use super::channel::{Channel, with_query};
use super::table::{Table, short};
use super::{ToolError, confirm, list, number, print, print_json, text};

pub(super) async fn run(command: &SubscriptionCommand, channel: &Channel) -> Result<bool, ToolError> {
    match command {
        SubscriptionCommand::List(args) => show(args, channel).await,
        SubscriptionCommand::Pause(args) => each(args, channel, "pause", "paused").await,
        SubscriptionCommand::Resume(args) => each(args, channel, "resume", "resumed").await,
        SubscriptionCommand::Delete(args) => {
            let names: Vec<_> = args.named.names.iter().map(path).collect();
            if !args.yes && !confirm(&format!("delete the positions of {} for good?", names.join(", "))).await? {
                return Err(ToolError("nothing was deleted".into()));
            }
            each(&args.named, channel, "", "deleted").await
        }
    }
}

async fn show(args: &ListArgs, channel: &Channel) -> Result<bool, ToolError> {
    let ListArgs { who, output, target } = args;
    let path = with_query(
        "/v1/subscriptions",
        &[
            ("namespace", who.namespace()),
            ("trigger", who.trigger.as_ref().map(|trigger| trigger.name.as_str())),
            ("subscriber", who.subscriber.as_deref()),
            ("bus", target.event_bus.as_deref()),
        ],
    );
    let answer = channel.call(Method::GET, &path, None).await?;
    match output {
        Output::Json => print_json(&answer)?,
        Output::Table | Output::Wide => print(&table(&answer, *output == Output::Wide))?,
    }
    Ok(true)
}

fn table(answer: &Value, wide: bool) -> String {
    let mut names = vec!["NAME", "STATE", "LAG", "IN-FLIGHT", "PARKED"];
    if wide {
        names.extend(["EVALUATED", "BUS", "TOPIC", "OFFSET"]);
    }
    names.push("LAST-ERROR");
    let mut table = Table::new(&names);
    for row in list(answer, "subscriptions") {
        let lag = number(row, "lag");
        let lag = if row["lagExact"] == false { format!("~{lag}") } else { lag.to_string() };
        let in_flight = row.get("inFlight").map_or("-".to_owned(), Value::to_string);
        let error = text(row, "lastError");
        let common =
            vec![text(row, "name").to_owned(), state(row).to_owned(), lag, in_flight, row["parked"].to_string()];
        if !wide {
            table.row(common.into_iter().chain([short(error, 60)]).collect());
            continue;
        }
        for (place, input) in list(row, "inputs").iter().enumerate() {
            let first = if place == 0 { common.clone() } else { vec![String::new(); common.len()] };
            let more = match place {
                0 => [row["evaluated"].to_string(), text(row, "bus").to_owned()],
                _ => [String::new(), String::new()],
            };
            let of_input = [text(input, "topic").to_owned(), text(input, "offset").to_owned()];
            let error = if place == 0 { error.to_owned() } else { String::new() };
            table.row(first.into_iter().chain(more).chain(of_input).chain([error]).collect());
        }
    }
    table.render()
}

fn state(row: &Value) -> &'static str {
    match (row["paused"] == true, row["running"] == true, row["stalled"] == true) {
        (true, ..) => "paused",
        (_, true, true) => "stalled",
        (_, true, false) => "running",
        (_, false, _) => "not running",
    }
}

fn path(name: &Name) -> String {
    name.0.join("/")
}

/// The same for every one that is named; those that come after one that fails are left alone.
async fn each(args: &NamedArgs, channel: &Channel, verb: &str, done: &str) -> Result<bool, ToolError> {
    let mut answers = Vec::new();
    for name in &args.names {
        let (method, suffix) = match verb {
            "" => (Method::DELETE, String::new()),
            verb => (Method::POST, format!("/{verb}")),
        };
        let url = with_query(
            &format!("/v1/subscriptions/{}{suffix}", path(name)),
            &[("bus", args.target.event_bus.as_deref())],
        );
        let answer = channel.call(method, &url, None).await?;
        if args.output != Output::Json {
            print(&format!("{} {done}\n", path(name)))?;
        }
        answers.push(answer);
    }
    if args.output == Output::Json {
        print_json(&json!({ "subscriptions": answers }))?;
    }
    Ok(true)
}
