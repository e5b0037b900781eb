//! The README's first command does what the README says.

use std::fs;

use evoke_tests::SOON;
use evoke_tests::case::Verdict;
use evoke_tests::evoke::{Home, binary, checkout};
use evoke_tests::process::Program;

/// The README's line that starts with `start`.
fn readme_line(start: &str) -> String {
    let readme = fs::read_to_string(checkout().join("README.md")).unwrap();
    readme
        .lines()
        .find(|line| line.starts_with(start))
        .unwrap_or_else(|| panic!("no line starts with {start}"))
        .to_owned()
}

pub(crate) async fn the_readme_shows_an_event_go_through() -> Verdict {
    assert!(readme_line("cargo run").ends_with("run examples/quickstart"));
    let home = Home::new();
    let quickstart = home.evoke().paths([checkout().join("examples/quickstart")]);
    let mut evoke = quickstart.args(["--set", "EventSource/shop:cron.tick.schedule=\"@every 1s\""]).ready().await;
    evoke.log().wait_for(&["got io.evoke.cron", "the shop is open"], SOON).await;
    let curl = readme_line("curl").replace("http://127.0.0.1:8080", &evoke.webhook(""));
    let send = async |command: String| {
        let (status, log) = Program::new("curl", "sh").args(["-c", &command]).output(SOON).await;
        assert!(status.success() && log.count("202") > 0, "{command}: {}", log.text());
    };
    send(curl.clone()).await;
    evoke.log().wait_for(&["got order.created", "\"amount\": 250"], SOON).await;
    send(curl.replace("250", "50")).await;
    send(curl.replace("ada", "nobody")).await;
    evoke.log().wait_for(&["rejected: order.created", "400"], SOON).await;
    evoke.stop().await;
    assert_eq!(evoke.log().count("got order.created"), 1, "an order of 50 does not meet the condition");
    let printed = evoke.log().text();
    for line in [
        ["bus ", "default.default", "embedded"],
        ["source ", "default/shop/orders", "/default/shop/orders"],
        ["source ", "default/shop/tick", "cron @every 1s"],
        [
            "trigger ",
            "default/large-orders/notify",
            "orders && orders.data.amount > 100.0 -> function default/notify, else topic",
        ],
        ["trigger ", "default/watch/heartbeat", "tick -> function default/notify"],
        ["function ", "default/notify", "http://notify.default.svc.cluster.local: python3 notify.py"],
        ["admin ", "http://127.0.0.1:", "readyz"],
    ] {
        let is_there = printed.lines().any(|printed| line.iter().all(|part| printed.contains(part)));
        assert!(is_there, "{line:?} is not in:\n{printed}");
    }
    Ok(())
}

pub(crate) async fn send_posts_an_event() -> Verdict {
    let home = Home::new();
    let evoke = home.evoke().paths([checkout().join("examples/quickstart")]).ready().await;
    let url = evoke.webhook("/default/shop/orders");
    let (code, text) =
        evoke_tests::evoke::command(["send", &url, "--type", "order.created", "--data", r#"{"amount": 251}"#]).await;
    assert_eq!(code, Some(0), "{text}");
    evoke.log().wait_for(&["got order.created", "251"], SOON).await;
    let file = home.path().join("data.json");
    fs::write(&file, r#"{"amount": 252}"#).unwrap();
    let at_file = format!("@{}", file.display());
    let (code, text) = evoke_tests::evoke::command(["send", &url, "--type", "order.created", "--data", &at_file]).await;
    assert_eq!(code, Some(0), "{text}");
    evoke.log().wait_for(&["got order.created", "252"], SOON).await;
    let from_stdin =
        format!("echo '{{\"amount\": 253}}' | {} send {url} --type order.created --data @-", binary().display());
    let (status, log) = Program::new("sh", "sh").args(["-c", &from_stdin]).output(SOON).await;
    assert!(status.success(), "{}", log.text());
    evoke.log().wait_for(&["got order.created", "253"], SOON).await;
    let (code, text) =
        evoke_tests::evoke::command(["send", &evoke.webhook("/nowhere"), "--type", "t", "--data", "x"]).await;
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("404"), "{text}");
    Ok(())
}
