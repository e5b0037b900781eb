//! A Function's manifest, validated: what to start, where, and with which variables.

mod check;

use std::path::{Path, PathBuf};
use std::time::Duration;

use evoke_api::credentials::{Secret, SecretKeyRef, ValueFrom, Vault};
use evoke_api::functions::{CONTAINER, FunctionSpec, Serving};
use evoke_api::names::ObjectName;
use evoke_api::problem::{FieldPath, Planned, Problem, quoted};
use evoke_api::quantity;
use k8s_openapi::api::core::v1::{Container, EnvVar, EnvVarSource, PodSpec};
use serde::Serialize;
use serde_json::Value;

/// How long a function may take to listen where `serving.timeout` does not say.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// What runs a function: `workloadRuntime` where it does not say, and the other one.
const PROGRAM: &str = "OCIContainer";
const WASM: &str = "WasmEdge";
/// How long a function may take to end where `terminationGracePeriodSeconds` does not say.
const GRACE: Duration = Duration::from_secs(10);

/// A function that can run as a child process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionPlan {
    /// Its name.
    pub name: ObjectName,
    /// The program and its arguments, `$(NAME)` not replaced yet.
    pub command: Vec<String>,
    /// Its variables beside those that evoke sets and those that evoke itself has, in the order in which they may refer to each other.
    pub env: Vec<(String, Secret)>,
    /// Where it is started.
    pub working_dir: PathBuf,
    /// How long it may take to listen.
    pub start_timeout: Duration,
    /// How long it may take to end.
    pub grace: Duration,
}

/// Plans a Function as a child process of evoke. `manifest_dir` is what a relative `workingDir` is relative to.
pub fn plan(name: &ObjectName, spec: &FunctionSpec, manifest_dir: &Path, vault: &dyn Vault) -> Planned<FunctionPlan> {
    let path = FieldPath::spec();
    let mut planning = Planning { namespace: &name.namespace, vault, problems: check::problems(spec) };
    planning.runtime(spec, &path);
    planning.ignored(spec, &path, &["image", "workloadRuntime", "serving"]);
    let serving = spec.serving.as_ref();
    if let Some(serving) = serving {
        planning.serving(serving, &path.key("serving"));
    }
    let start_timeout = planning.start_timeout(serving, &path.key("serving"));
    let plan = planning.function(name, spec, start_timeout, manifest_dir);
    if spec.image.as_deref().is_none_or(str::is_empty) && !has_command(spec) {
        let path = if spec.image.is_some() { path.key("image") } else { path };
        let message = "the function has neither an `image` nor a `command`";
        let hint = format!("add `command` to the container `{CONTAINER}` of serving.template, or an `image`");
        planning.problems.push(Problem::error(path, message).hint(hint));
        return Planned::new(None, planning.problems);
    }
    if spec.build.is_none() && serving.is_none() {
        let message = "there is neither `build` nor `serving`, so that nothing is to be done";
        planning.problems.push(Problem::error(path, message).hint("add `serving: {}` to run the image"));
        return Planned::new(None, planning.problems);
    }
    let not_here = not_here(spec, &path);
    Planned::new(if not_here.is_empty() { plan } else { None }, planning.problems).not_here(not_here)
}

fn has_command(spec: &FunctionSpec) -> bool {
    spec.container().and_then(|container| container.command.as_ref()).is_some_and(|command| !command.is_empty())
}

/// What keeps the function from running as a child process.
fn not_here(spec: &FunctionSpec, path: &FieldPath) -> Vec<Problem> {
    let mut not_here = Vec::new();
    if spec.workload_runtime.as_deref().is_some_and(|runtime| runtime.eq_ignore_ascii_case(WASM)) {
        let message = "only programs can run without a cluster, not WebAssembly modules";
        let hint = "leave `workloadRuntime` out and give the container a `command`";
        not_here.push(Problem::error(path.key("workloadRuntime"), message).hint(hint));
    }
    if !has_command(spec) {
        let message = "a function without a `command` cannot run without a cluster: its image cannot be started here";
        let hint = format!(
            "add `command: [PROGRAM, ARGUMENT...]` to the container `{CONTAINER}` of spec.serving.template; the program \
             listens on the port in $PORT"
        );
        not_here.push(Problem::error(path.key("serving").key("template").key("containers"), message).hint(hint));
    }
    not_here
}

/// Plans one Function and collects what is wrong with it.
struct Planning<'a> {
    namespace: &'a str,
    vault: &'a dyn Vault,
    problems: Vec<Problem>,
}

impl Planning<'_> {
    fn runtime(&mut self, spec: &FunctionSpec, path: &FieldPath) {
        let runtime = spec.workload_runtime.as_deref().unwrap_or_default();
        if runtime.is_empty() || [PROGRAM, WASM].iter().any(|known| known.eq_ignore_ascii_case(runtime)) {
            return;
        }
        let meant = if runtime.to_ascii_lowercase().contains("wasm") { WASM } else { PROGRAM };
        let message = format!("{} is no runtime that is known, and taken for {PROGRAM}", quoted(runtime));
        let problem = Problem::warning(path.key("workloadRuntime"), message);
        self.problems.push(problem.hint(format!("did you mean `{meant}`")));
    }

    /// How long the function may take to listen. To OpenFunction, 0 is a time that is not set.
    fn start_timeout(&mut self, serving: Option<&Serving>, path: &FieldPath) -> Option<Duration> {
        let Some(text) = serving.and_then(|serving| serving.timeout.as_ref()) else { return Some(START_TIMEOUT) };
        let timeout = quantity::duration(text, &path.key("timeout")).map_err(|p| self.problems.push(p)).ok()?;
        Some(if timeout.is_zero() { START_TIMEOUT } else { timeout })
    }

    fn function(
        &mut self,
        name: &ObjectName,
        spec: &FunctionSpec,
        start_timeout: Option<Duration>,
        manifest_dir: &Path,
    ) -> Option<FunctionPlan> {
        let serving = spec.serving.as_ref()?;
        let template = serving.template.as_ref()?;
        let path = FieldPath::spec().key("serving");
        let (index, container) = template.containers.iter().enumerate().find(|(_, c)| c.name == CONTAINER)?;
        let at = path.key("template").key("containers").index(index);
        let command = self.command(container, &at);
        let env = self.env(serving, container, &path, &at);
        let grace = self.grace(template, &path.key("template"));
        let working_dir = manifest_dir.join(container.working_dir.as_deref().unwrap_or_default());
        Some(FunctionPlan {
            name: name.clone(),
            command,
            env,
            working_dir,
            start_timeout: start_timeout?,
            grace: grace?,
        })
    }

    fn serving(&mut self, serving: &Serving, path: &FieldPath) {
        self.ignored(serving, path, &["params", "template", "timeout", "triggers"]);
        if let Some(triggers) = &serving.triggers {
            let path = path.key("triggers");
            self.ignored(triggers, &path, &["http", "dapr"]);
            if !triggers.dapr.is_empty() {
                let message = "Dapr triggers have no effect";
                let hint = "have an EventSource read what they read, and a Trigger deliver it to the function";
                self.problems.push(Problem::warning(path.key("dapr"), message).hint(hint));
            }
            if let Some(http) = &triggers.http {
                let path = path.key("http");
                self.ignored(http, &path, &["port"]);
                if let Some(port) = http.port {
                    let message = format!("port {port} is not used: evoke chooses a free port and sets PORT to it");
                    let hint = "have the function listen on $PORT";
                    self.problems.push(Problem::warning(path.key("port"), message).hint(hint));
                }
            }
        }
        let Some(template) = &serving.template else { return };
        let path = path.key("template");
        self.ignored(template, &path, &["containers", "terminationGracePeriodSeconds"]);
        for (index, container) in template.containers.iter().enumerate() {
            let path = path.key("containers").index(index);
            if container.name == CONTAINER {
                let acted_on = ["name", "image", "command", "args", "env", "workingDir"];
                self.ignored(container, &path, &acted_on);
            } else {
                let message = format!("container {:?} is not started: only `{CONTAINER}` is", container.name);
                self.problems.push(Problem::warning(path, message));
            }
        }
    }

    fn command(&mut self, container: &Container, path: &FieldPath) -> Vec<String> {
        let mut all = Vec::new();
        for (field, parts) in [("command", &container.command), ("args", &container.args)] {
            for (index, part) in parts.iter().flatten().enumerate() {
                self.without_nul(part, path.key(field).index(index));
                all.push(part.clone());
            }
        }
        if all.first().is_some_and(String::is_empty) {
            let message = "the program's name is empty";
            self.problems.push(Problem::error(path.key("command").index(0), message));
        }
        all
    }

    /// `params`, then the container's own variables, which win.
    fn env(&mut self, serving: &Serving, own: &Container, path: &FieldPath, at: &FieldPath) -> Vec<(String, Secret)> {
        let own_env = own.env.as_deref().unwrap_or_default();
        let mut env = Vec::new();
        for (name, value) in &serving.params {
            let path = path.key("params").key(name);
            if own_env.iter().any(|var| var.name == *name) {
                let message = format!("the container's own variable {name} wins over this one");
                self.problems.push(Problem::warning(path.clone(), message).hint("remove one of the two"));
            }
            if self.variable(name, value, &path) {
                env.push((name.clone(), Secret::new(value)));
            }
        }
        for (index, var) in own_env.iter().enumerate() {
            let path = at.key("env").index(index);
            if let Some(value) = self.value(var, &path)
                && self.variable(&var.name, value.expose(), &path)
            {
                env.push((var.name.clone(), value));
            }
        }
        env
    }

    fn value(&mut self, var: &EnvVar, path: &FieldPath) -> Option<Secret> {
        let Some(from) = &var.value_from else {
            return Some(Secret::new(var.value.clone().unwrap_or_default()));
        };
        let path = path.key("valueFrom");
        let EnvVarSource { secret_key_ref: Some(key), .. } = from else {
            let kind = keys(from).into_iter().next().unwrap_or_default();
            let message = format!("{} is not set: valueFrom.{kind} has no effect without a cluster", var.name);
            self.problems.push(Problem::warning(path, message).hint("give it a `value` or a `secretKeyRef`"));
            return None;
        };
        let reference = SecretKeyRef { name: key.name.clone(), key: key.key.clone(), namespace: None };
        let from = ValueFrom { secret_key_ref: Some(reference), ..ValueFrom::default() };
        match self.vault.look_up(self.namespace, &from, &path) {
            Ok(secret) => Some(secret),
            Err(_) if key.optional == Some(true) => None,
            Err(problem) => {
                self.problems.push(problem);
                None
            }
        }
    }

    /// Whether a variable can be set.
    fn variable(&mut self, name: &str, value: &str, path: &FieldPath) -> bool {
        if name == "PORT" {
            let message = "PORT is set by evoke, to a free port";
            self.problems.push(Problem::warning(path.clone(), message).hint("remove it"));
            return false;
        }
        if name.is_empty() || name.contains(['=', '\0']) {
            let message = format!("{name:?} is no name of an environment variable");
            self.problems.push(Problem::error(path.clone(), message).hint("use letters, digits and underscores"));
            return false;
        }
        self.without_nul(value, path.clone())
    }

    fn without_nul(&mut self, text: &str, path: FieldPath) -> bool {
        let sound = !text.contains('\0');
        if !sound {
            self.problems.push(Problem::error(path, "a program cannot be given a NUL character"));
        }
        sound
    }

    fn grace(&mut self, template: &PodSpec, path: &FieldPath) -> Option<Duration> {
        let Some(seconds) = template.termination_grace_period_seconds else { return Some(GRACE) };
        let grace = u64::try_from(seconds).ok().map(Duration::from_secs);
        if grace.is_none() {
            let message = format!("{seconds} seconds are no time to end in");
            self.problems.push(Problem::error(path.key("terminationGracePeriodSeconds"), message));
        }
        grace
    }

    /// Warns of every field that is set, beside those in `acted_on`.
    fn ignored(&mut self, of: &impl Serialize, path: &FieldPath, acted_on: &[&str]) {
        for field in keys(of).into_iter().filter(|field| !acted_on.contains(&field.as_str())) {
            let message = format!("`{field}` has no effect without a cluster");
            self.problems.push(Problem::warning(path.key(field), message));
        }
    }
}

/// The fields that are set, as a manifest has them.
fn keys(of: &impl Serialize) -> Vec<String> {
    match serde_json::to_value(of) {
        Ok(Value::Object(fields)) => fields.into_iter().map(|(field, _)| field).collect(),
        // Every type of a manifest came from such an object.
        Ok(_) | Err(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests;
