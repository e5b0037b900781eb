//! Manifests on a laptop: read, planned and run in this process, with the planning and the runtimes that a cluster has.
//!
//! | module | holds |
//! | --- | --- |
//! | `files` | which files, and their text |
//! | `identity` | the name of this evoke, which its data directory keeps |
//! | `vault` | credentials from Secret manifests, variables and files |
//! | `plan` | manifests to plans, or everything that is wrong |
//! | `buses` | the buses that run |
//! | `kinds` | which kind each bus was, and what one that changes leaves behind |
//! | `pipeline` | plans to what runs, now and after a change; the drain |
//! | [`readiness`] | what waits, and why |
//! | `metrics` | every metric of the process |
//! | `watch` | when manifests change |
//! | `banner` | the pipeline, as it is printed |

use std::net::SocketAddr;

use evoke_api::manifest::{self, Loaded, Schemas};

use crate::args::ManifestArgs;

pub(crate) mod banner;
pub(crate) mod buses;
pub(crate) mod files;
mod identity;
mod kinds;
pub(crate) mod metrics;
pub(crate) mod pipeline;
pub(crate) mod plan;
pub(crate) mod readiness;
pub(crate) mod vault;
pub(crate) mod watch;

/// Reads the manifests that the command line names.
pub(crate) fn read(schemas: &Schemas, args: &ManifestArgs) -> Loaded {
    let (files, diagnostics) = files::read(&args.paths);
    let mut loaded = manifest::load(schemas, &files, &args.overrides);
    loaded.report(diagnostics);
    loaded
}

/// The port that webhooks share, where it is known before they listen.
pub(crate) fn shared_port(listen: SocketAddr) -> Option<u16> {
    Some(listen.port()).filter(|port| *port != 0)
}
