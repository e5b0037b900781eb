use std::time::Duration;

use proptest::prelude::*;

use super::{bytes, duration};
use crate::problem::FieldPath;

fn path() -> FieldPath {
    FieldPath::spec().key("delivery").key("timeout")
}

fn time(text: &str) -> Result<Duration, String> {
    duration(text, &path()).map_err(|problem| problem.to_string())
}

fn size(text: &str) -> Result<u64, String> {
    bytes(text, &path()).map_err(|problem| problem.to_string())
}

#[test]
fn durations_as_go_writes_them() {
    let cases = [
        ("0", Duration::ZERO),
        ("0s", Duration::ZERO),
        ("300ms", Duration::from_millis(300)),
        ("10us", Duration::from_micros(10)),
        ("10µs", Duration::from_micros(10)),
        ("10μs", Duration::from_micros(10)),
        ("7ns", Duration::from_nanos(7)),
        ("1h2m3.5s", Duration::from_millis(3_723_500)),
        ("1.5h", Duration::from_secs(5400)),
        (".5s", Duration::from_millis(500)),
        ("5.s", Duration::from_secs(5)),
        ("+2m", Duration::from_secs(120)),
        ("1m1m", Duration::from_secs(120)),
        ("2562047h47m16.854775807s", Duration::from_nanos(i64::MAX as u64)),
    ];
    for (text, expected) in cases {
        assert_eq!(time(text), Ok(expected), "{text}");
    }
}

#[test]
fn durations_as_iso_8601_writes_them() {
    let cases = [
        ("PT0.2S", Duration::from_millis(200)),
        ("PT0,2S", Duration::from_millis(200)),
        ("PT30S", Duration::from_secs(30)),
        ("PT1M", Duration::from_secs(60)),
        ("P1DT2H", Duration::from_secs(26 * 3600)),
        ("P1W", Duration::from_secs(7 * 86400)),
        ("P1D", Duration::from_secs(86400)),
        ("PT1.5H", Duration::from_secs(5400)),
        ("PT0S", Duration::ZERO),
    ];
    for (text, expected) in cases {
        assert_eq!(time(text), Ok(expected), "{text}");
    }
}

#[test]
fn what_is_no_duration_says_why() {
    let cases = [
        ("", "\"\" is no duration"),
        ("soon", "\"soon\" is no duration; write it as `1m30s`"),
        ("1d", "is no duration"),
        ("1m s", "is no duration"),
        (" 1s", "is no duration"),
        ("s", "is no duration"),
        ("30", "\"30\" has no unit; write `30s` for seconds"),
        ("-5s", "is negative"),
        ("PT-5S", "is negative"),
        ("--5s", "is no duration"),
        ("P", "is no duration"),
        ("PT", "is no duration"),
        ("P1DT", "is no duration"),
        ("P1H", "is no duration"),
        ("PT1S1M", "is no duration"),
        ("PT1.5H30M", "is no duration"),
        ("PT5", "has no unit"),
        ("P1M", "count days"),
        ("P1Y", "count days"),
        ("2562047h47m16.854775808s", "longer than 292 years"),
        ("P99999999999999999999999999999999999999999999D", "longer than 292 years"),
    ];
    for (text, expected) in cases {
        let problem = time(text).unwrap_err();
        assert!(problem.starts_with("spec.delivery.timeout: ") && problem.contains(expected), "{text}: {problem}");
    }
}

#[test]
fn sizes_as_kubernetes_writes_them() {
    let cases = [
        ("0", 0),
        ("1048576", 1 << 20),
        ("64Mi", 64 << 20),
        ("1Gi", 1 << 30),
        ("1M", 1_000_000),
        ("1k", 1000),
        ("1e6", 1_000_000),
        ("1E6", 1_000_000),
        ("1E", 1_000_000_000_000_000_000),
        ("1.5Ki", 1536),
        ("1.5e3", 1500),
        ("15e-1", 2),
        ("1e-99999", 1),
        ("0e99999", 0),
        ("0.1Gi", 107_374_183),
        ("+5", 5),
        ("18446744073709551615", u64::MAX),
    ];
    for (text, expected) in cases {
        assert_eq!(size(text), Ok(expected), "{text}");
    }
}

#[test]
fn what_is_no_size_says_why() {
    let cases = [
        ("", "is no size"),
        ("big", "is no size; write it as `64Mi`"),
        ("64mb", "is no size"),
        ("64 Mi", "is no size"),
        ("64MiB", "is no size"),
        ("64m", "write `64M` or `64Mi`"),
        ("-1Ki", "is negative"),
        ("18446744073709551616", "more than 2^64"),
        ("16Ei", "more than 2^64"),
        ("1e99999", "more than 2^64"),
        ("1e", "is no size"),
    ];
    for (text, expected) in cases {
        let problem = size(text).unwrap_err();
        assert!(problem.contains(expected), "{text}: {problem}");
    }
}

#[test]
fn a_size_may_be_a_plain_number() {
    let spec = |json| serde_json::from_value::<crate::events::EventBusSpec>(json).unwrap().max_event_bytes;
    assert_eq!(spec(serde_json::json!({"maxEventBytes": 1_048_576})).as_deref(), Some("1048576"));
    assert_eq!(spec(serde_json::json!({"maxEventBytes": "1Mi"})).as_deref(), Some("1Mi"));
    assert_eq!(spec(serde_json::json!({})), None);
    assert_eq!(size(&spec(serde_json::json!({"maxEventBytes": 1e6})).unwrap()), Ok(1_000_000));
}

proptest! {
    #[test]
    fn no_text_panics(text in "\\PC{0,40}") {
        duration(&text, &path()).ok();
        bytes(&text, &path()).ok();
    }

    #[test]
    fn almost_valid_text_does_not_panic(text in "[-+]?P?([0-9]{0,40}[.,]?[0-9]{0,40}[TWDHMSKEGeinumsh]{0,2}){0,4}") {
        duration(&text, &path()).ok();
        bytes(&text, &path()).ok();
    }

    #[test]
    fn go_durations_read_back(h in 0u64..1000, m in 0u64..60, s in 0u64..60, ms in 0u64..1000) {
        let expected = Duration::from_millis(((h * 60 + m) * 60 + s) * 1000 + ms);
        prop_assert_eq!(time(&format!("{h}h{m}m{s}s{ms}ms")), Ok(expected));
        prop_assert_eq!(time(&format!("{h}h{m}m{s}.{ms:03}s")), Ok(expected));
        prop_assert_eq!(time(&format!("PT{h}H{m}M{s}.{ms:03}S")), Ok(expected));
    }

    #[test]
    fn sizes_read_back(n in any::<u32>()) {
        prop_assert_eq!(size(&n.to_string()), Ok(u64::from(n)));
        prop_assert_eq!(size(&format!("{n}Ki")), Ok(u64::from(n) << 10));
        prop_assert_eq!(size(&format!("{n}e3")), Ok(u64::from(n) * 1000));
    }
}
