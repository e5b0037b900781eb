use std::collections::BTreeMap;

use evoke_eventbus::bus::Position;
use evoke_eventbus::event::Event;
use proptest::prelude::*;

use super::*;

const INPUTS: [&str; 3] = ["A", "B", "C"];

fn record(millis: u64, topic: usize, data: &str) -> Record {
    let event = Event::builder(format!("{topic}-{millis}"), "/s", ["a", "b", "c"][topic])
        .attribute("datacontenttype", "application/json")
        .data(data.to_owned())
        .build()
        .unwrap();
    let appended = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_000 + millis);
    Record::new(Position(u128::from(millis)), appended, event)
}

fn sharing(condition: Condition, topics: &[&[usize]], readings: &Readings) -> ConditionSelector {
    let names = ["a", "b", "c"].map(|name| TopicName::named("shop", name));
    let inputs: Vec<_> = topics.iter().map(|inputs| inputs.to_vec()).collect();
    ConditionSelector::new(condition, names.iter().zip(&inputs), readings)
}

fn selector(text: &str, topics: &[&[usize]]) -> ConditionSelector {
    let condition = Condition::compile(text, &INPUTS).unwrap();
    sharing(condition, topics, &Readings::default())
}

#[test]
fn memory_is_only_kept_where_another_input_is_read() {
    for (text, topics, expected) in [
        ("A", vec![&[0][..]], false),
        ("A && A.type == 'a'", vec![&[0]], false),
        ("event.type == 'a'", vec![&[0], &[1], &[2]], false),
        ("true", vec![&[0], &[1], &[2]], false),
        ("A && B", vec![&[0, 1]], false),
        ("A && B", vec![&[0], &[1]], true),
        ("A && event.type == 'a'", vec![&[0], &[1], &[2]], true),
    ] {
        assert_eq!(selector(text, &topics).window(), expected.then_some(JOIN_WINDOW), "{text} {topics:?}");
    }
}

#[test]
fn joins_fire_at_the_second_and_at_every_further_event_within_the_window() {
    let mut selector = selector("A && B", &[&[0], &[1]]);
    let verdicts: Vec<_> = [(0, 0), (1, 0), (2, 1), (3, 0), (60_003, 1), (64_000, 1), (64_001, 0), (200_000, 1)]
        .map(|(millis, topic)| selector.select(topic, &record(millis, topic, "{}")))
        .into();
    use Verdict::{Match, NoMatch};
    assert_eq!(verdicts, [NoMatch, NoMatch, Match, Match, Match, NoMatch, Match, NoMatch]);
}

#[test]
fn the_latest_event_of_another_input_is_read() {
    let mut selector = selector("A.data.id == B.data.id", &[&[0], &[1]]);
    let mut judge = |millis, topic, data: &str| selector.select(topic, &record(millis, topic, data));
    assert_eq!(judge(0, 0, "{\"id\":1}"), Verdict::Waiting);
    assert_eq!(judge(1, 1, "{\"id\":2}"), Verdict::NoMatch);
    assert_eq!(judge(2, 1, "{\"id\":1}"), Verdict::Match);
    assert_eq!(judge(3, 0, "{\"id\":3}"), Verdict::NoMatch);
    assert_eq!(judge(4, 1, "{}"), Verdict::Error("there is no B.data.id".into()));
    assert_eq!(judge(70_000, 0, "{\"id\":1}"), Verdict::Waiting);
}

#[test]
fn what_is_observed_after_a_restart_counts() {
    let mut selector = selector("A && B.data.ok", &[&[0], &[1]]);
    selector.observe(1, &record(5, 1, "{\"ok\":true}"));
    assert_eq!(selector.select(0, &record(10, 0, "{}")), Verdict::Match);
}

#[test]
fn two_inputs_on_one_topic_are_both_true() {
    let mut selector = selector("A && B && A.id == B.id", &[&[0, 1]]);
    assert_eq!(selector.select(0, &record(0, 0, "")), Verdict::Match);
}

/// Which of the subscribers share a reading changes nothing that any of them says.
#[test]
fn subscribers_that_share_say_the_same_as_alone() {
    let texts =
        ["event.data.a == 1", "event.data.a.b == 2", "event.data[0] == 3", "has(event.data.a.c)", "A.data.x || true"];
    let conditions = texts.map(|text| Condition::compile(text, &INPUTS).unwrap());
    let readings = Readings::default();
    let mut together = conditions.map(|condition| sharing(condition, &[&[0]], &readings));
    let mut alone = texts.map(|text| selector(text, &[&[0]]));
    for data in
        ["{\"a\":1}", "{\"a\":{\"b\":2}}", "[3]", "{\"a\":{\"b\":2,\"c\":0}}", "3", "", "{\"a\":1", "[3,", "\"x\""]
    {
        let record = record(0, 0, data);
        for (together, alone) in together.iter_mut().zip(&mut alone) {
            assert_eq!(together.select(0, &record), alone.select(0, &record), "{data} {alone:?}");
        }
    }
}

proptest! {
    /// Every condition over names, judged against the rules as they are told.
    #[test]
    fn joins_follow_the_rules(
        steps in prop::collection::vec((0..3usize, 0..40_000u64), 1..40),
        which in 0..6usize,
    ) {
        type Rule = fn(bool, bool, bool) -> bool;
        let (text, rule): (&str, Rule) = [
            ("A || B", (|a, b, _| a || b) as Rule),
            ("A && B", |a, b, _| a && b),
            ("A && !B", |a, b, _| a && !b),
            ("A && B && C", |a, b, c| a && b && c),
            ("(A || B) && C", |a, b, c| (a || b) && c),
            ("A ? B : C", |a, b, c| if a { b } else { c }),
        ][which];
        let mut selector = selector(text, &[&[0], &[1], &[2]]);
        let (mut last, mut now) = (BTreeMap::new(), 0);
        for (topic, pause) in steps {
            now += pause;
            last.insert(topic, now);
            let set = |input: usize| last.get(&input).is_some_and(|at| now - at <= 60_000);
            let expected = if rule(set(0), set(1), set(2)) { Verdict::Match } else { Verdict::NoMatch };
            prop_assert_eq!(selector.select(topic, &record(now, topic, "{}")), expected);
        }
    }
}
