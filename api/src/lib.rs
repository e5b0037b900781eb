//! What evoke accepts, as types: OpenFunction's kinds with evoke's additions, names, limits, and the positions and wording of
//! what is wrong with a manifest. Nothing here does I/O.
//!
//! | module | holds |
//! | --- | --- |
//! | [`events`] | `events.openfunction.io/v1alpha1`: EventSource, EventBus, ClusterEventBus, Trigger |
//! | [`functions`] | `core.openfunction.io`: Function, `v1beta2` and `v1beta1` converted to it |
//! | [`keda`] | KEDA's scaling options, which OpenFunction takes over |
//! | [`kubernetes`] | the Secrets and Services that plans look at |
//! | [`manifest`] | YAML text to typed objects, with the line and column of every field |
//! | [`catalog`] | the objects that a plan may refer to |
//! | [`problem`] | what is wrong, where, and the likely fix |
//! | [`names`] | object names, subscription ids, topic names |
//! | [`quantity`] | durations (Go or ISO-8601) and sizes (Kubernetes quantities) |
//! | [`credentials`] | secrets: where they come from, and a type that never prints them |
//! | [`limits`] | every limit, in one file |

pub mod catalog;
pub mod credentials;
pub mod events;
pub mod functions;
pub mod keda;
pub mod kubernetes;
pub mod limits;
pub mod manifest;
pub mod names;
pub mod problem;
pub mod quantity;
