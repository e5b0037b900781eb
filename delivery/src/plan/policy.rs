//! From `delivery` to a policy, and from `deadLetter...` to where dead letters go.

use std::time::Duration;

use evoke_api::catalog::Catalog;
use evoke_api::events::{self as spec, DeliverySpec, SinkSpec};
use evoke_api::limits;
use evoke_api::names::TopicName;
use evoke_api::problem::{FieldPath, Problem};
use evoke_api::quantity;
use evoke_eventbus::subscription::ledger;

use super::{Backoff, DeadLetterPlan, DeliveryPolicy, RateLimit, plan_sink};

/// More retries than this are a mistake: at a minute each they take a week.
const RETRY_MAX: u32 = 10_000;
/// More deliveries at once would cost more memory than they gain.
const IN_FLIGHT_MAX: u32 = 10_000;
// What may be open at once fits into one value of a bus's state.
const _: () = assert!(ledger::open_within(limits::STATE_VALUE_BYTES) >= limits::PARKED_EVENTS + IN_FLIGHT_MAX as usize);
/// More deliveries a second are no limit to speak of.
const RATE_MAX: u32 = 1_000_000;
/// Longer times are a mistake.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);
const SHORTEST: Duration = Duration::from_millis(1);

/// Plans `delivery` at `path`, with the defaults where it is absent or wrong; what is wrong is an error among `problems`.
pub fn plan_policy(spec: Option<&DeliverySpec>, path: &FieldPath, problems: &mut Vec<Problem>) -> DeliveryPolicy {
    let mut policy = DeliveryPolicy::default();
    let Some(spec) = spec else { return policy };
    match spec.retry {
        Some(retry) if retry > RETRY_MAX => {
            let error = Problem::error(path.key("retry"), format!("{retry} retries are too many"));
            problems.push(error.hint(format!("at most {RETRY_MAX}; `backoffDelay` decides how long they take")));
        }
        retry => policy.retry = retry.unwrap_or(policy.retry),
    }
    match spec.backoff_policy.as_deref() {
        None | Some("exponential") => {}
        Some("linear") => policy.backoff = Backoff::Linear,
        Some(other) => {
            let error = Problem::error(path.key("backoffPolicy"), format!("{other:?} is no back-off policy"));
            let near = ["exponential", "linear"]
                .into_iter()
                .find(|known| strsim::damerau_levenshtein(&other.to_lowercase(), known) <= 3);
            problems.push(match near {
                Some(near) => error.hint(format!("did you mean `{near}`")),
                None => error.hint("use `exponential` or `linear`"),
            });
        }
    }
    let time = |field: &str, text: Option<&str>, shortest: Duration, problems: &mut Vec<Problem>| {
        plan_time(text, &path.key(field), shortest, problems)
    };
    if let Some(delay) = time("backoffDelay", spec.backoff_delay.as_deref(), SHORTEST, problems) {
        (policy.delay, policy.delay_max) = (delay, policy.delay_max.max(delay));
    }
    policy.timeout = time("timeout", spec.timeout.as_deref(), SHORTEST, problems).unwrap_or(policy.timeout);
    let after = time("retryAfterMax", spec.retry_after_max.as_deref(), Duration::ZERO, problems);
    policy.retry_after_max = after.unwrap_or(policy.retry_after_max);
    match spec.max_in_flight {
        Some(count @ (0 | IN_FLIGHT_MAX..)) if count != IN_FLIGHT_MAX => {
            let error = Problem::error(path.key("maxInFlight"), format!("{count} deliveries at once are not possible"));
            problems.push(error.hint(format!("choose between 1 and {IN_FLIGHT_MAX}")));
        }
        count => policy.max_in_flight = count.map_or(policy.max_in_flight, |count| count as usize),
    }
    policy.ordering = spec.ordering.unwrap_or_default();
    let window = time("deduplicationWindow", spec.deduplication_window.as_deref(), Duration::ZERO, problems);
    policy.deduplication_window = window.filter(|window| *window > Duration::ZERO);
    policy.rate_limit =
        spec.rate_limit.as_ref().and_then(|limit| plan_rate_limit(limit, &path.key("rateLimit"), problems));
    policy
}

/// The limit, or `None` with an error among `problems`.
fn plan_rate_limit(spec: &spec::RateLimit, path: &FieldPath, problems: &mut Vec<Problem>) -> Option<RateLimit> {
    let before = problems.len();
    let per = match &spec.per {
        Some(per) => plan_time(Some(per), &path.key("per"), SHORTEST, problems)?,
        None => Duration::from_secs(1),
    };
    if spec.events == 0 {
        let error = Problem::error(path.key("events"), "nothing would ever be delivered");
        problems.push(error.hint("at least 1; `evoke subscription pause` stops deliveries for a while"));
    } else if f64::from(spec.events) > per.as_secs_f64() * f64::from(RATE_MAX) {
        let error = Problem::error(path.key("events"), format!("{} deliveries in {per:?} are too many", spec.events));
        problems.push(error.hint(format!("at most {RATE_MAX} a second")));
    }
    let burst = spec.burst.unwrap_or(spec.events);
    if spec.burst == Some(0) {
        let error = Problem::error(path.key("burst"), "nothing would ever be delivered");
        problems.push(error.hint("at least 1; without `burst` it is `events`"));
    }
    (problems.len() == before).then_some(RateLimit { events: spec.events, per, burst })
}

/// A time between `shortest` and a day, or `None` with an error among `problems` if it is set at all.
fn plan_time(
    text: Option<&str>,
    path: &FieldPath,
    shortest: Duration,
    problems: &mut Vec<Problem>,
) -> Option<Duration> {
    let read = quantity::duration(text?, path).and_then(|time| {
        if time < shortest {
            return Err(Problem::error(path.clone(), "this is too short").hint("at least 1ms"));
        }
        if time > LONGEST {
            return Err(Problem::error(path.clone(), "this is too long").hint("at most 24h"));
        }
        Ok(time)
    });
    read.map_err(|problem| problems.push(problem)).ok()
}

/// Plans `deadLetterSink` and `deadLetterTopic` of the object at `path`; the bus's own store where neither is set. `None` goes with
/// an error among `problems`. What is right but has no address yet is among `not_here`.
pub fn plan_dead_letter(
    sink: Option<&SinkSpec>,
    topic: Option<&str>,
    namespace: &str,
    catalog: &Catalog,
    path: &FieldPath,
    problems: &mut Vec<Problem>,
    not_here: &mut Vec<Problem>,
) -> Option<DeadLetterPlan> {
    let topic_path = path.key("deadLetterTopic");
    // To OpenFunction, an empty text is one that is not set.
    let topic = topic.filter(|topic| !topic.is_empty());
    match (sink, topic) {
        (Some(sink), topic) => {
            if topic.is_some() {
                let message = "`deadLetterTopic` has no effect beside `deadLetterSink`: if that fails, the bus's own store is next";
                problems.push(Problem::warning(topic_path, message));
            }
            let path = path.key("deadLetterSink");
            plan_sink(sink, namespace, catalog, &path, problems, not_here).map(DeadLetterPlan::Sink)
        }
        (None, Some(topic)) => {
            if topic.len() > 200 || topic.chars().any(|c| c.is_whitespace() || c.is_control()) {
                let error = Problem::error(topic_path, format!("{topic:?} is no name for a topic"));
                problems.push(error.hint("letters, digits, -, _ and dots, at most 200"));
                return None;
            }
            Some(DeadLetterPlan::Topic(TopicName::named(namespace, topic)))
        }
        (None, None) => Some(DeadLetterPlan::Store),
    }
}
