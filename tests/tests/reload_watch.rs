//! What a reload is told of: folders that go and come back, links that are switched, files that credentials are in, and changes
//! that never rest.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

use evoke_tests::case::Verdict;
use evoke_tests::evoke::{Evoke, Home};
use evoke_tests::http::{Sink, request};
use evoke_tests::manifests::{objects, pass, source};
use evoke_tests::{SOON, eventually};
use tokio::task::JoinSet;

/// A pipeline to a path of a sink.
fn to(sink: &Sink, path: &str) -> String {
    objects(&[source("web", "webhook: {in: {}}"), pass("t", "web", "in", &sink.url(path))])
}

/// Waits until events go to a path of a sink.
async fn goes_to(evoke: &Evoke, sink: &Sink, path: &str) {
    eventually(&format!("events go to {path}"), SOON, async || {
        let before = sink.count();
        assert_eq!(evoke.post("/default/web/in", &[], "x").await.status, 202);
        (sink.wait(before + 1, SOON).await.pop()?.path == path).then_some(())
    })
    .await;
}

pub(crate) async fn changes_that_never_rest_hold_up_nothing() -> Verdict {
    let sink = Sink::start().await;
    let home = Home::with(to(&sink, "/a"));
    let mut evoke = home.run().await;
    let folder = home.manifests();
    let mut busy: JoinSet<()> = JoinSet::new();
    busy.spawn(async move {
        let mut often = tokio::time::interval(Duration::from_millis(20));
        loop {
            often.tick().await;
            fs::write(folder.join("function.log"), "line").unwrap();
            fs::write(folder.join("state.json"), "{}").unwrap();
        }
    });
    home.write("evoke.yaml", to(&sink, "/b"));
    goes_to(&evoke, &sink, "/b").await;
    busy.shutdown().await;
    evoke.stop().await;
    Ok(())
}

pub(crate) async fn a_folder_may_go_and_another_one_come() -> Verdict {
    let sink = Sink::start().await;
    let home = Home::with(to(&sink, "/a"));
    let mut evoke = home.run().await;
    let (manifests, old, new) = (home.manifests(), home.path().join("old"), home.path().join("new"));
    fs::remove_dir_all(&manifests).unwrap();
    evoke.metric("evoke_reload_failed", &[], 1.0, SOON).await;
    goes_to(&evoke, &sink, "/a").await;
    home.write("evoke.yaml", to(&sink, "/b"));
    goes_to(&evoke, &sink, "/b").await;
    fs::create_dir(&new).unwrap();
    fs::write(new.join("evoke.yaml"), to(&sink, "/c")).unwrap();
    fs::rename(&manifests, old).unwrap();
    fs::rename(new, &manifests).unwrap();
    goes_to(&evoke, &sink, "/c").await;
    home.write("evoke.yaml", to(&sink, "/d"));
    goes_to(&evoke, &sink, "/d").await;
    evoke.stop().await;
    Ok(())
}

pub(crate) async fn links_are_followed_where_they_lead_now() -> Verdict {
    let sink = Sink::start().await;
    let home = Home::new();
    let (manifests, current) = (home.manifests(), home.path().join("current"));
    // As Kubernetes mounts a ConfigMap: a manifest is a link into a folder that is itself a link, which is switched.
    for (version, path) in [("..1", "/1"), ("..2", "/2")] {
        fs::create_dir(manifests.join(version)).unwrap();
        fs::write(manifests.join(version).join("evoke.yaml"), to(&sink, path)).unwrap();
    }
    symlink("..1", manifests.join("..data")).unwrap();
    symlink("..data/evoke.yaml", manifests.join("evoke.yaml")).unwrap();
    symlink(&manifests, &current).unwrap();
    let mut evoke = home.evoke().paths([&current]).ready().await;
    goes_to(&evoke, &sink, "/1").await;
    symlink("..2", manifests.join("..data_tmp")).unwrap();
    fs::rename(manifests.join("..data_tmp"), manifests.join("..data")).unwrap();
    fs::remove_dir_all(manifests.join("..1")).unwrap();
    goes_to(&evoke, &sink, "/2").await;

    let (next, link) = (home.path().join("next"), home.path().join("link"));
    fs::create_dir(&next).unwrap();
    fs::write(next.join("evoke.yaml"), to(&sink, "/3")).unwrap();
    symlink(&next, &link).unwrap();
    fs::rename(link, current).unwrap();
    goes_to(&evoke, &sink, "/3").await;
    evoke.stop().await;
    Ok(())
}

pub(crate) async fn a_credential_in_a_file_is_read_again() -> Verdict {
    let sink = Sink::start().await;
    // Beside the manifests, where only this file is of concern.
    let web = source("web", "webhook: {in: {auth: {bearerTokenFrom: {file: ../token}}}}");
    let home = Home::with(objects(&[web, pass("t", "web", "in", &sink.url("/"))]));
    let file = home.path().join("token");
    fs::write(&file, "one\n").unwrap();
    let mut evoke = home.run().await;
    let url = evoke.webhook("/default/web/in");
    let lets_in = async |token: &'static str| {
        eventually(&format!("token {token} lets in"), SOON, async || {
            let authorization = format!("Bearer {token}");
            let answer = request("POST", &url, &[("authorization", &*authorization)], token).await.ok()?;
            (answer.status == 202).then_some(())
        })
        .await;
    };
    lets_in("one").await;
    fs::write(&file, "two\n").unwrap();
    lets_in("two").await;
    let bodies: Vec<_> = sink.wait(2, SOON).await.into_iter().map(|received| received.body).collect();
    assert_eq!(bodies, ["one", "two"]);
    evoke.stop().await;
    Ok(())
}
