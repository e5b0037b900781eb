use evoke_api::credentials::{Secret, ValueFrom, Vault};
use evoke_api::names::ObjectName;
use serde_json::json;

use super::*;

struct NoVault;

impl Vault for NoVault {
    fn look_up(&self, _: &str, _: &ValueFrom, path: &FieldPath) -> Result<Secret, Problem> {
        Err(Problem::error(path.clone(), "no secrets"))
    }
}

fn planned(spec: Value) -> (Option<CronPlan>, Vec<String>) {
    let origin =
        Origin { event_source: ObjectName::new("ns", "es"), event: "e".into(), attributes: Default::default() };
    let path = FieldPath::spec().key("cron").key("e");
    let mut problems = Vec::new();
    let place = Place { origin: &origin, path: &path, vault: &NoVault };
    let plan = plan(&place, &serde_json::from_value(spec).unwrap(), &mut problems);
    (plan, problems.iter().map(ToString::to_string).collect())
}

#[test]
fn a_schedule_its_zone_and_how_far_back() {
    let (plan, problems) = planned(json!({ "schedule": "0 9 * * *", "timeZone": "Europe/Berlin", "catchUp": "24h" }));
    assert!(problems.is_empty(), "{problems:?}");
    let plan = plan.unwrap();
    assert_eq!(plan.catch_up(), Some(Duration::from_secs(24 * 3600)));
    let same = planned(json!({ "schedule": "CRON_TZ=Europe/Berlin 0 9 * * *", "catchUp": "P1D" })).0.unwrap();
    assert!(plan.schedule == same.schedule && plan.catch_up == same.catch_up);
}

#[test]
fn a_mark_names_the_schedule_however_it_is_written() {
    for (spec, expected) in [
        (json!({ "schedule": "0 9 * * *" }), "0 9 * * * UTC"),
        (json!({ "schedule": " 0  9 * * * ", "timeZone": "Europe/Berlin" }), "0 9 * * * Europe/Berlin"),
        (json!({ "schedule": "CRON_TZ=Europe/Berlin 0 9 * * *" }), "0 9 * * * Europe/Berlin"),
        (json!({ "schedule": "TZ=Asia/Tokyo @daily" }), "@daily Asia/Tokyo"),
        (json!({ "schedule": "@every 1m30s" }), "@every 90s"),
    ] {
        assert_eq!(&*planned(spec).0.unwrap().marked(), expected);
    }
}

#[test]
fn what_is_wrong_is_said_where_it_is() {
    for (spec, expected) in [
        (
            json!({ "schedule": "0 0 30 2 *" }),
            "spec.cron.e.schedule: \"0 0 30 2 *\" never fires: there is no such day; ",
        ),
        (json!({ "schedule": "0 25 * * *" }), "spec.cron.e.schedule: \"25\" is no hour; values are 0-23"),
        (
            json!({ "schedule": "@daily", "timeZone": "europe/berlin" }),
            "spec.cron.e.timeZone: \"europe/berlin\" is no time zone; did you mean Europe/Berlin?",
        ),
        (json!({ "schedule": "TZ=Mars * * * * *" }), "spec.cron.e.schedule: \"Mars\" is no time zone; write a name"),
        (
            json!({ "schedule": "TZ=UTC @daily", "timeZone": "UTC" }),
            "spec.cron.e.timeZone: the schedule names a time zone as well; keep `timeZone`",
        ),
        (json!({ "schedule": "@daily", "catchUp": "soon" }), "spec.cron.e.catchUp: \"soon\" is no duration"),
    ] {
        let (plan, problems) = planned(spec);
        assert!(plan.is_none());
        assert!(problems.len() == 1 && problems[0].starts_with(expected), "{expected}: {problems:?}");
    }
}

#[test]
fn a_zone_of_a_period_is_a_warning() {
    let (plan, problems) = planned(json!({ "schedule": "@every 2s", "timeZone": "Asia/Tokyo" }));
    assert!(plan.is_some());
    assert!(problems[0].starts_with("spec.cron.e.timeZone: a time zone has no effect on `@every`"), "{problems:?}");
}
