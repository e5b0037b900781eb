//! Accepts connections at one address, and speaks HTTP/1.1 and HTTP/2 (without TLS) on them.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use hyper::rt::Executor;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use prometheus::IntGauge;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Duration, Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use super::limits::Limits;
use super::listeners::{Hub, Listener, State};
use super::request;

/// The first wait before an address that is in use is tried again; it doubles.
const FIRST_RETRY: Duration = Duration::from_millis(100);
/// The wait after the operating system gave out no connection, for lack of file descriptors mostly.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// How long a connection that was asked to end may take when it has nothing to do.
const LINGERING_CLOSE: Duration = Duration::from_secs(2);
/// Requests that one HTTP/2 connection may have under way.
const STREAMS: u32 = 256;
/// What one HTTP/2 connection may send ahead of being read, in bytes; and one request on it.
const WINDOWS: (u32, u32) = (1024 * 1024, 256 * 1024);

/// Listens at an address for as long as somebody needs it.
pub(super) async fn listen(hub: Arc<Hub>, listener: Arc<Listener>) {
    let Some(socket) = bind(&hub, &listener).await else { return };
    let server = Arc::new(server(&hub));
    // Dropping the guard asks the connections to end.
    let closing = hub.closing.child_token();
    let _guard = closing.clone().drop_guard();
    loop {
        let accept = async {
            let permit = Arc::clone(&hub.connections).acquire_owned().await;
            (socket.accept().await, permit)
        };
        tokio::select! {
            biased;
            () = hub.closing.cancelled() => return,
            () = listener.routes.wait_expired() => if hub.retire(&listener) {
                info!(address = %listener.address, "no webhook listens here any more");
                return;
            },
            (accepted, permit) = accept => match (accepted, permit) {
                (Ok((stream, _)), Ok(permit)) => {
                    let connection = Connection {
                        hub: Arc::clone(&hub),
                        listener: Arc::clone(&listener),
                        server: Arc::clone(&server),
                        closing: closing.clone(),
                        _permit: permit,
                        _open: Counted::new(hub.metrics.connections.clone()),
                    };
                    hub.tasks.spawn(connection.serve(stream));
                }
                (Ok(_), Err(_)) => return,
                (Err(error), _) if is_of_the_connection(&error) => debug!(%error, "a connection was gone at once"),
                (Err(error), _) => {
                    warn!(address = %listener.address, %error, "cannot accept connections: is the limit of open files too low?");
                    sleep(ACCEPT_RETRY).await;
                }
            },
        }
    }
}

async fn bind(hub: &Hub, listener: &Listener) -> Option<TcpListener> {
    let mut retry = FIRST_RETRY;
    loop {
        let bound = match TcpListener::bind(listener.address).await {
            Ok(socket) => socket.local_addr().map(|address| (socket, address)),
            Err(error) => Err(error),
        };
        match bound {
            Ok((socket, address)) => {
                info!(%address, "webhooks listen");
                listener.state.send_replace(State::Up(address));
                return Some(socket);
            }
            Err(error) => {
                let cause: Arc<str> = format!("cannot listen on {}: {error}", listener.address).into();
                let news = listener.state.send_if_modified(|state| {
                    let news = *state != State::Down(Arc::clone(&cause));
                    *state = State::Down(Arc::clone(&cause));
                    news
                });
                if news {
                    warn!(address = %listener.address, %error, "cannot listen, tries again");
                }
            }
        }
        tokio::select! {
            () = hub.closing.cancelled() => return None,
            () = sleep(retry) => {}
        }
        if hub.retire(listener) {
            return None;
        }
        retry = (retry * 2).min(hub.limits.bind_retry);
    }
}

fn is_of_the_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

fn server(hub: &Hub) -> Builder<Owned> {
    let Limits { head_bytes, headers, head_time, .. } = hub.limits;
    let mut server = Builder::new(Owned { tasks: hub.tasks.clone(), abort: hub.abort.clone() });
    server
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(head_time)
        .max_buf_size(head_bytes)
        .max_headers(headers)
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(head_bytes).unwrap_or(u32::MAX))
        .max_concurrent_streams(STREAMS)
        .initial_connection_window_size(WINDOWS.0)
        .initial_stream_window_size(WINDOWS.1)
        .keep_alive_interval(head_time)
        .keep_alive_timeout(head_time);
    server
}

/// Runs what an HTTP/2 connection starts as tasks of the hub.
#[derive(Clone, Debug)]
struct Owned {
    tasks: TaskTracker,
    abort: CancellationToken,
}

impl<F: Future<Output: Send> + Send + 'static> Executor<F> for Owned {
    fn execute(&self, task: F) {
        let abort = self.abort.clone();
        self.tasks.spawn(async move { abort.run_until_cancelled(task).await.is_some() });
    }
}

struct Connection {
    hub: Arc<Hub>,
    listener: Arc<Listener>,
    server: Arc<Builder<Owned>>,
    closing: CancellationToken,
    _permit: OwnedSemaphorePermit,
    _open: Counted,
}

impl Connection {
    async fn serve(self, stream: TcpStream) {
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%error, "a connection was gone at once");
            return;
        }
        let activity = Arc::new(Activity::default());
        let service = service_fn(|request| {
            let (hub, listener) = (Arc::clone(&self.hub), Arc::clone(&self.listener));
            let busy = Busy::new(&activity);
            async move {
                let answer = request::serve(&hub, &listener.routes, request).await;
                drop(busy);
                Ok::<_, Infallible>(answer)
            }
        });
        let mut connection = pin!(self.server.serve_connection(TokioIo::new(stream), service));
        let patience = self.hub.limits.head_time;
        let (mut seen, mut ending) = (0, false);
        let mut check = Instant::now() + patience;
        loop {
            tokio::select! {
                outcome = connection.as_mut() => {
                    if let Err(error) = outcome {
                        debug!(error, "a connection ended early");
                    }
                    return;
                }
                () = self.hub.abort.cancelled() => return,
                () = self.closing.cancelled(), if !ending => {
                    ending = true;
                    check = Instant::now() + LINGERING_CLOSE;
                    connection.as_mut().graceful_shutdown();
                }
                () = sleep_until(check) => {
                    let served = activity.served.load(Ordering::Relaxed);
                    let idle = served == seen && activity.under_way.load(Ordering::Relaxed) == 0;
                    match (idle, ending) {
                        (true, true) => return,
                        (true, false) => {
                            ending = true;
                            connection.as_mut().graceful_shutdown();
                        }
                        (false, _) => {}
                    }
                    seen = served;
                    check = Instant::now() + if ending { LINGERING_CLOSE } else { patience };
                }
            }
        }
    }
}

/// What the requests of one connection do, to tell an idle one from a busy one.
#[derive(Debug, Default)]
struct Activity {
    served: AtomicU64,
    under_way: AtomicUsize,
}

struct Busy(Arc<Activity>);

impl Busy {
    fn new(activity: &Arc<Activity>) -> Self {
        activity.served.fetch_add(1, Ordering::Relaxed);
        activity.under_way.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(activity))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One more on a gauge, until it is dropped.
struct Counted(IntGauge);

impl Counted {
    fn new(gauge: IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}
