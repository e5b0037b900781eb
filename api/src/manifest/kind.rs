//! The kinds of objects that manifests may hold, and how an `apiVersion` and a `kind` name them.

use std::fmt;

use serde::Serialize;

use super::did_you_mean;
use crate::problem::{FieldPath, Problem, quoted};

/// A kind that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Kind {
    EventSource,
    EventBus,
    ClusterEventBus,
    Trigger,
    Function,
    /// Core `v1` Secret.
    Secret,
    /// Core `v1` Service.
    Service,
    /// `serving.knative.dev/v1` Service.
    KnativeService,
}

/// What an object turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Recognised {
    /// One of the kinds that are read.
    Read(Kind, Version),
    /// `List`: objects of any kinds.
    List,
}

/// The version of a kind, where it makes a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    /// The only one, or the one that is worked with.
    Current,
    /// Function `v1beta1`.
    V1beta1,
}

const EVENTS: &str = "events.openfunction.io";
const CORE: &str = "core.openfunction.io";
const NETWORKING: &str = "networking.openfunction.io";

/// The kinds that are read: group, versions, kind.
const READ: [(&str, &[&str], Kind); 8] = [
    (EVENTS, &["v1alpha1"], Kind::EventSource),
    (EVENTS, &["v1alpha1"], Kind::EventBus),
    (EVENTS, &["v1alpha1"], Kind::ClusterEventBus),
    (EVENTS, &["v1alpha1"], Kind::Trigger),
    (CORE, &["v1beta2", "v1beta1"], Kind::Function),
    ("", &["v1"], Kind::Secret),
    ("", &["v1"], Kind::Service),
    ("serving.knative.dev", &["v1"], Kind::KnativeService),
];

/// The kinds of our groups that are known and not acted on.
const ACCEPTED: [(&str, &[&str], &str); 3] = [
    (CORE, &["v1beta2", "v1beta1"], "Builder"),
    (CORE, &["v1beta2", "v1beta1"], "Serving"),
    (NETWORKING, &["v1alpha1"], "Gateway"),
];

impl Kind {
    /// Every kind that is read.
    pub const ALL: [Self; 8] = [
        Self::EventSource,
        Self::EventBus,
        Self::ClusterEventBus,
        Self::Trigger,
        Self::Function,
        Self::Secret,
        Self::Service,
        Self::KnativeService,
    ];

    /// The kind as people name it; a Knative Service is a `KnativeService`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::EventSource => "EventSource",
            Self::EventBus => "EventBus",
            Self::ClusterEventBus => "ClusterEventBus",
            Self::Trigger => "Trigger",
            Self::Function => "Function",
            Self::Secret => "Secret",
            Self::Service => "Service",
            Self::KnativeService => "KnativeService",
        }
    }

    /// The kind that a name or one of Kubernetes' short names means, in upper or lower case.
    pub fn from_name(name: &str) -> Option<Self> {
        let short = |kind: Self| match kind {
            Self::EventSource => "es",
            Self::EventBus => "eb",
            Self::ClusterEventBus => "ceb",
            Self::Function => "fn",
            Self::Service => "svc",
            Self::KnativeService => "ksvc",
            Self::Trigger | Self::Secret => "",
        };
        let same = |text: &str| !text.is_empty() && text.eq_ignore_ascii_case(name);
        Self::ALL.into_iter().find(|kind| same(kind.as_str()) || same(short(*kind)))
    }

    /// False for a kind whose objects belong to the whole cluster.
    pub fn is_namespaced(self) -> bool {
        self != Self::ClusterEventBus
    }

    /// The kind as a manifest writes it.
    fn written(self) -> &'static str {
        if self == Self::KnativeService { "Service" } else { self.as_str() }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Finds out what an object is. A problem is a warning where the object is to be ignored.
pub(super) fn recognise(api_version: &str, kind: &str) -> Result<Recognised, Problem> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let known = READ
        .iter()
        .map(|(group, versions, kind)| (*group, *versions, kind.written(), Some(*kind)))
        .chain(ACCEPTED.iter().map(|(group, versions, kind)| (*group, *versions, *kind, None)));
    if (group, version, kind) == ("", "v1", "List") || (is_ours(group) && is_list_of_ours(group, kind)) {
        return Ok(Recognised::List);
    }
    let of_group: Vec<_> = known.clone().filter(|(known_group, ..)| *known_group == group).collect();
    if let Some((_, versions, _, read)) = of_group.iter().find(|(.., name, _)| *name == kind) {
        if !versions.contains(&version) {
            let written: Vec<_> = versions.iter().map(|v| qualified(group, v)).collect();
            let message = format!("there is no {kind} in {}", quoted(api_version));
            let (path, hint) = (FieldPath::root().key("apiVersion"), format!("write `{}`", written.join("` or `")));
            let problem = if is_ours(group) { Problem::error } else { Problem::warning };
            return Err(problem(path, message).hint(hint));
        }
        return match read {
            Some(kind) if version == "v1beta1" => Ok(Recognised::Read(*kind, Version::V1beta1)),
            Some(kind) => Ok(Recognised::Read(*kind, Version::Current)),
            None => Err(Problem::warning(FieldPath::root().key("kind"), format!("{kind} is not acted on yet"))
                .hint("evoke runs Functions itself and needs none")),
        };
    }
    if is_ours(group) {
        let names: Vec<_> = of_group.iter().map(|(_, _, name, _)| *name).collect();
        if let Some((group, versions, ..)) = known.clone().find(|(group, _, name, _)| is_ours(group) && *name == kind) {
            let version = versions.first().copied().unwrap_or_default();
            let message = format!("there is no {kind} in {}", quoted(api_version));
            return Err(Problem::error(FieldPath::root().key("apiVersion"), message)
                .hint(format!("write `{}`", qualified(group, version))));
        }
        let problem = Problem::error(
            FieldPath::root().key("kind"),
            format!("there is no {} in {}", quoted(kind), quoted(api_version)),
        );
        return Err(with_hint(problem, did_you_mean::hint(kind, names, "kind")));
    }
    // A misspelt group of ours must not pass for a foreign one.
    let ours = [EVENTS, CORE, NETWORKING];
    let meant = did_you_mean::did_you_mean(group, ours);
    if group == "openfunction.io" || group.ends_with(".openfunction.io") || meant.is_some() {
        let problem =
            Problem::error(FieldPath::root().key("apiVersion"), format!("there is no API group {}", quoted(group)));
        return Err(with_hint(problem, did_you_mean::hint(group, ours, "group")));
    }
    let message = format!("{} of {} is none of evoke's kinds, and ignored", quoted(kind), quoted(api_version));
    let problem = Problem::warning(FieldPath::root().key("kind"), message);
    let meant = did_you_mean::did_you_mean(kind, of_group.iter().map(|(_, _, name, _)| *name));
    Err(with_hint(problem, meant.map(|name| format!("did you mean `{name}`"))))
}

fn is_ours(group: &str) -> bool {
    [EVENTS, CORE, NETWORKING].contains(&group)
}

fn is_list_of_ours(group: &str, kind: &str) -> bool {
    let item = kind.strip_suffix("List").unwrap_or_default();
    READ.iter().any(|(known, _, kind)| *known == group && kind.written() == item)
        || ACCEPTED.iter().any(|(known, _, kind)| *known == group && *kind == item)
}

fn qualified(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

fn with_hint(problem: Problem, hint: Option<String>) -> Problem {
    match hint {
        Some(hint) => problem.hint(hint),
        None => problem,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(api_version: &str, kind: &str) -> String {
        let problem = recognise(api_version, kind).unwrap_err();
        let severity = if problem.is_error() { "error" } else { "warning" };
        format!("{severity} {problem}")
    }

    #[test]
    fn kinds_that_are_read() {
        let read = |kind, version| Ok(Recognised::Read(kind, version));
        assert_eq!(recognise("events.openfunction.io/v1alpha1", "Trigger"), read(Kind::Trigger, Version::Current));
        assert_eq!(recognise("core.openfunction.io/v1beta1", "Function"), read(Kind::Function, Version::V1beta1));
        assert_eq!(recognise("core.openfunction.io/v1beta2", "Function"), read(Kind::Function, Version::Current));
        assert_eq!(recognise("v1", "Service"), read(Kind::Service, Version::Current));
        assert_eq!(recognise("serving.knative.dev/v1", "Service"), read(Kind::KnativeService, Version::Current));
        assert_eq!(recognise("v1", "List"), Ok(Recognised::List));
        assert_eq!(recognise("events.openfunction.io/v1alpha1", "TriggerList"), Ok(Recognised::List));
    }

    #[test]
    fn mistakes_in_our_groups_are_errors() {
        let cases = [
            ("events.openfunction.io/v1alpha1", "Triger", "error kind: ", "did you mean `Trigger`"),
            ("events.openfunction.io/v1alpha1", "Pod", "error kind: ", "the kinds are `ClusterEventBus`, `EventBus`"),
            ("events.openfunction.io/v1", "Trigger", "error apiVersion: ", "write `events.openfunction.io/v1alpha1`"),
            ("events.openfunction.io/v1alpha1", "Function", "error apiVersion: ", "`core.openfunction.io/v1beta2`"),
            (
                "core.openfunction.io/v1",
                "Function",
                "error apiVersion: ",
                "io/v1beta2` or `core.openfunction.io/v1beta1`",
            ),
            (
                "event.openfunction.io/v1alpha1",
                "Trigger",
                "error apiVersion: ",
                "did you mean `events.openfunction.io`",
            ),
            (
                "events.openfuncton.io/v1alpha1",
                "Trigger",
                "error apiVersion: ",
                "did you mean `events.openfunction.io`",
            ),
            ("openfunction.io/v1", "Trigger", "error apiVersion: ", "there is no API group"),
        ];
        for (api_version, kind, start, part) in cases {
            let wrong = wrong(api_version, kind);
            assert!(wrong.starts_with(start) && wrong.contains(part), "{api_version} {kind}: {wrong}");
        }
    }

    #[test]
    fn foreign_and_idle_kinds_are_warnings() {
        assert!(
            wrong("apps/v1", "Deployment")
                .starts_with("warning kind: \"Deployment\" of \"apps/v1\" is none of evoke's")
        );
        assert!(wrong("v1", "ConfigMap").starts_with("warning"));
        assert!(wrong("v1", "Secert").ends_with("; did you mean `Secret`"));
        assert!(wrong("serving.knative.dev/v1beta1", "Service").ends_with("; write `serving.knative.dev/v1`"));
        assert!(wrong("v2", "Secret").starts_with("warning apiVersion: "));
        assert!(wrong("core.openfunction.io/v1beta2", "Serving").starts_with("warning kind: Serving is not acted on"));
        assert!(wrong("networking.openfunction.io/v1alpha1", "Gateway").starts_with("warning"));
    }

    #[test]
    fn names_of_kinds() {
        assert_eq!(Kind::from_name("trigger"), Some(Kind::Trigger));
        assert_eq!(Kind::from_name("ES"), Some(Kind::EventSource));
        assert_eq!(Kind::from_name("ksvc"), Some(Kind::KnativeService));
        assert_eq!(Kind::from_name(""), None);
    }
}
