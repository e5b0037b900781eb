//! `evoke run`: starts what manifests describe, keeps it in step with them, and drains it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use evoke_api::limits;
use evoke_api::manifest::{Diagnostic, Loaded, Schemas};
use evoke_delivery::running::Drained;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::block_in_place;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::admin::{self, Admin};
use crate::api::Api;
use crate::api::access::Token;
use crate::api::board::Board;
use crate::api::socket::{self, SocketError};
use crate::args::RunArgs;
use crate::local::buses::{label, names};
use crate::local::metrics::Metrics;
use crate::local::pipeline::{Accepted, Deadlines, Pipeline, Refused, Site};
use crate::local::plan::{Plans, Purpose, plan};
use crate::local::readiness::Readiness;
use crate::local::watch::Watch;
use crate::local::{banner, files, read, shared_port, vault};
use crate::logging;
use crate::signals::Signals;
use crate::validate::count;

mod shown;

use shown::{Shown, publish};

/// How often readiness is looked at.
const READINESS_INTERVAL: Duration = Duration::from_millis(100);
/// How often what waits for its bus is tried again.
const SETTLE_INTERVAL: Duration = Duration::from_millis(500);

/// Why `run` ended otherwise than by a clean drain.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The manifests have errors, which were printed.
    #[error("{0}: nothing was started; `evoke validate` shows the same")]
    Manifests(String),
    /// The admin address cannot be listened on.
    #[error("cannot listen on {address} for --admin: {source}; choose another address, or port 0 for a free one")]
    Admin {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The socket in the data directory cannot be listened on.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// A part of the pipeline cannot start.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The operating system refuses something that every program needs.
    #[error("{0}")]
    System(String),
    /// The drain took too long, was cut short, or had to cut deliveries short.
    #[error("{0}; what was not finished is delivered again at the next start")]
    Undrained(String),
}

/// Runs until a signal ends it.
///
/// # Errors
/// [`RunError`], one clear message.
pub fn run(args: &RunArgs) -> Result<(), RunError> {
    logging::start(args.log_format, args.verbose);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| RunError::System(format!("cannot start worker threads: {error}")))?;
    let result = runtime.block_on(session(args));
    // What a second signal left running is not waited for.
    runtime.shutdown_background();
    result
}

async fn session(args: &RunArgs) -> Result<(), RunError> {
    let started = Instant::now();
    let mut signals = Signals::new().map_err(|error| RunError::System(format!("cannot handle signals: {error}")))?;
    let schemas = Schemas::new();
    if let Some(path) = files::read_once(&args.manifests.paths) {
        let path = path.display();
        let why = "manifests are read again when they change, which this cannot be: write it to a file first";
        return Err(RunError::System(format!("{path} is neither a file nor a folder: {why}")));
    }
    // What changes while it is read for the first time is to be read again.
    let mut watch = Watch::new(&args.manifests.paths)
        .map_err(|error| RunError::System(format!("cannot watch the manifests for changes: {error}")))?;
    let (loaded, plans) = load(&schemas, args, &mut watch);
    report(args, &loaded.diagnostics);
    if loaded.has_errors() {
        let errors = loaded.diagnostics.iter().filter(|d| d.is_error()).count();
        return Err(RunError::Manifests(count(errors, "error")));
    }
    if let Some(unknown) = args.abandon.iter().find(|name| !plans.buses.keys().any(|bus| names(name, &label(bus)))) {
        return Err(RunError::System(format!("--abandon {unknown}: these manifests use no bus of that name")));
    }
    let token = match &args.admin_token_file {
        Some(file) => Token::read(file)
            .map_err(|error| RunError::System(format!("--admin-token-file {}: {error}", file.display())))?,
        None => Token::default(),
    };
    let metrics = Metrics::new().map_err(|error| RunError::System(format!("cannot register metrics: {error}")))?;
    let registry = metrics.registry.clone();
    let board = Board::default();
    let site = Site::new(args.data_dir.clone(), args.listen, metrics, board.clone()).map_err(|error| {
        RunError::System(format!("cannot use the data directory {}: {error}", args.data_dir.display()))
    })?;
    // Who starts a second evoke on a data directory is to be told of that, not of the address that the first one has as well.
    let listener =
        TcpListener::bind(args.admin).await.map_err(|source| RunError::Admin { address: args.admin, source })?;
    let admin_address = listener.local_addr().map_err(|source| RunError::Admin { address: args.admin, source })?;
    let (readiness_tx, readiness) = watch::channel(Arc::new(Readiness::starting()));
    let admin = Admin { registry, readiness };
    let api = Api::new(board, site.instance());
    let unix = match socket::listen(&args.data_dir).await {
        Ok(unix) => Some(unix),
        Err(error @ SocketError::InUse { .. }) => return Err(error.into()),
        // Not every file system has sockets.
        Err(error) => {
            tracing::warn!(%error, "tools reach this evoke only with --admin");
            None
        }
    };
    let end_admin = CancellationToken::new();
    let mut tasks = tokio::task::JoinSet::new();
    let _socket = unix.map(|(listener, socket)| {
        tasks.spawn(admin::serve_unix(listener, admin.clone(), api.clone(), end_admin.clone()));
        socket
    });
    tasks.spawn(admin::serve(listener, admin, api, token, end_admin.clone()));

    let mut pipeline = Pipeline::new(site);
    banner::print(&plans, args, admin_address);
    let shown = Shown::new("run", &pipeline, &readiness_tx);
    let begin = async {
        let accepted = pipeline.accept(plans, &args.abandon).await?;
        pipeline.apply(accepted).await
    };
    let begun = tokio::select! {
        begun = shown.during(Box::pin(begin)) => Some(begun),
        _ = signals.next() => None,
    };
    let mut session = Session { args, schemas, watch, pipeline, readiness: readiness_tx, started };
    let ended = match begun {
        Some(Ok(())) => session.steer(&mut signals).await,
        Some(Err(refused)) => Err(refused.into()),
        None => Ok(()),
    };
    let drained = session.drain(&mut signals, ended.is_ok()).await;
    end_admin.cancel();
    // Connections that a browser keeps open must not hold up the end.
    drop(tokio::time::timeout(Duration::from_millis(500), async { while tasks.join_next().await.is_some() {} }).await);
    ended.and(drained)
}

/// Reads and plans the manifests.
fn load(schemas: &Schemas, args: &RunArgs, watch: &mut Watch) -> (Loaded, Plans) {
    block_in_place(|| {
        let mut loaded = read(schemas, &args.manifests);
        // Only the manifests say which files these are. Planning reads them, and what changes from then on is to be seen.
        watch.credentials(vault::files(&loaded.objects));
        let plans = plan(&mut loaded, args.manifests.bus, Purpose::Run, shared_port(args.listen));
        (loaded, plans)
    })
}

fn report(args: &RunArgs, diagnostics: &[Diagnostic]) {
    for diagnostic in diagnostics {
        logging::diagnose(args.log_format, diagnostic);
    }
}

/// A signal has come that asks for the end.
fn draining(signal: &str) -> Result<(), RunError> {
    tracing::info!(signal, deadline = ?limits::DRAIN, "draining; a second signal ends at once");
    Ok(())
}

struct Session<'a> {
    args: &'a RunArgs,
    schemas: Schemas,
    watch: Watch,
    pipeline: Pipeline,
    readiness: watch::Sender<Arc<Readiness>>,
    started: Instant,
}

impl Session<'_> {
    /// Keeps the pipeline in step with the manifests until a signal.
    async fn steer(&mut self, signals: &mut Signals) -> Result<(), RunError> {
        let mut look = tokio::time::interval(READINESS_INTERVAL);
        let mut settled = Instant::now();
        let mut was_ready = false;
        loop {
            tokio::select! {
                biased;
                signal = signals.next() => return draining(signal),
                () = self.watch.changed() => {
                    let shown = self.shown("reload");
                    tokio::select! {
                        biased;
                        // A part that does not start or end must not keep evoke from ending.
                        signal = signals.next() => return draining(signal),
                        reloaded = shown.during(Box::pin(self.reload())) => reloaded?,
                    }
                }
                _ = look.tick() => {
                    if let Some(refused) = self.pipeline.turned_away() {
                        return Err(refused.into());
                    }
                    if self.pipeline.is_waiting() && settled.elapsed() >= SETTLE_INTERVAL {
                        let shown = self.shown("settle");
                        tokio::select! {
                            biased;
                            signal = signals.next() => return draining(signal),
                            () = shown.during(Box::pin(self.pipeline.settle())) => {}
                        }
                        settled = Instant::now();
                    }
                    self.pipeline.show();
                    let readiness = self.pipeline.readiness();
                    let is_ready = readiness.is_ready();
                    if is_ready && !was_ready {
                        tracing::info!(after = ?self.started.elapsed(), "ready");
                    }
                    was_ready = is_ready;
                    publish(&self.readiness, readiness);
                }
            }
        }
    }

    fn shown(&self, what: &'static str) -> Shown {
        Shown::new(what, &self.pipeline, &self.readiness)
    }

    /// Takes a change of the manifests over as a whole, or keeps what runs.
    async fn reload(&mut self) -> Result<(), RunError> {
        let (loaded, plans) = load(&self.schemas, self.args, &mut self.watch);
        let accepted = if loaded.has_errors() {
            report(self.args, &loaded.diagnostics);
            let errors = loaded.diagnostics.iter().filter(|d| d.is_error()).count();
            Err(count(errors, "error"))
        } else {
            self.pipeline.accept(plans, &self.args.abandon).await.map_err(|refused| refused.to_string())
        };
        let accepted = match accepted {
            Ok(accepted) => accepted,
            Err(cause) => {
                self.pipeline.metrics().reloaded(false);
                tracing::error!(cause, "the changed manifests are refused, and what runs goes on as it was");
                return Ok(());
            }
        };
        if accepted.plans() == self.pipeline.plans() {
            self.pipeline.metrics().reloaded(true);
            return Ok(());
        }
        report(self.args, &loaded.diagnostics);
        let before = Accepted::again(self.pipeline.plans());
        let applied = self.pipeline.apply(accepted).await;
        self.pipeline.metrics().reloaded(applied.is_ok());
        match applied {
            Ok(()) => tracing::info!("the changed manifests run"),
            Err(refused) => {
                let cause = refused.to_string();
                tracing::error!(cause, "the changed manifests cannot run, and what ran before does again");
                self.pipeline.apply(before).await?;
            }
        }
        Ok(())
    }

    /// Ends the pipeline in order; a second signal cuts that short.
    async fn drain(&mut self, signals: &mut Signals, say: bool) -> Result<(), RunError> {
        let deadline = Instant::now() + limits::DRAIN;
        let drained = tokio::select! {
            biased;
            signal = signals.next() => return Err(RunError::Undrained(format!("ended at once by a second signal, {signal}"))),
            drained = tokio::time::timeout_at(deadline, self.pipeline.stop(Deadlines::before(deadline))) => drained,
        };
        match drained {
            Ok(Drained::Whole) if say => tracing::info!("drained"),
            Ok(Drained::Whole) => {}
            Ok(Drained::CutShort) => {
                return Err(RunError::Undrained("not all that was under way ended in time".to_owned()));
            }
            Err(_) => return Err(RunError::Undrained(format!("the drain took longer than {:?}", limits::DRAIN))),
        }
        Ok(())
    }
}
