//! Manifests, written short: the envelope is made here, the spec is what a test is about.

use std::path::Path;

/// Joins objects to one manifest text.
pub fn objects(objects: &[String]) -> String {
    objects.join("---\n")
}

/// An object of the events group, with `spec` as YAML text.
fn event_object(kind: &str, name: &str, spec: &str) -> String {
    object("events.openfunction.io/v1alpha1", kind, name, spec)
}

fn object(api_version: &str, kind: &str, name: &str, spec: &str) -> String {
    let indented = spec.trim_matches('\n').replace('\n', "\n  ");
    format!("apiVersion: {api_version}\nkind: {kind}\nmetadata: {{name: {name}}}\nspec:\n  {indented}\n")
}

/// The same object in a namespace.
///
/// # Panics
/// When it is not one of this module's objects.
pub fn within(namespace: &str, object: &str) -> String {
    let (head, tail) = object.split_once("metadata: {name: ").expect("an object of this module");
    format!("{head}metadata: {{namespace: {namespace}, name: {tail}")
}

/// An EventSource on the default bus.
pub fn source(name: &str, spec: &str) -> String {
    event_object("EventSource", name, &format!("eventBus: default\n{}", spec.trim_matches('\n')))
}

/// An EventSource with nothing but what `spec` says.
pub fn bare_source(name: &str, spec: &str) -> String {
    event_object("EventSource", name, spec)
}

/// A bus.
pub fn bus(name: &str, spec: &str) -> String {
    event_object("EventBus", name, spec)
}

/// A bus for all namespaces.
pub fn cluster_bus(name: &str, spec: &str) -> String {
    event_object("ClusterEventBus", name, spec)
}

/// A Trigger on the default bus.
pub fn trigger(name: &str, spec: &str) -> String {
    event_object("Trigger", name, &format!("eventBus: default\n{}", spec.trim_matches('\n')))
}

/// A Trigger that sends every event of one input to one URL, by a subscriber called `all`.
pub fn pass(name: &str, event_source: &str, event: &str, url: &str) -> String {
    trigger(
        name,
        &format!(
            "inputs: {{it: {{eventSource: {event_source}, event: {event}}}}}\n\
             subscribers: [{{name: all, condition: it, sink: {{uri: \"{url}\"}}}}]"
        ),
    )
}

/// A Function that is a Python program in a file beside its manifest.
pub fn python(name: &str, file: &str) -> String {
    function(name, &format!("[python3, -u, {file}], workingDir: ."))
}

/// A Function that is a Python program: where it is, and what it is given. It goes by the true clock, whatever evoke's is.
pub fn python_with(name: &str, program: &[&Path]) -> String {
    let arguments: Vec<String> = program.iter().map(|part| format!("\"{}\"", part.display())).collect();
    // What evoke starts inherits its variables, and with them the library that sets its clock: below that, Python's threads wait for
    // each other far too long, or not at all.
    let env = "env: [{name: LD_PRELOAD, value: \"\"}]";
    function(name, &format!("[python3, {}], {env}", arguments.join(", ")))
}

/// A Function that is a Python program in a file beside its manifest, given with its arguments, and has variables of its own.
pub fn python_with_env(name: &str, program: &[&str], env: &[(&str, &str)]) -> String {
    let env: Vec<String> = env.iter().map(|(name, value)| format!("{{name: {name}, value: \"{value}\"}}")).collect();
    let (program, env) = (program.join(", "), env.join(", "));
    function(name, &format!("[python3, -u, {program}], workingDir: ., env: [{env}]"))
}

/// A Function with a command, and what else its container has.
fn function(name: &str, command: &str) -> String {
    object(
        "core.openfunction.io/v1beta2",
        "Function",
        name,
        &format!("serving:\n  template:\n    containers:\n      - {{name: function, command: {command}}}"),
    )
}

/// A Secret with one key.
pub fn secret(name: &str, key: &str, value: &str) -> String {
    format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\nstringData: {{{key}: \"{value}\"}}\n")
}
