//! No receipt before the data is synced, by the system calls that evoke makes.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use evoke_tests::SOON;
use evoke_tests::case::{Skipped, Verdict};
use evoke_tests::evoke::Home;
use evoke_tests::manifests::source;
use evoke_tests::process::{Program, Signal, is_installed};

const CALLS: &str = "fsync,fdatasync,sync_file_range,pwrite64,pwritev,pwritev2,write,writev,sendto,sendmsg";

/// A call in a trace: its place there when it was begun and when it returned.
#[derive(Debug)]
struct Call {
    name: String,
    text: String,
    begun: usize,
    done: usize,
}

/// Reads `strace -f` lines, putting the two halves of an interrupted line together.
fn calls(trace: &Path) -> Vec<Call> {
    let text = String::from_utf8_lossy(&fs::read(trace).unwrap()).into_owned();
    let mut open: BTreeMap<String, (String, usize)> = BTreeMap::new();
    let mut calls = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let Some((thread, rest)) = line.trim_start().split_once(' ') else { continue };
        let rest = rest.trim_start();
        let (text, begun) = if let Some(head) = rest.strip_suffix(" <unfinished ...>") {
            open.insert(thread.to_owned(), (head.to_owned(), at));
            continue;
        } else if let Some(tail) = rest.strip_prefix("<... ") {
            let Some((head, begun)) = open.remove(thread) else { continue };
            (format!("{head}{}", tail.split_once("resumed>").map_or("", |(_, tail)| tail)), begun)
        } else {
            (rest.to_owned(), at)
        };
        let name = text.split('(').next().unwrap_or_default().to_owned();
        calls.push(Call { name, text, begun, done: at });
    }
    calls
}

pub(crate) async fn no_answer_leaves_before_its_data_is_synced() -> Verdict {
    if !is_installed("strace") {
        return Err(Skipped::because("no strace command (apt-get install strace)"));
    }
    let (status, log) = Program::new("strace", "strace").args(["-o", "/dev/null", "true"]).output(SOON).await;
    if !status.success() {
        return Err(Skipped::because(format!("strace may not trace here: {}", log.tail(1).join(" "))));
    }
    let home = Home::with(source("web", "webhook: {in: {}}"));
    let trace = home.path().join("trace");
    let filter = format!("trace={CALLS}");
    let strace = ["strace", "-f", "-s", "65536", "-e", &filter, "-e", "signal=none", "-y", "-o"];
    let mut wrapper: Vec<std::ffi::OsString> = strace.map(Into::into).into();
    wrapper.push(trace.clone().into());
    // Should strace be killed, the evoke below it ends too.
    wrapper.extend(["setpriv", "--pdeathsig", "KILL", "--"].map(Into::into));
    let mut evoke = home.evoke().below(wrapper).ready().await;
    let count = 40;
    for n in 0..count {
        let id = format!("mark-{n:04}-x");
        let headers = [("ce-specversion", "1.0"), ("ce-id", &*id), ("ce-source", "/s"), ("ce-type", "t")];
        let answer = evoke.post("/default/web/in", &headers, format!("payload-{n:04}")).await;
        assert_eq!(answer.status, 202);
    }
    terminate_traced(&evoke);
    evoke.ended(SOON).await;

    let calls = calls(&trace);
    let data = home.data().display().to_string();
    let mut answers = calls.iter().filter(|c| c.text.contains("HTTP/1.1 202") && is_write(c));
    for n in 0..count {
        let id = format!("mark-{n:04}-x");
        let stored = calls
            .iter()
            .find(|c| is_write(c) && c.text.contains(&data) && c.text.contains(&id))
            .unwrap_or_else(|| panic!("{id} was never written below {data}"));
        // One client sends one event after the other, so the nth answer is the nth event's.
        let answer = answers.next().unwrap_or_else(|| panic!("no answer for {id} in the trace"));
        let file = path_of(&stored.text);
        let synced = calls.iter().find(|c| {
            matches!(c.name.as_str(), "fdatasync" | "fsync") && c.begun > stored.done && path_of(&c.text) == file
        });
        let synced = synced.unwrap_or_else(|| panic!("{file} was never synced after {id} was written"));
        assert!(synced.text.ends_with("= 0"), "{}", synced.text);
        assert!(stored.done < synced.begun && synced.done < answer.begun, "{id}: {stored:?} {synced:?} {answer:?}");
    }
    Ok(())
}

fn is_write(call: &Call) -> bool {
    matches!(call.name.as_str(), "write" | "writev" | "pwrite64" | "pwritev" | "pwritev2" | "sendto" | "sendmsg")
}

/// The path that `-y` shows after the file descriptor.
fn path_of(call: &str) -> &str {
    call.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map_or("", |(path, _)| path)
}

/// SIGTERM for the traced evoke itself; strace ends after it.
fn terminate_traced(evoke: &evoke_tests::evoke::Evoke) {
    let tracer = evoke.pid().as_raw_nonzero();
    let children = fs::read_to_string(format!("/proc/{tracer}/task/{tracer}/children")).unwrap_or_default();
    for child in children.split_whitespace().filter_map(|pid| pid.parse().ok()) {
        let pid = evoke_tests::process::Pid::from_raw(child).unwrap();
        evoke_tests::process::send(pid, Signal::TERM);
    }
}
