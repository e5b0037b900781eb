//! `evoke job`.

use http::Method;
use serde_json::{Value, json};

use super::args::{JobCommand, Output};
use super::channel::{Channel, with_query};
use super::table::{Table, short};
use super::{ToolError, list, number, print, print_json, text};

pub(super) async fn run(command: &JobCommand, channel: &Channel) -> Result<bool, ToolError> {
    match command {
        JobCommand::List(args) => {
            let path = with_query("/v1/jobs", &[("bus", args.target.event_bus.as_deref())]);
            let answer = channel.call(Method::GET, &path, None).await?;
            match args.output {
                Output::Json => print_json(&answer)?,
                Output::Table | Output::Wide => print(&table(list(&answer, "jobs"), args.output == Output::Wide))?,
            }
        }
        JobCommand::Cancel(args) => {
            let mut cancelled = Vec::new();
            for id in &args.ids {
                let path = with_query(&format!("/v1/jobs/{id}"), &[("bus", args.target.event_bus.as_deref())]);
                cancelled.push(channel.call(Method::DELETE, &path, None).await?);
                if args.output != Output::Json {
                    print(&format!("{id} cancelled\n"))?;
                }
            }
            if args.output == Output::Json {
                print_json(&json!({ "jobs": cancelled }))?;
            }
        }
    }
    Ok(true)
}

fn table(jobs: &[Value], wide: bool) -> String {
    let mut names = vec!["ID", "KIND", "SUBSCRIPTION", "STATE", "MATCHED", "DELIVERED", "FAILED", "MADE"];
    if wide {
        names.extend(["ENDED", "RUNNER", "TO", "BUS"]);
    }
    names.push("CAUSE");
    let mut table = Table::new(&names);
    for job in jobs {
        let count = |name| number(&job["counts"], name).to_string();
        let mut row: Vec<_> = ["id", "kind", "subscription", "state"].map(|name| text(job, name).to_owned()).into();
        row.extend(["matched", "delivered", "failed"].map(count));
        row.push(text(job, "made").to_owned());
        if wide {
            row.extend(["ended", "runner", "to", "bus"].map(|name| text(job, name).to_owned()));
        }
        row.push(short(text(job, "cause"), if wide { 500 } else { 60 }));
        table.row(row);
    }
    table.render()
}
