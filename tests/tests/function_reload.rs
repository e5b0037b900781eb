//! Reload of functions: one that changed is replaced, one that goes finishes and ends, and no other is touched.

use std::time::Duration;

use evoke_tests::case::Verdict;
use evoke_tests::evoke::{Evoke, Home};
use evoke_tests::http::get;
use evoke_tests::ledger::{Counts, assert_conserved, count};
use evoke_tests::load::{Load, Sent};
use evoke_tests::manifests::{objects, python_with_env, source, trigger};
use evoke_tests::{SOON, eventually};

use super::functions::{PRELUDE, gone, pids_of, send};

/// Longer than a Trigger that ends waits for what is under way.
const LONG: Duration = Duration::from_secs(90);
/// How many events a function gets at once, and so how many a replacement may repeat.
const IN_FLIGHT: usize = 8;

/// A function that says which of its rounds it is in. It may take its time for an event, `TAKES` in seconds.
const PROGRAM: &str = r#"
ROUND = " ".join([os.environ["ROUND"], *sys.argv[1:]])

def say(text):
    # In one piece, since several events are under way at once.
    os.write(1, f"{text} in round {ROUND}\n".encode())

def end(*_):
    say("last words"); sys.exit(0)

def on_event(h, body):
    say(f"begun {h.headers['ce-id']}")
    time.sleep(float(os.environ.get("TAKES", "0")))
    say(f"finished {h.headers['ce-id']}"); h.answer(200)

signal.signal(signal.SIGTERM, end)
serve()
"#;

/// A home with the program, a webhook source and these objects.
fn home(more: &[String]) -> Home {
    let home = Home::with(objects(&[&[source("web", "webhook: {in: {}}")][..], more].concat()));
    home.write("f.py", format!("{PRELUDE}\n{PROGRAM}"));
    home
}

/// A Trigger that sends all events to the Function of its name.
fn to(function: &str) -> String {
    let spec = format!(
        "inputs: {{it: {{eventSource: web, event: in}}}}\n\
         subscribers: [{{name: f, condition: it, sink: {{ref: {{kind: Function, name: {function}}}}}, \
         delivery: {{maxInFlight: {IN_FLIGHT}, timeout: PT10M}}}}]"
    );
    trigger(function, &spec)
}

/// How often a function has finished each event, by what it wrote.
fn finished(evoke: &Evoke, function: &str) -> Counts {
    let (log, mark) = (evoke.log().text(), format!("default/{function} | finished "));
    let rests = log.lines().filter_map(|line| line.split_once(&*mark));
    count(rests.filter_map(|(_, rest)| rest.split(' ').next()))
}

pub(crate) async fn one_that_changed_is_replaced_under_load_and_no_other_is() -> Verdict {
    let home = home(&[to("changed"), to("kept"), python_with_env("kept", &["f.py"], &[("ROUND", "1")])]);
    home.write("changed.yaml", python_with_env("changed", &["f.py"], &[("ROUND", "1")]));
    let mut evoke = home.run().await;
    let load = Load::start(&evoke.webhook("/default/web/in"));
    // A variable is another one, then the command.
    for (round, program) in [(1, &["f.py"][..]), (2, &["f.py", "again"])] {
        let says = format!("in round {round}");
        evoke.log().wait_for(&["default/changed | finished ", &says], SOON).await;
        let old = pids_of(&evoke, "changed", round).await;
        home.write("changed.yaml", python_with_env("changed", program, &[("ROUND", "2")]));
        evoke.log().wait_for(&["default/changed | last words ", &says], SOON).await;
        gone(&old).await;
    }
    evoke.log().wait_for(&["default/changed | finished ", "in round 2 again"], SOON).await;
    let Sent { ids, again } = load.end().await;
    eventually("both have finished every event", LONG, async || {
        let is_through = |function| finished(&evoke, function).len() >= ids.len();
        (is_through("changed") && is_through("kept")).then_some(())
    })
    .await;
    let starts = ["changed", "kept"].map(|function| evoke.log().count(&format!("default/{function} | pids ")));
    assert_eq!(starts, [3, 1], "each change is one start");
    assert_eq!(evoke.log().count("default/kept | last words"), 0);
    evoke.stop().await;
    assert_conserved(&ids, [&finished(&evoke, "changed")], 2 * IN_FLIGHT + again);
    assert_conserved(&ids, [&finished(&evoke, "kept")], again);
    Ok(())
}

pub(crate) async fn one_that_goes_with_its_trigger_finishes_and_ends() -> Verdict {
    let home = home(&[to("kept"), python_with_env("kept", &["f.py"], &[("ROUND", "1")])]);
    let going = python_with_env("going", &["f.py"], &[("ROUND", "1"), ("TAKES", "1.5")]);
    let going = objects(&[to("going"), going]);
    home.write("going.yaml", &going);
    let mut evoke = home.run().await;
    send(&evoke, "1").await;
    evoke.log().wait_for(&["default/going | begun 1 "], SOON).await;
    let old = pids_of(&evoke, "going", 1).await;
    home.remove("going.yaml");
    evoke.log().wait_for(&["default/going | last words"], SOON).await;
    gone(&old).await;
    let log = evoke.log().text();
    let place = |part: &str| log.find(part).unwrap_or_else(|| panic!("{part} is not in the log"));
    assert!(place("default/going | finished 1 ") < place("default/going | last words"), "it may finish first");
    eventually("nothing of it is left", SOON, async || {
        let status = get(&evoke.admin("/v1/status")).await.ok()?.text();
        (!status.contains("default/going")).then_some(())
    })
    .await;
    assert_eq!(evoke.metrics().await.sum("evoke_function_up", &[("function", "going")]), 0.0);

    // Its Trigger has recorded where it was, and goes on from there when both come back.
    send(&evoke, "2").await;
    evoke.log().wait_for(&["default/kept | finished 2 "], SOON).await;
    home.write("going.yaml", &going);
    evoke.log().wait_for(&["default/going | finished 2 "], SOON).await;
    evoke.stop().await;
    assert_eq!(finished(&evoke, "going"), count(["1", "2"]));
    assert_eq!(finished(&evoke, "kept"), count(["1", "2"]));
    assert_eq!(evoke.log().count("default/kept | pids "), 1, "it goes on undisturbed");
    Ok(())
}

pub(crate) async fn one_that_goes_while_it_hangs_is_asked_to_end() -> Verdict {
    let home = home(&[]);
    let going = python_with_env("going", &["f.py"], &[("ROUND", "1"), ("TAKES", "1000")]);
    home.write("going.yaml", objects(&[to("going"), going]));
    let mut evoke = home.run().await;
    send(&evoke, "1").await;
    evoke.log().wait_for(&["default/going | begun 1 "], SOON).await;
    let old = pids_of(&evoke, "going", 1).await;
    home.remove("going.yaml");
    // Its Trigger waits as long as it may for the answer that does not come; that is no reason to kill what can end by itself.
    evoke.log().wait_for(&["default/going | last words"], LONG).await;
    gone(&old).await;
    evoke.ready(SOON).await;
    evoke.stop().await;
    Ok(())
}

pub(crate) async fn one_that_is_still_referred_to_does_not_go() -> Verdict {
    for sink in ["ref: {kind: Function, name: f}", "uri: \"http://openfunction.io.svc.cluster.local/default/f\""] {
        let spec = format!(
            "inputs: {{it: {{eventSource: web, event: in}}}}\n\
             subscribers: [{{name: f, condition: it, sink: {{{sink}}}}}]"
        );
        let home = home(&[trigger("t", &spec)]);
        let function = python_with_env("f", &["f.py"], &[("ROUND", "1")]);
        home.write("f.yaml", &function);
        let mut evoke = home.run().await;
        home.remove("f.yaml");
        evoke.metric("evoke_reload_failed", &[], 1.0, SOON).await;
        for said in ["there is no Function default/f", "what runs goes on as it was"] {
            evoke.log().wait_for(&[said], SOON).await;
        }
        evoke.ready(SOON).await;
        send(&evoke, "1").await;
        evoke.log().wait_for(&["default/f | finished 1 "], SOON).await;
        home.write("f.yaml", &function);
        eventually("the manifests are right again", SOON, async || {
            (evoke.metrics().await.sum("evoke_reload_failed", &[]) == 0.0).then_some(())
        })
        .await;
        send(&evoke, "2").await;
        evoke.log().wait_for(&["default/f | finished 2 "], SOON).await;
        assert_eq!((evoke.log().count("default/f | pids "), evoke.log().count("last words")), (1, 0), "{sink}");
        evoke.stop().await;
        assert_eq!(finished(&evoke, "f"), count(["1", "2"]));
    }
    Ok(())
}
