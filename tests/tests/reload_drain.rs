//! A reload that waits for deliveries: it says so, and in the middle of it evoke ends with all of them finished and recorded.

use evoke_tests::SOON;
use evoke_tests::case::Verdict;
use evoke_tests::evoke::{Evoke, Home};
use evoke_tests::http::{Answer, Received, Sink};
use evoke_tests::ledger::count;
use evoke_tests::manifests::{objects, pass, python, source};
use evoke_tests::process::Signal;
use tokio::sync::watch;

use super::tools::send;

const WEB: &str = "webhook: {in: {}}";

/// A function that says when it starts.
const FUNCTION: &str = r#"
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
print("started")
ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), BaseHTTPRequestHandler).serve_forever()
"#;

/// A sink that takes nothing before it is told to.
async fn waiting_sink() -> (watch::Sender<bool>, Sink) {
    let (tell, told) = watch::channel(false);
    let answer = move |_: &Received| Answer::When(told.clone(), Box::new(Answer::Status(200)));
    (tell, Sink::scripted(answer).await)
}

/// Ends evoke while its reload waits for a delivery, which is answered only then.
async fn end(evoke: &mut Evoke, tell: &watch::Sender<bool>) {
    evoke.signal(Signal::TERM);
    evoke.log().wait_for(&["draining"], SOON).await;
    assert!(evoke.is_running(), "it waits for what is under way");
    tell.send_replace(true);
    let status = evoke.ended(SOON).await;
    assert_eq!(status.code(), Some(0), "evoke did not drain cleanly");
    for said in ["cut short", "has not ended in time", "is dropped"] {
        assert_eq!(evoke.log().count(said), 0, "{said}");
    }
    assert_eq!(evoke.log().count("drained"), 1);
}

/// The next start delivers what comes then, and nothing again.
async fn goes_on(home: &Home, sink: &Sink, path: &str) {
    let mut evoke = home.run().await;
    send(&evoke, "2").await;
    sink.wait_delivered(2, SOON).await;
    evoke.stop().await;
    assert_eq!(sink.attempts(), count(["1", "2"]));
    assert_eq!(sink.received()[1].path, path);
}

pub(crate) async fn sigterm_in_a_reload_finishes_what_is_under_way() -> Verdict {
    let (tell, sink) = waiting_sink().await;
    let to = |path: &str| objects(&[source("web", WEB), pass("t", "web", "in", &sink.url(path))]);
    let home = Home::with(to("/before"));
    home.write("late.py", FUNCTION);
    let mut evoke = home.run().await;
    send(&evoke, "1").await;
    sink.wait(1, SOON).await;
    // A reload starts functions before it changes Triggers, so that the new one says how far it is.
    home.write("evoke.yaml", objects(&[to("/after"), python("late", "late.py")]));
    evoke.log().wait_for(&["default/late | started"], SOON).await;
    end(&mut evoke, &tell).await;
    goes_on(&home, &sink, "/after").await;
    Ok(())
}

pub(crate) async fn a_reload_that_waits_says_for_what() -> Verdict {
    let (tell, sink) = waiting_sink().await;
    let to = |path: &str| objects(&[source("web", WEB), pass("t", "web", "in", &sink.url(path))]);
    let home = Home::with(to("/before"));
    let mut evoke = home.run().await;
    send(&evoke, "1").await;
    sink.wait(1, SOON).await;
    home.write("evoke.yaml", to("/after"));
    evoke.waits_for(&["evoke reload: changing trigger default/t"], SOON).await;
    tell.send_replace(true);
    evoke.ready(SOON).await;
    send(&evoke, "2").await;
    assert_eq!(sink.wait_at("/after", 1, SOON).await[0].id(), "2");
    evoke.stop().await;
    Ok(())
}

pub(crate) async fn sigterm_while_a_trigger_goes_finishes_what_is_under_way() -> Verdict {
    let (tell, sink) = waiting_sink().await;
    let home = Home::with(source("web", WEB));
    let going = objects(&[source("other", WEB), pass("t", "web", "in", &sink.url("/"))]);
    home.write("going.yaml", &going);
    let mut evoke = home.run().await;
    send(&evoke, "1").await;
    sink.wait(1, SOON).await;
    // A reload ends EventSources before Triggers, so that the one which goes says how far it is.
    home.remove("going.yaml");
    evoke.log().wait_for(&["stopped", "event_source=default/other"], SOON).await;
    end(&mut evoke, &tell).await;
    home.write("going.yaml", &going);
    goes_on(&home, &sink, "/").await;
    Ok(())
}
