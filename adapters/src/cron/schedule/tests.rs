use chrono_tz::Tz;
use proptest::prelude::*;

use super::*;

const BERLIN: Tz = Tz::Europe__Berlin;

fn utc(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

fn schedule(text: &str, zone: Tz) -> Schedule {
    Schedule::parse(text, zone).unwrap_or_else(|invalid| panic!("{text}: {invalid:?}"))
}

/// The first times after `from`, as RFC 3339.
fn times(text: &str, zone: Tz, from: &str, count: usize) -> Vec<String> {
    let schedule = schedule(text, zone);
    std::iter::successors(schedule.after(utc(from)), |time| schedule.after(*time))
        .take(count)
        .map(|time| time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true))
        .collect()
}

#[test]
fn the_forms() {
    let from = "2026-11-23T10:20:30.5Z";
    for (text, expected) in [
        ("* * * * *", "2026-11-23T10:21:00Z"),
        ("0 * * * * *", "2026-11-23T10:21:00Z"),
        ("*/20 * * * * *", "2026-11-23T10:20:40Z"),
        ("30 20 10 * * *", "2026-11-24T10:20:30Z"),
        ("0/15 * * * *", "2026-11-23T10:30:00Z"),
        ("0 9 * * MON-FRI", "2026-11-24T09:00:00Z"),
        ("0 9 * * 7", "2026-11-29T09:00:00Z"),
        ("0 0 29 2 ?", "2028-02-29T00:00:00Z"),
        ("0 0 13 * 5", "2026-11-27T00:00:00Z"),
        ("0 0 L * *", "2026-11-30T00:00:00Z"),
        ("@every 2s", "2026-11-23T10:20:32Z"),
        ("@every 1h30m", "2026-11-23T10:30:00Z"),
        ("@every PT1M", "2026-11-23T10:21:00Z"),
        ("@hourly", "2026-11-23T11:00:00Z"),
        ("@daily", "2026-11-24T00:00:00Z"),
        ("@Midnight", "2026-11-24T00:00:00Z"),
        ("@weekly", "2026-11-29T00:00:00Z"),
        ("@monthly", "2026-12-01T00:00:00Z"),
        ("@yearly", "2027-01-01T00:00:00Z"),
        (" @annually ", "2027-01-01T00:00:00Z"),
    ] {
        assert_eq!(times(text, Tz::UTC, from, 1), [expected], "{text}");
    }
}

#[test]
fn a_star_beside_the_other_field_of_days_leaves_it_to_that() {
    let from = "2026-11-23T10:20:30Z";
    let mondays = ["2026-11-30T00:00:00Z", "2026-12-07T00:00:00Z"];
    for days in ["*", "?", "*/1", "?/1", "/1", "*/01", "*,15", "*/1,15", "15,?"] {
        assert_eq!(times(&format!("0 0 {days} * MON"), Tz::UTC, from, 2), mondays, "{days}");
        let fifteenths = times(&format!("0 0 15 * {}", days.replace("15", "MON")), Tz::UTC, from, 2);
        assert_eq!(fifteenths, ["2026-12-15T00:00:00Z", "2027-01-15T00:00:00Z"], "{days}");
    }
    for both in ["0 0 * * *", "0 0 */1 * */1", "0 0 ? * +*", "0 0 /1 * +*/1"] {
        assert_eq!(times(both, Tz::UTC, from, 2), ["2026-11-24T00:00:00Z", "2026-11-25T00:00:00Z"], "{both}");
    }
    // With a larger step it leaves days out, and either field is enough.
    let expected = ["2026-11-25T00:00:00Z", "2026-11-27T00:00:00Z", "2026-11-29T00:00:00Z", "2026-11-30T00:00:00Z"];
    assert_eq!(times("0 0 */2 * MON", Tz::UTC, from, 4), expected);
    // What is beside it in a list has to be right all the same.
    for text in ["0 0 *,32 * MON", "0 0 15 * */1,8", "0 0 *,x * *", "0 0 */1/1 * MON"] {
        assert!(Schedule::parse(text, Tz::UTC).unwrap_err().message.contains(" is no "), "{text}");
    }
}

#[test]
fn the_steps_of_a_weekday_end_with_saturday() {
    let from = "2026-11-23T10:20:30Z";
    for (weekday, expected) in [
        ("1/2", ["2026-11-25", "2026-11-27", "2026-11-30"]),
        ("MON/2", ["2026-11-25", "2026-11-27", "2026-11-30"]),
        ("mon/2", ["2026-11-25", "2026-11-27", "2026-11-30"]),
        ("3/4", ["2026-11-25", "2026-12-02", "2026-12-09"]),
        ("6/1", ["2026-11-28", "2026-12-05", "2026-12-12"]),
        ("TUE,FRI/2", ["2026-11-24", "2026-11-27", "2026-12-01"]),
        ("0/3", ["2026-11-25", "2026-11-28", "2026-11-29"]),
        ("SUN/6", ["2026-11-28", "2026-11-29", "2026-12-05"]),
        ("*/3", ["2026-11-25", "2026-11-28", "2026-11-29"]),
        ("1-5/2", ["2026-11-25", "2026-11-27", "2026-11-30"]),
        ("7", ["2026-11-29", "2026-12-06", "2026-12-13"]),
    ] {
        let days = expected.map(|day| format!("{day}T00:00:00Z"));
        assert_eq!(times(&format!("0 0 * * {weekday}"), Tz::UTC, from, 3), days, "{weekday}");
    }
    let expected = ["2026-12-02T00:00:00Z", "2026-12-04T00:00:00Z", "2026-12-07T00:00:00Z"];
    assert_eq!(times("0 0 1-7 * +MON/2", Tz::UTC, from, 3), expected);
    assert_eq!(Schedule::parse("0 0 * * MON/0", Tz::UTC).unwrap_err().message, "\"MON/0\" is no weekday");
}

#[test]
fn a_question_mark_is_a_star_in_every_field() {
    for (text, star) in [
        ("? * * * * *", "* * * * * *"),
        ("0 ? * * * *", "0 * * * * *"),
        ("?/20 ? ? ? ? ?", "*/20 * * * * *"),
        ("0 ? * * *", "0 * * * *"),
        ("0 0 1 ? *", "0 0 1 * *"),
        ("?/30 2 * * *", "*/30 2 * * *"),
    ] {
        assert_eq!(schedule(text, BERLIN), schedule(star, BERLIN), "{text}");
    }
}

#[test]
fn the_clock_of_a_zone() {
    assert_eq!(times("0 9 * * *", BERLIN, "2026-11-23T10:00:00Z", 1), ["2026-11-24T08:00:00Z"]);
    assert_eq!(times("0 9 * * *", Tz::Asia__Tokyo, "2026-11-23T10:00:00Z", 1), ["2026-11-24T00:00:00Z"]);
    assert_eq!(times("0 9 * * *", Tz::Asia__Kolkata, "2026-11-23T10:00:00Z", 1), ["2026-11-24T03:30:00Z"]);
}

#[test]
fn what_is_wrong_is_named() {
    for (text, expected) in [
        ("", "the schedule is empty"),
        ("* * *", "\"* * *\" has 3 fields"),
        ("* * * * * * *", "\"* * * * * * *\" has 7 fields"),
        ("61 * * * *", "\"61\" is no minute"),
        ("0 24 * * *", "\"24\" is no hour"),
        ("0 0 0 * *", "\"0\" is no day of the month"),
        ("0 0 * 13 *", "\"13\" is no month"),
        ("0 0 * * MONDAY", "\"MONDAY\" is no weekday"),
        ("99 0 0 * * *", "\"99\" is no second"),
        ("*/0 * * * *", "\"*/0\" is no minute"),
        ("ü * * * *", "\"ü\" is no minute"),
        ("@reboot", "\"@reboot\" is no schedule"),
        ("@daily 5", "\"@daily 5\" is no schedule"),
        ("@every", "@every: \"\" is no duration"),
        ("@every 500ms", "@every 500ms: a schedule counts whole seconds, at least one"),
        ("@every 0s", "@every 0s: a schedule counts whole seconds, at least one"),
        ("@every 2000000h", "@every 2000000h: never fires"),
    ] {
        let invalid = Schedule::parse(text, Tz::UTC).unwrap_err();
        assert_eq!(invalid.message, expected, "{text}");
        assert!(!invalid.hint.is_empty());
    }
}

#[test]
fn what_never_fires_is_refused_at_once() {
    let since = std::time::Instant::now();
    for text in ["0 0 30 2 *", "0 0 31 4,6,9,11 *", "0 0 0 31 FEB ?", "0 0 30 2 +1"] {
        let invalid = Schedule::parse(text, Tz::UTC).unwrap_err();
        assert!(invalid.message.contains("never fires: there is no such day"), "{text}: {invalid:?}");
    }
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
    assert_eq!(times("0 0 29 2 +1", Tz::UTC, "2026-01-01T00:00:00Z", 1), ["2044-02-29T00:00:00Z"]);
    assert_eq!(times("0 0 30 2 1", Tz::UTC, "2026-01-01T00:00:00Z", 1), ["2026-02-02T00:00:00Z"]);
}

// Berlin goes from 02:00 (+1) to 03:00 (+2) on 2026-03-29 and from 03:00 (+2) to 02:00 (+1) on 2026-10-25, both at 01:00 UTC.

#[test]
fn a_named_time_in_a_gap_fires_at_its_end() {
    let from = "2026-03-28T12:00:00Z";
    let expected = ["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"];
    assert_eq!(times("30 2 * * *", BERLIN, from, 2), expected);
    let expected = ["2026-03-28T13:30:00Z", "2026-03-29T01:00:00Z", "2026-03-29T12:30:00Z", "2026-03-30T00:30:00Z"];
    assert_eq!(times("30 2,14 * * *", BERLIN, from, 4), expected);
    // Several that the gap swallowed, and one at its end, are one.
    assert_eq!(times("0,30 2,3 * * *", BERLIN, from, 2), ["2026-03-29T01:00:00Z", "2026-03-29T01:30:00Z"]);
}

#[test]
fn a_named_time_that_happens_twice_fires_at_the_earlier() {
    let from = "2026-10-24T12:00:00Z";
    assert_eq!(times("30 2 * * *", BERLIN, from, 2), ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]);
    assert_eq!(
        times("0,30 2 * * *", BERLIN, from, 3),
        ["2026-10-25T00:00:00Z", "2026-10-25T00:30:00Z", "2026-10-26T01:00:00Z"]
    );
    // From within the second half as well.
    assert_eq!(times("30 2 * * *", BERLIN, "2026-10-25T01:10:00Z", 1), ["2026-10-26T01:30:00Z"]);
}

#[test]
fn a_rhythm_follows_the_time_that_passes() {
    let expected = ["2026-03-29T00:30:00Z", "2026-03-29T01:00:00Z", "2026-03-29T01:30:00Z"];
    assert_eq!(times("*/30 * * * *", BERLIN, "2026-03-29T00:00:00Z", 3), expected);
    assert_eq!(
        times("*/30 * * * *", BERLIN, "2026-10-24T23:45:00Z", 5),
        [
            "2026-10-25T00:00:00Z",
            "2026-10-25T00:30:00Z",
            "2026-10-25T01:00:00Z",
            "2026-10-25T01:30:00Z",
            "2026-10-25T02:00:00Z"
        ]
    );
    // Nothing in the gap, and both times of what happens twice.
    assert_eq!(times("*/30 2 * * *", BERLIN, "2026-03-28T12:00:00Z", 1), ["2026-03-30T00:00:00Z"]);
    assert_eq!(
        times("*/30 2 * * *", BERLIN, "2026-10-24T12:00:00Z", 4),
        ["2026-10-25T00:00:00Z", "2026-10-25T00:30:00Z", "2026-10-25T01:00:00Z", "2026-10-25T01:30:00Z"]
    );
}

#[test]
fn a_period_knows_no_zones() {
    let expected = ["2026-03-29T00:00:00Z", "2026-03-29T02:00:00Z", "2026-03-29T04:00:00Z"];
    assert_eq!(times("@every 2h", BERLIN, "2026-03-28T22:00:00Z", 3), expected);
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "[ -~]{0,30}") {
        if let Ok(schedule) = Schedule::parse(&text, Tz::UTC) {
            schedule.after(utc("2026-11-23T10:00:00Z"));
        }
    }

    /// Over a clock change, the times go forward, and starting in between misses none of them.
    #[test]
    fn times_go_forward_wherever_one_starts(
        second in prop::sample::select(vec!["0", "*/20"]),
        minute in prop::sample::select(vec!["*", "0", "5,35", "*/7", "59"]),
        hour in prop::sample::select(vec!["*", "2", "1,2,3", "*/2", "23"]),
        zone in prop::sample::select(vec![BERLIN, Tz::America__New_York, Tz::Australia__Lord_Howe, Tz::Asia__Kathmandu, Tz::America__Sao_Paulo]),
        start in 0i64..(380 * 24 * 60),
        ahead in 0i64..7200,
    ) {
        let schedule = schedule(&format!("{second} {minute} {hour} * * *"), zone);
        let from = utc("2025-12-30T00:00:00Z") + TimeDelta::minutes(start);
        let first = schedule.after(from).unwrap();
        prop_assert!(first > from);
        let between = from + TimeDelta::seconds(ahead);
        let from_between = schedule.after(between).unwrap();
        prop_assert!(from_between > between);
        if between < first {
            prop_assert_eq!(from_between, first);
        } else {
            prop_assert!(from_between > first);
        }
    }
}
