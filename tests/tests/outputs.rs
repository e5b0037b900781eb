//! Standard output and standard error that take nothing: what is to be written there is lost, and nothing else.

use std::collections::BTreeSet;

use evoke_tests::SOON;
use evoke_tests::case::Verdict;
use evoke_tests::evoke::Home;
use evoke_tests::http::Sink;
use evoke_tests::ledger::assert_conserved;
use evoke_tests::manifests::{objects, pass, source};

use super::tools::send;

/// What a shell makes of its outputs before it becomes evoke: a disk that is full, and a pipe whose reader goes after one line.
const SHELLS: [[&str; 3]; 2] = [
    ["sh", "-c", r#"exec "$0" "$@" >/dev/full 2>&1"#],
    ["bash", "-c", r#"exec "$0" "$@" > >(head -n 1 >/dev/null) 2>&1"#],
];

pub(crate) async fn a_full_disk_or_a_reader_that_has_gone_ends_nothing() -> Verdict {
    for shell in SHELLS {
        let sink = Sink::start().await;
        let home = Home::with(objects(&[source("web", "webhook: {in: {}}"), pass("t", "web", "in", &sink.url("/"))]));
        let run = home.evoke().args(["-v"]).below(shell);
        let mut evoke = run.clone().ready().await;
        let sent: BTreeSet<String> = (0..40).map(|n| n.to_string()).collect();
        for id in &sent {
            send(&evoke, id).await;
        }
        sink.wait_all(&sent, SOON).await;
        // What is wrong with a manifest is printed past the log.
        home.write("broken.yaml", "apiVersion: [\n");
        evoke.metric("evoke_reload_failed", &[], 1.0, SOON).await;
        evoke.stop().await;
        assert_eq!(evoke.log().text(), "", "{shell:?}");

        let (status, _) = run.output(SOON).await;
        assert_eq!(status.code(), Some(1), "{shell:?}: it says in vain why it does not start");
        home.remove("broken.yaml");
        let mut evoke = home.run().await;
        send(&evoke, "after").await;
        sink.wait_all(&["after".to_owned()].into(), SOON).await;
        evoke.stop().await;
        let sent: BTreeSet<String> = sent.into_iter().chain(["after".to_owned()]).collect();
        assert_conserved(&sent, [&sink.delivered()], 0);
    }
    Ok(())
}
