//! The objects that a plan may refer to: on a laptop all that the manifests hold, in a cluster what was fetched for one object.

use std::collections::BTreeMap;

use crate::events::{EventBusSpec, EventSourceSpec, TriggerSpec};
use crate::functions::FunctionSpec;
use crate::kubernetes::{KnativeService, SecretData, Service};
use crate::names::ObjectName;

/// Objects by kind and name. `ClusterEventBus` has no namespace.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    /// EventSources.
    pub event_sources: BTreeMap<ObjectName, EventSourceSpec>,
    /// EventBuses.
    pub event_buses: BTreeMap<ObjectName, EventBusSpec>,
    /// ClusterEventBuses, by name.
    pub cluster_event_buses: BTreeMap<String, EventBusSpec>,
    /// Triggers.
    pub triggers: BTreeMap<ObjectName, TriggerSpec>,
    /// Functions.
    pub functions: BTreeMap<ObjectName, FunctionSpec>,
    /// Secrets, for credentials.
    pub secrets: BTreeMap<ObjectName, SecretData>,
    /// Services, for sinks.
    pub services: BTreeMap<ObjectName, Service>,
    /// Knative Services, likewise.
    pub knative_services: BTreeMap<ObjectName, KnativeService>,
    /// True when other objects exist elsewhere: a reference to nothing is then a warning.
    pub partial: bool,
    /// True when an undeclared bus called `default` is the embedded one.
    pub default_bus: bool,
}

/// The bus that `event_bus` means in a namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BusName {
    /// An EventBus.
    Namespaced(ObjectName),
    /// A ClusterEventBus.
    Cluster(String),
    /// The embedded bus that nobody declared, in a namespace.
    Default(String),
}

impl Catalog {
    /// OpenFunction's lookup: the EventBus of the namespace, else the ClusterEventBus of the same name, else (where allowed) the
    /// undeclared `default`.
    pub fn find_bus(&self, namespace: &str, name: &str) -> Option<(BusName, EventBusSpec)> {
        let local = ObjectName::new(namespace, name);
        if let Some(spec) = self.event_buses.get(&local) {
            return Some((BusName::Namespaced(local), spec.clone()));
        }
        if let Some(spec) = self.cluster_event_buses.get(name) {
            return Some((BusName::Cluster(name.to_owned()), spec.clone()));
        }
        (self.default_bus && name == "default")
            .then(|| (BusName::Default(namespace.to_owned()), EventBusSpec::default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bus_of_the_namespace_goes_before_that_of_the_cluster() {
        let topic = |name: &str| EventBusSpec { topic: Some(name.to_owned()), ..EventBusSpec::default() };
        let mut catalog = Catalog::default();
        let found = |catalog: &Catalog, namespace| {
            let (name, spec) = catalog.find_bus(namespace, "default")?;
            Some((name, spec.topic))
        };
        assert_eq!(found(&catalog, "a"), None);
        catalog.default_bus = true;
        assert_eq!(found(&catalog, "a"), Some((BusName::Default("a".to_owned()), None)));
        assert_eq!(catalog.find_bus("a", "other"), None);
        catalog.cluster_event_buses.insert("default".to_owned(), topic("cluster"));
        let cluster = (BusName::Cluster("default".to_owned()), Some("cluster".to_owned()));
        assert_eq!(found(&catalog, "a"), Some(cluster.clone()));
        let name = ObjectName::new("a", "default");
        catalog.event_buses.insert(name.clone(), topic("namespace"));
        assert_eq!(found(&catalog, "a"), Some((BusName::Namespaced(name), Some("namespace".to_owned()))));
        assert_eq!(found(&catalog, "b"), Some(cluster));
    }
}
