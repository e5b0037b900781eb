//! `trait Launcher`: how an instance of a function comes to life. Speaks of instances, not of processes or Kubernetes objects.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

/// One running instance of a function.
pub trait Instance: Send {
    /// `host:port` it listens on.
    fn authority(&self) -> &str;

    /// Resolves when the instance has ended by itself, with the reason for people. Safe to cancel.
    fn ended(&mut self) -> BoxFuture<'_, String>;

    /// Asks it to end, and makes it end once `grace` is over. Resolves when it is gone with all it started.
    fn stop(self: Box<Self>, grace: Duration) -> BoxFuture<'static, ()>;
}

/// Why there is no instance.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct LaunchError(pub Arc<str>);

/// Brings instances of one function to life.
pub trait Launcher: Send + Sync {
    /// Resolves when the instance listens.
    fn launch(&self) -> BoxFuture<'_, Result<Box<dyn Instance>, LaunchError>>;
}
