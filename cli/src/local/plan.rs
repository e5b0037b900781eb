//! Manifests to plans: everything that runs, or everything that is wrong. Pure but for the credentials it looks up.

use std::collections::BTreeMap;
use std::path::Path;

use evoke_adapters::plan::clashes;
use evoke_adapters::webhook;
use evoke_api::catalog::{BusName, Catalog};
use evoke_api::events::{EmbeddedBus, EventBusSpec};
use evoke_api::manifest::{Diagnostic, Kind, Loaded, Object, ObjectValue};
use evoke_api::names::ObjectName;
use evoke_api::problem::{Planned, Problem, Severity};
use evoke_eventbus::plan::BusPlan;
use evoke_eventsource::plan::EventSourcePlan;
use evoke_function::plan::FunctionPlan;
use evoke_trigger::plan::TriggerPlan;

use super::vault::LocalVault;
use crate::args::BusOverride;

/// Everything that `run` starts.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Plans {
    /// The buses that something uses.
    pub(crate) buses: BTreeMap<BusName, BusPlan>,
    /// Functions.
    pub(crate) functions: BTreeMap<ObjectName, FunctionPlan>,
    /// Triggers.
    pub(crate) triggers: BTreeMap<ObjectName, TriggerPlan>,
    /// EventSources.
    pub(crate) event_sources: BTreeMap<ObjectName, EventSourcePlan>,
}

/// What the plans are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To run here: what cannot is an error.
    Run,
    /// To be checked: what cannot run here is a warning. Where the rest is elsewhere, so is a reference to nothing.
    Validate {
        /// Whether the rest is elsewhere.
        partial: bool,
    },
}

/// Plans every object, adding what is wrong to the loaded manifests' diagnostics.
pub(crate) fn plan(loaded: &mut Loaded, bus: Option<BusOverride>, purpose: Purpose, shared_port: Option<u16>) -> Plans {
    let mut catalog = loaded.catalog();
    catalog.default_bus = true;
    catalog.partial = matches!(purpose, Purpose::Validate { partial: true });
    if bus == Some(BusOverride::Embedded) {
        embed_buses(&mut catalog);
    }
    let mut planning = Planning { catalog: &catalog, purpose, plans: Plans::default(), diagnostics: Vec::new() };
    for object in &loaded.objects {
        planning.object(object);
    }
    planning.buses(loaded);
    planning.clashes(loaded, shared_port);
    let Planning { plans, diagnostics, .. } = planning;
    loaded.report(diagnostics);
    plans
}

/// Makes every bus that is declared or named the embedded one, keeping what all kinds have in common.
fn embed_buses(catalog: &mut Catalog) {
    let embedded = |max_event_bytes: Option<String>| EventBusSpec {
        max_event_bytes,
        embedded: Some(EmbeddedBus::default()),
        ..EventBusSpec::default()
    };
    for spec in catalog.event_buses.values_mut().chain(catalog.cluster_event_buses.values_mut()) {
        if spec.embedded.is_none() {
            *spec = embedded(spec.max_event_bytes.take());
        }
    }
    let named = catalog.triggers.iter().map(|(name, spec)| (name, &spec.event_bus));
    let sources = catalog.event_sources.iter().filter_map(|(name, spec)| Some((name, spec.event_bus.as_ref()?)));
    let missing: Vec<ObjectName> = named
        .chain(sources)
        .filter(|(name, bus)| !bus.is_empty() && catalog.find_bus(&name.namespace, bus).is_none())
        .map(|(name, bus)| ObjectName::new(name.namespace.clone(), bus.as_str()))
        .collect();
    catalog.event_buses.extend(missing.into_iter().map(|name| (name, embedded(None))));
}

/// What relative files of an object are relative to.
fn manifest_dir(object: &Object) -> &Path {
    match Path::new(&*object.file).parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}

struct Planning<'a> {
    catalog: &'a Catalog,
    purpose: Purpose,
    plans: Plans,
    diagnostics: Vec<Diagnostic>,
}

impl Planning<'_> {
    fn object(&mut self, object: &Object) {
        let manifest_dir = manifest_dir(object);
        let lenient = self.catalog.partial;
        let vault = LocalVault { catalog: self.catalog, manifest_dir, lenient };
        let name = &object.name;
        match &object.value {
            ObjectValue::EventSource(spec) => {
                let planned = evoke_eventsource::plan::plan(name, spec, self.catalog, &vault);
                if let Some(plan) = self.take(object, planned) {
                    self.plans.event_sources.insert(name.clone(), plan);
                }
            }
            ObjectValue::Trigger(spec) => {
                let planned = evoke_trigger::plan::plan(name, spec, self.catalog);
                if let Some(plan) = self.take(object, planned) {
                    self.plans.triggers.insert(name.clone(), plan);
                }
            }
            ObjectValue::Function(spec) => {
                let planned = evoke_function::plan::plan(name, spec, manifest_dir, &vault);
                if let Some(plan) = self.take(object, planned) {
                    self.plans.functions.insert(name.clone(), plan);
                }
            }
            // Buses are planned when all that use them are known; the others are only referred to.
            ObjectValue::EventBus(_)
            | ObjectValue::ClusterEventBus(_)
            | ObjectValue::Secret(_)
            | ObjectValue::Service(_)
            | ObjectValue::KnativeService(_) => {}
        }
    }

    /// Plans every bus that is declared, so that its errors show, and keeps those that something uses.
    fn buses(&mut self, loaded: &Loaded) {
        let catalog = self.catalog;
        let declared = catalog.event_buses.iter().map(|(name, spec)| (BusName::Namespaced(name.clone()), spec));
        let cluster = catalog.cluster_event_buses.iter().map(|(name, spec)| (BusName::Cluster(name.clone()), spec));
        let undeclared = EventBusSpec::default();
        let used: Vec<BusName> = {
            let triggers = self.plans.triggers.values().map(|plan| plan.bus.clone());
            triggers.chain(self.plans.event_sources.values().filter_map(|plan| plan.bus.clone())).collect()
        };
        let default = used.iter().filter(|name| matches!(name, BusName::Default(_))).map(|n| (n.clone(), &undeclared));
        for (name, spec) in declared.chain(cluster).chain(default) {
            let object = match &name {
                BusName::Namespaced(name) => loaded.find(Kind::EventBus, name),
                BusName::Cluster(name) => loaded.find(Kind::ClusterEventBus, &ObjectName::new("", name.as_str())),
                BusName::Default(_) => None,
            };
            let namespace = match &name {
                BusName::Namespaced(name) => &*name.namespace,
                BusName::Default(namespace) => namespace,
                BusName::Cluster(_) => "",
            };
            let manifest_dir = object.map_or(Path::new("."), |object| manifest_dir(object));
            let vault = LocalVault { catalog, manifest_dir, lenient: catalog.partial };
            let planned = evoke_eventbus::plan::plan(namespace, spec, &vault);
            let plan = match object {
                Some(object) => self.take(object, planned),
                None => planned.plan,
            };
            if let Some(plan) = plan.filter(|_| used.contains(&name)) {
                self.plans.buses.insert(name, plan);
            }
        }
    }

    /// Two webhooks on one address and path would get each other's requests, and so it is with other sources.
    fn clashes(&mut self, loaded: &Loaded, shared_port: Option<u16>) {
        let webhooks = self.plans.event_sources.values().flat_map(EventSourcePlan::webhooks);
        let sources = self.plans.event_sources.values().flat_map(EventSourcePlan::sources);
        for clash in webhook::clashes(webhooks, shared_port).into_iter().chain(clashes(sources)) {
            if let Some(object) = loaded.find(Kind::EventSource, &clash.event_source) {
                self.diagnostics.push(object.diagnose(clash.problem));
            }
        }
    }

    fn take<P>(&mut self, object: &Object, planned: Planned<P>) -> Option<P> {
        let Planned { plan, problems, not_here } = planned;
        let severity = if self.purpose == Purpose::Run { Severity::Error } else { Severity::Warning };
        let not_here = not_here.into_iter().map(|problem| Problem { severity, ..problem });
        self.diagnostics.extend(problems.into_iter().chain(not_here).map(|problem| object.diagnose(problem)));
        plan
    }
}
