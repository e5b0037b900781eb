//! The command lines of the tools.

use std::path::PathBuf;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand, ValueEnum};
use evoke_api::credentials::Secret;
use evoke_api::manifest::Override;
use evoke_api::names::{is_event_name, is_namespace, is_object_name};
use url::Url;

use crate::args::{BusOverride, parse_override};

/// One of the tools.
#[derive(Clone, Debug)]
pub enum Tool {
    /// `evoke subscription`
    Subscription(SubscriptionCommand),
    /// `evoke dlq`
    Dlq(DlqCommand),
    /// `evoke replay`
    Replay(Box<ReplayArgs>),
    /// `evoke job`
    Job(JobCommand),
}

impl Tool {
    /// Where it looks for evoke.
    pub(super) fn target(&self) -> &TargetArgs {
        match self {
            Self::Subscription(SubscriptionCommand::List(ListArgs { target, .. }))
            | Self::Subscription(SubscriptionCommand::Pause(NamedArgs { target, .. }))
            | Self::Subscription(SubscriptionCommand::Resume(NamedArgs { target, .. }))
            | Self::Subscription(SubscriptionCommand::Delete(DeleteArgs { named: NamedArgs { target, .. }, .. }))
            | Self::Dlq(DlqCommand::List(DlqListArgs { target, .. }))
            | Self::Dlq(DlqCommand::Show(DlqShowArgs { target, .. }))
            | Self::Dlq(DlqCommand::Redrive(RedriveArgs { target, .. }))
            | Self::Dlq(DlqCommand::Purge(PurgeArgs { target, .. }))
            | Self::Job(JobCommand::List(JobListArgs { target, .. }))
            | Self::Job(JobCommand::Cancel(JobCancelArgs { target, .. })) => target,
            Self::Replay(args) => &args.target,
        }
    }
}

const TARGET: &str = "Which evoke";

/// Which evoke to ask: the one that runs on a data directory, the one at an address, or none.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = TARGET)]
pub struct TargetArgs {
    /// The data directory of the evoke to ask; with -f, the one of the embedded buses.
    #[arg(long, value_name = "DIR", default_value = ".evoke", env = "EVOKE_DATA_DIR")]
    pub data_dir: PathBuf,

    /// Ask the evoke with this admin address instead, as in http://127.0.0.1:9490.
    #[arg(long, value_name = "URL", value_parser = parse_url, conflicts_with = "manifests")]
    pub admin: Option<Url>,

    /// A file that holds the token which that evoke was started with (--admin-token-file).
    #[arg(long, value_name = "FILE", requires = "admin")]
    pub token_file: Option<PathBuf>,

    /// Ask no evoke: go to the buses that these manifests name. A file or a folder; may be repeated.
    #[arg(short = 'f', long = "manifests", value_name = "PATH")]
    pub manifests: Vec<PathBuf>,

    /// With -f, override one field: KIND/[NAMESPACE/]NAME:FIELD.PATH=VALUE. May be repeated.
    #[arg(long = "set", value_name = "KIND/NAME:PATH=VALUE", value_parser = parse_override, requires = "manifests")]
    pub overrides: Vec<Override>,

    /// With -f, take this kind of bus whatever the manifests name.
    #[arg(long, value_enum, value_name = "KIND", requires = "manifests")]
    pub bus: Option<BusOverride>,

    /// Only this EventBus, as `evoke subscription list -o wide` shows it. Needed only where several have what is asked for.
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub event_bus: Option<String>,
}

fn parse_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("{error}: write it as http://127.0.0.1:9490"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(format!("{:?} is not http or https", url.scheme()));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("credentials in a URL are seen by others on this machine: use --token-file".into());
    }
    Ok(url)
}

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// A table for people.
    Table,
    /// The same with more columns.
    Wide,
    /// One JSON document.
    Json,
}

/// A Trigger, and perhaps one of its subscribers.
#[derive(Clone, Debug, Default, Args)]
pub struct WhoArgs {
    /// The Trigger (or EventSource with a sink), with its namespace before a slash if it is in another than -n says.
    #[arg(long, value_name = "[NAMESPACE/]NAME", value_parser = parse_object)]
    pub trigger: Option<Object>,

    /// The subscriber.
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub subscriber: Option<String>,

    /// The namespace [default: all, or `default` where a Trigger is named].
    #[arg(short, long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub namespace: Option<String>,
}

/// An object, perhaps with its namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// The namespace.
    pub namespace: Option<String>,
    /// The name.
    pub name: String,
}

fn parse_object(text: &str) -> Result<Object, String> {
    let (namespace, name) = match text.split_once('/') {
        Some((namespace, name)) => (Some(namespace.to_owned()), name),
        None => (None, text),
    };
    if !is_object_name(name) || namespace.as_deref().is_some_and(|namespace| !is_namespace(namespace)) {
        return Err("write it as NAME or NAMESPACE/NAME".into());
    }
    Ok(Object { namespace, name: name.to_owned() })
}

impl WhoArgs {
    /// The namespace: the Trigger's own, else the one that is named, else `default` for a Trigger.
    pub(super) fn namespace(&self) -> Option<&str> {
        let of_trigger = self.trigger.as_ref().and_then(|trigger| trigger.namespace.as_deref());
        of_trigger.or(self.namespace.as_deref()).or(self.trigger.as_ref().map(|_| "default"))
    }
}

/// `evoke subscription`: who reads what, and how far.
#[derive(Clone, Debug, Subcommand)]
pub enum SubscriptionCommand {
    /// List subscriptions: where they are, how far behind, what waits, what failed last.
    List(ListArgs),
    /// Have subscriptions read and deliver nothing until they are resumed, over restarts too.
    Pause(NamedArgs),
    /// Have subscriptions that were paused go on where they were.
    Resume(NamedArgs),
    /// Take subscriptions off their bus for good, with their positions. What runs is refused.
    Delete(DeleteArgs),
}

/// `evoke subscription list`
#[derive(Clone, Debug, Args)]
pub struct ListArgs {
    /// Whose.
    #[command(flatten)]
    pub who: WhoArgs,

    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub output: Output,

    /// Which evoke.
    #[command(flatten)]
    pub target: TargetArgs,
}

/// Subscriptions by name.
#[derive(Clone, Debug, Args)]
pub struct NamedArgs {
    /// Subscriptions, as `list` names them; the namespace is `default` where it is left out.
    #[arg(required = true, value_name = "[NAMESPACE/]TRIGGER/SUBSCRIBER", value_parser = parse_subscription)]
    pub names: Vec<Name>,

    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub output: Output,

    /// Which evoke.
    #[command(flatten)]
    pub target: TargetArgs,
}

/// A subscription's name: namespace, Trigger, subscriber.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name(pub [String; 3]);

fn parse_subscription(text: &str) -> Result<Name, String> {
    let parts: Vec<&str> = text.split('/').collect();
    let (namespace, owner, subscriber) = match parts[..] {
        [owner, subscriber] => ("default", owner, subscriber),
        [namespace, owner, subscriber] => (namespace, owner, subscriber),
        _ => return Err("write it as NAMESPACE/TRIGGER/SUBSCRIBER".into()),
    };
    if !is_namespace(namespace) || !is_object_name(owner) || !is_event_name(subscriber) {
        return Err("write it as NAMESPACE/TRIGGER/SUBSCRIBER".into());
    }
    Ok(Name([namespace, owner, subscriber].map(str::to_owned)))
}

/// `evoke subscription delete`
#[derive(Clone, Debug, Args)]
pub struct DeleteArgs {
    /// Do not ask.
    #[arg(short, long)]
    pub yes: bool,

    /// Which.
    #[command(flatten)]
    pub named: NamedArgs,
}

/// `evoke dlq`: what could not be delivered and is kept in the bus's own dead-letter store.
#[derive(Clone, Debug, Subcommand)]
pub enum DlqCommand {
    /// List dead letters: of whom, why, when.
    List(DlqListArgs),
    /// Show dead letters with their attributes and data.
    Show(DlqShowArgs),
    /// Deliver dead letters again, as the events that they were, to the subscriber that did not take them.
    Redrive(RedriveArgs),
    /// Take dead letters off the list for good.
    Purge(PurgeArgs),
}

/// Which dead letters.
#[derive(Clone, Debug, Default, Args)]
pub struct LetterArgs {
    /// Whose.
    #[command(flatten)]
    pub who: WhoArgs,

    /// A part of the cause, such as `503` or `connection refused`; upper and lower case are the same.
    #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    pub cause: Option<String>,

    /// Only those that became dead letters at this time or later, as in 2026-05-04T03:02:01Z or 2h (ago).
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub since: Option<String>,

    /// Only those of the event with this `id`.
    #[arg(long, value_name = "ID", value_parser = NonEmptyStringValueParser::new())]
    pub event: Option<String>,
}

/// `evoke dlq list`
#[derive(Clone, Debug, Args)]
pub struct DlqListArgs {
    /// Which.
    #[command(flatten)]
    pub letters: LetterArgs,

    /// How many to list; all of them with 0.
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub limit: usize,

    /// Go on after the list that ended with this.
    #[arg(long, value_name = "CURSOR", value_parser = NonEmptyStringValueParser::new())]
    pub after: Option<String>,

    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub output: Output,

    /// Which evoke.
    #[command(flatten)]
    pub target: TargetArgs,
}

/// `evoke dlq show`
#[derive(Clone, Debug, Args)]
pub struct DlqShowArgs {
    /// Dead letters' ids, as `list` shows them.
    #[arg(required = true, value_name = "ID", value_parser = parse_id)]
    pub ids: Vec<String>,

    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub output: Output,

    /// Which evoke.
    #[command(flatten)]
    pub target: TargetArgs,
}

/// `evoke dlq redrive`
#[derive(Clone, Debug, Args)]
#[command(group = clap::ArgGroup::new("which").required(true).multiple(true)
    .args(["ids", "trigger", "subscriber", "namespace", "cause", "since", "event", "all"]))]
pub struct RedriveArgs {
    /// Dead letters' ids, as `list` shows them.
    #[arg(value_name = "ID", value_parser = parse_id)]
    pub ids: Vec<String>,

    /// Which.
    #[command(flatten)]
    pub letters: LetterArgs,

    /// All of them.
    #[arg(long)]
    pub all: bool,

    /// Do not wait until they are delivered.
    #[arg(long)]
    pub detach: bool,

    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub output: Output,

    /// Which evoke.
    #[command(flatten)]
    pub target: TargetArgs,
}

/// `evoke dlq purge`
#[derive(Clone, Debug, Args)]
#[command(group = clap::ArgGroup::new("which").required(true).multiple(true)
    .args(["ids", "trigger", "subscriber", "namespace", "cause", "since", "event", "all"]))]
pub struct PurgeArgs {
    /// Dead letters' ids, as `list` shows them.
    #[arg(value_name = "ID", value_parser = parse_id)]
    pub ids: Vec<String>,

    /// Which.
    #[command(flatten)]
    pub letters: LetterArgs,

    /// All of them.
    #[arg(long)]
    pub all: bool,

    /// Do not ask.
    #[arg(short, long)]
    pub yes: bool,

    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub output: Output,

    /// Which evoke.
    #[command(flatten)]
    pub target: TargetArgs,
}

const REPLAY_EXAMPLES: &str = "\
Examples:
  evoke replay --trigger orders --since 2h --dry-run
  evoke replay --trigger shop/orders --subscriber billing --since 2026-05-04T03:00:00Z --until 2026-05-04T04:00:00Z
  evoke replay --trigger orders --subscriber billing --from c2hvcC53ZWIub3JkZXJzIDA6MTIz
  evoke replay -f manifests/ --trigger orders --subscriber billing --since 1h --to http://127.0.0.1:3000/";

/// `evoke replay`
#[derive(Clone, Debug, Args)]
#[command(after_help = REPLAY_EXAMPLES, group = clap::ArgGroup::new("start").required(true).args(["since", "from"]))]
pub struct ReplayArgs {
    /// The Trigger (or EventSource with a sink), with its namespace before a slash if it is in another than -n says.
    #[arg(long, value_name = "[NAMESPACE/]NAME", value_parser = parse_object)]
    pub trigger: Object,

    /// The subscriber [default: each of the Trigger's].
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub subscriber: Option<String>,

    /// The namespace.
    #[arg(short, long, value_name = "NAME", default_value = "default", value_parser = NonEmptyStringValueParser::new())]
    pub namespace: String,

    /// Start with what came on the bus at this time, as in 2026-05-04T03:02:01Z or 2h (ago).
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub since: Option<String>,

    /// Start at `earliest`, or at an offset that `evoke subscription list -o json` shows. To be repeated for each of several inputs.
    #[arg(long, value_name = "OFFSET", value_parser = NonEmptyStringValueParser::new())]
    pub from: Vec<String>,

    /// End before what came at this time [default: with what is there now].
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub until: Option<String>,

    /// Deliver to this URL instead of the subscriber's sink. What fails there for good is counted, and is no dead letter. With -f it is
    /// this command that delivers, to what this machine reaches.
    /// A user and a password in it become basic authentication; only the evoke that delivers knows them.
    #[arg(long, value_name = "URL", value_parser = parse_sink)]
    pub to: Option<Secret>,

    /// Only count what would be delivered.
    #[arg(long, conflicts_with_all = ["to", "detach"])]
    pub dry_run: bool,

    /// Do not wait until it is delivered.
    #[arg(long)]
    pub detach: bool,

    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub output: Output,

    /// Which evoke.
    #[command(flatten)]
    pub target: TargetArgs,
}

/// `evoke job`: redrives and replays that run, and those of the last hour.
#[derive(Clone, Debug, Subcommand)]
pub enum JobCommand {
    /// List redrives and replays, and how far they are.
    List(JobListArgs),
    /// End redrives and replays; what they have delivered stays delivered.
    Cancel(JobCancelArgs),
}

/// `evoke job list`
#[derive(Clone, Debug, Args)]
pub struct JobListArgs {
    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub output: Output,

    /// Which evoke.
    #[command(flatten)]
    pub target: TargetArgs,
}

/// `evoke job cancel`
#[derive(Clone, Debug, Args)]
pub struct JobCancelArgs {
    /// Jobs, as `list` names them.
    #[arg(required = true, value_name = "ID", value_parser = parse_job)]
    pub ids: Vec<String>,

    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub output: Output,

    /// Which evoke.
    #[command(flatten)]
    pub target: TargetArgs,
}

/// A URL that may hold a password, and is not quoted for that.
fn parse_sink(text: &str) -> Result<Secret, String> {
    let url = Url::parse(text).map_err(|error| format!("{error}: write it as http://127.0.0.1:3000/"))?;
    Ok(Secret::new(url))
}

fn parse_id(text: &str) -> Result<String, String> {
    text.parse::<u128>().map(|id| id.to_string()).map_err(|_| "a dead letter's id is a number".into())
}

fn parse_job(text: &str) -> Result<String, String> {
    let lawful = !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric());
    if lawful { Ok(text.to_owned()) } else { Err("a job's id is letters and digits".into()) }
}

/// A time: RFC 3339, or a duration before now.
fn parse_time(text: &str) -> Result<String, String> {
    if let Ok(time) = chrono::DateTime::parse_from_rfc3339(text) {
        return Ok(time.to_utc().to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true));
    }
    let wrong = || format!("{text:?} is no time: write it as 2026-05-04T03:02:01Z, or as 2h for two hours ago");
    let ago = evoke_api::quantity::duration(text, &evoke_api::problem::FieldPath::root()).map_err(|_| wrong())?;
    let ago = chrono::TimeDelta::from_std(ago).map_err(|_| wrong())?;
    let time = chrono::Utc::now().checked_sub_signed(ago).ok_or_else(wrong)?;
    Ok(time.to_rfc3339_opts(chrono::SecondsFormat::Millis, true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_with_and_without_a_namespace() {
        assert_eq!(parse_subscription("t/s").unwrap().0, ["default", "t", "s"]);
        assert_eq!(parse_subscription("ns/t/0").unwrap().0, ["ns", "t", "0"]);
        for wrong in ["t", "a/b/c/d", "ns/t/", "ns/T_/s", "ns/t/s~job"] {
            assert!(parse_subscription(wrong).is_err(), "{wrong}");
        }
        assert_eq!(parse_object("ns/t").unwrap(), Object { namespace: Some("ns".into()), name: "t".into() });
        assert!(parse_object("a/b/c").is_err());
    }

    #[test]
    fn times_are_absolute_or_ago() {
        assert_eq!(parse_time("2026-05-04T05:02:01+02:00").unwrap(), "2026-05-04T03:02:01Z");
        let ago = chrono::DateTime::parse_from_rfc3339(&parse_time("1h").unwrap()).unwrap();
        assert!((chrono::Utc::now() - ago.to_utc()).num_minutes() >= 59);
        assert!(parse_time("yesterday").is_err());
    }
}
