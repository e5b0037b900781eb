//! Functions that do not end when evoke does: the drain has a deadline, whatever time their manifests give them.

use evoke_tests::SOON;
use evoke_tests::case::Verdict;
use evoke_tests::evoke::Home;
use evoke_tests::manifests::{objects, python_with_env, source, trigger};

use super::functions::{PRELUDE, gone, pids_of, send};

/// A function that says that it was asked to end, and does not. It takes `TAKES` seconds for an event.
const PROGRAM: &str = r#"
def say(text):
    os.write(1, f"{text}\n".encode())

def on_event(h, body):
    say(f"begun {h.headers['ce-id']}")
    time.sleep(float(os.environ["TAKES"]))
    say(f"finished {h.headers['ce-id']}"); h.answer(200)

signal.signal(signal.SIGTERM, lambda *_: say("asked to end"))
serve()
"#;

/// A Function that may take two minutes to end.
fn deaf(name: &str, takes: &str) -> String {
    let function = python_with_env(name, &["f.py"], &[("TAKES", takes)]);
    let given = "template:\n      terminationGracePeriodSeconds: 120\n";
    let patient = function.replace("template:\n", given);
    assert!(patient.contains(given), "{function}");
    patient
}

/// A source, one function that gets its events, and one that gets none.
fn pipeline(takes: &str) -> String {
    let spec = "inputs: {it: {eventSource: web, event: in}}\n\
                subscribers: [{name: f, condition: it, sink: {ref: {kind: Function, name: busy}}, delivery: {timeout: PT10M}}]";
    objects(&[source("web", "webhook: {in: {}}"), trigger("t", spec), deaf("busy", takes), deaf("idle", takes)])
}

pub(crate) async fn those_that_ignore_sigterm_are_killed_by_the_deadline() -> Verdict {
    let home = Home::with(pipeline("1000"));
    home.write("f.py", format!("{PRELUDE}\n{PROGRAM}"));
    let mut evoke = home.run().await;
    let pids = [pids_of(&evoke, "busy", 1).await, pids_of(&evoke, "idle", 1).await].concat();
    send(&evoke, "1").await;
    evoke.log().wait_for(&["default/busy | begun 1"], SOON).await;
    evoke.stop_short().await;
    gone(&pids).await;
    let log = evoke.log().text();
    let place = |part: &str| log.find(part).unwrap_or_else(|| panic!("{part} is not in the log"));
    for function in ["default/busy | asked to end", "default/idle | asked to end"] {
        let steps =
            ["draining", "deliveries are cut short", function, "not all that was under way ended in time"].map(place);
        assert!(steps.is_sorted(), "{function}: {steps:?}");
    }
    assert_eq!(evoke.log().count("finished 1"), 0, "it had no time to");

    // What was cut short is delivered again.
    home.write("evoke.yaml", pipeline("0"));
    let mut evoke = home.run().await;
    evoke.log().wait_for(&["default/busy | finished 1"], SOON).await;
    evoke.kill().await;
    Ok(())
}
