//! `evoke dlq`.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::Method;
use serde_json::{Map, Value, json};

use super::args::{DlqCommand, DlqListArgs, DlqShowArgs, LetterArgs, Output, PurgeArgs, RedriveArgs};
use super::channel::{Channel, with_query};
use super::table::{Table, short};
use super::{ToolError, confirm, follow, list, number, print, print_json, text};

/// How many letters are asked for at once.
const PAGE: usize = 500;

pub(super) async fn run(command: &DlqCommand, channel: &Channel) -> Result<bool, ToolError> {
    match command {
        DlqCommand::List(args) => show_list(args, channel).await,
        DlqCommand::Show(args) => show(args, channel).await,
        DlqCommand::Redrive(args) => redrive(args, channel).await,
        DlqCommand::Purge(args) => purge(args, channel).await,
    }
}

/// The filter as the API reads it.
fn filter(letters: &LetterArgs, ids: &[String]) -> Value {
    let LetterArgs { who, cause, since, event } = letters;
    let mut filter = Map::new();
    let ids = (!ids.is_empty()).then(|| ids.join(","));
    for (name, value) in [
        ("namespace", who.namespace()),
        ("trigger", who.trigger.as_ref().map(|trigger| trigger.name.as_str())),
        ("subscriber", who.subscriber.as_deref()),
        ("cause", cause.as_deref()),
        ("since", since.as_deref()),
        ("event", event.as_deref()),
        ("ids", ids.as_deref()),
    ] {
        if let Some(value) = value {
            filter.insert(name.to_owned(), value.into());
        }
    }
    Value::Object(filter)
}

/// Prints a page as soon as it is there, so that a long list takes no more memory than a short one; as JSON it is one document.
async fn show_list(args: &DlqListArgs, channel: &Channel) -> Result<bool, ToolError> {
    let filter = filter(&args.letters, &[]);
    let mut cursor = args.after.clone();
    let mut left = if args.limit == 0 { usize::MAX } else { args.limit };
    let mut letters = Vec::new();
    let mut printed = false;
    while left > 0 {
        let limit = left.min(PAGE).to_string();
        let mut parameters = vec![
            ("limit", Some(limit.as_str())),
            ("cursor", cursor.as_deref()),
            ("bus", args.target.event_bus.as_deref()),
        ];
        for name in ["namespace", "trigger", "subscriber", "cause", "since", "event"] {
            parameters.push((name, filter.get(name).and_then(Value::as_str)));
        }
        let mut answer = channel.call(Method::GET, &with_query("/v1/dead-letters", &parameters), None).await?;
        let page = list(&answer, "deadLetters");
        left = left.saturating_sub(page.len());
        if args.output != Output::Json && (!page.is_empty() || !printed) {
            let rendered = table(page, args.output == Output::Wide);
            let rest = rendered.split_once('\n').map_or("", |(_, rest)| rest);
            print(if printed { rest } else { &rendered })?;
            printed = true;
        }
        cursor = answer.get("next").and_then(Value::as_str).map(str::to_owned);
        if args.output == Output::Json
            && let Some(Value::Array(page)) = answer.get_mut("deadLetters").map(Value::take)
        {
            letters.extend(page);
        }
        if cursor.is_none() {
            break;
        }
    }
    if args.output == Output::Json {
        print_json(&json!({ "deadLetters": letters, "next": cursor }))?;
    } else if let Some(cursor) = cursor {
        anstream::eprintln!("there may be more: go on with --after {cursor}");
    }
    Ok(true)
}

fn table(letters: &[Value], wide: bool) -> String {
    let mut names = vec!["ID", "SUBSCRIPTION", "EVENT", "ATTEMPTS", "SINCE", "CAUSE"];
    if wide {
        names.extend(["TYPE", "SOURCE", "POSITION", "DESTINATION", "BYTES", "BUS"]);
    }
    names.push("JOB");
    let mut table = Table::new(&names);
    for letter in letters {
        let cut = |text: &str, most| if wide { text.to_owned() } else { short(text, most) };
        let mut row = vec![
            text(letter, "id").to_owned(),
            subscription(letter),
            cut(text(letter, "eventId"), 40),
            letter.get("attempts").map_or("-".to_owned(), Value::to_string),
            text(letter, "appended").to_owned(),
            cut(text(letter, "cause"), 60),
        ];
        if wide {
            row.extend(
                ["eventType", "eventSource", "position", "destination"].map(|name| text(letter, name).to_owned()),
            );
            row.extend([number(letter, "bytes").to_string(), text(letter, "bus").to_owned()]);
        }
        row.push(text(letter, "job").to_owned());
        table.row(row);
    }
    table.render()
}

fn subscription(letter: &Value) -> String {
    match text(letter, "trigger") {
        "" => "-".to_owned(),
        trigger => format!("{}/{trigger}/{}", text(letter, "namespace"), text(letter, "subscriber")),
    }
}

async fn show(args: &DlqShowArgs, channel: &Channel) -> Result<bool, ToolError> {
    let mut letters = Vec::new();
    for id in &args.ids {
        let path = with_query(&format!("/v1/dead-letters/{id}"), &[("bus", args.target.event_bus.as_deref())]);
        letters.extend(list(&channel.call(Method::GET, &path, None).await?, "deadLetters").iter().cloned());
    }
    if args.output == Output::Json {
        print_json(&json!({ "deadLetters": letters }))?;
        return Ok(true);
    }
    for (place, letter) in letters.iter().enumerate() {
        print(&format!("{}{}", if place == 0 { "" } else { "\n" }, in_full(letter)))?;
    }
    Ok(true)
}

/// A letter for people: its attributes, then its data.
fn in_full(letter: &Value) -> String {
    let mut rows = vec![("letter", text(letter, "id").to_owned()), ("bus", text(letter, "bus").to_owned())];
    rows.push(("since", text(letter, "appended").to_owned()));
    if let Some(job) = letter.get("job").and_then(Value::as_str) {
        rows.push(("job", job.to_owned()));
    }
    let event = letter.get("event").and_then(Value::as_object);
    let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let is_data = |name: &str| matches!(name, "data" | "data_base64");
    let attributes = event.into_iter().flatten().filter(|(name, _)| !is_data(name));
    let attributes: Vec<_> = attributes.map(|(name, value)| (name.as_str(), plain(value))).collect();
    let mut table = Table::new(&[]);
    for (name, value) in rows.into_iter().chain(attributes) {
        table.row(vec![format!("{name}:"), value]);
    }
    let data = decoded(text(letter, "dataBase64"));
    let head = table.render();
    let head = head.trim_start_matches('\n');
    match data {
        // A terminal shows text and obeys nothing that is in it.
        Some(data) => {
            let data: String =
                data.chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c }).collect();
            format!("{head}\n{data}\n")
        }
        None => head.to_owned(),
    }
}

/// The data as text, or as it is encoded where it is none.
fn decoded(encoded: &str) -> Option<String> {
    let data = BASE64_STANDARD.decode(encoded).ok().filter(|data| !data.is_empty())?;
    Some(String::from_utf8(data).unwrap_or_else(|_| format!("(base64) {encoded}")))
}

async fn redrive(args: &RedriveArgs, channel: &Channel) -> Result<bool, ToolError> {
    let filter = filter(&args.letters, &args.ids);
    let body = json!({ "filter": filter, "bus": args.target.event_bus });
    let answer = channel.call(Method::POST, "/v1/dead-letters/redrive", Some(&body)).await?;
    for skipped in list(&answer, "skipped") {
        let letters = number(skipped, "letters");
        match text(skipped, "subscription") {
            "" => anstream::eprintln!("{letters} left alone: what a source could not read has no subscriber to go to"),
            id => anstream::eprintln!("{letters} of {id} left alone: it is not in the manifests that run"),
        }
    }
    if number(&answer, "busy") > 0 {
        anstream::eprintln!("{} left alone: they are being redriven already", number(&answer, "busy"));
    }
    if answer["more"] == true {
        anstream::eprintln!("there are more than one redrive can take: run it again for the rest");
    }
    let jobs = list(&answer, "jobs");
    let ids: Vec<String> = jobs.iter().map(|job| text(job, "id").to_owned()).collect();
    let found = !ids.is_empty();
    let jobs = if args.detach { jobs.to_vec() } else { follow::jobs(channel, &ids).await? };
    if args.output == Output::Json {
        print_json(
            &json!({ "jobs": jobs, "skipped": answer["skipped"], "busy": answer["busy"], "more": answer["more"] }),
        )?;
    } else {
        for job in &jobs {
            print(&match args.detach {
                true => {
                    format!("{}: {} redriven by job {}\n", text(job, "subscription"), job["letters"], text(job, "id"))
                }
                false => format!("{}\n", follow::line(job)),
            })?;
        }
    }
    if !found {
        anstream::eprintln!("no dead letter was redriven");
    }
    Ok(found && (args.detach || follow::went_well(&jobs)))
}

async fn purge(args: &PurgeArgs, channel: &Channel) -> Result<bool, ToolError> {
    let filter = filter(&args.letters, &args.ids);
    let body = |dry_run: bool| json!({ "filter": filter, "bus": args.target.event_bus, "dryRun": dry_run });
    if !args.yes {
        let count = channel.call(Method::POST, "/v1/dead-letters/purge", Some(&body(true))).await?;
        let question = format!(
            "purge {} for good?",
            crate::validate::count(usize::try_from(number(&count, "purged")).unwrap_or(usize::MAX), "dead letter")
        );
        if !confirm(&question).await? {
            return Err(ToolError("nothing was purged".into()));
        }
    }
    let answer = channel.call(Method::POST, "/v1/dead-letters/purge", Some(&body(false))).await?;
    if number(&answer, "busy") > 0 {
        anstream::eprintln!("{} left alone: they are being redriven", number(&answer, "busy"));
    }
    if answer["more"] == true {
        anstream::eprintln!("there are more than one purge can take: run it again for the rest");
    }
    if args.output == Output::Json {
        print_json(&answer)?;
    } else {
        print(&format!("{} purged\n", number(&answer, "purged")))?;
    }
    Ok(true)
}
