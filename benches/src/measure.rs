//! Time and CPU of this process and of a server, and what many figures come to.

use std::error::Error;
use std::fs;
use std::time::Instant;

use evoke_tests::process::Pid;

/// What a bench ends with.
pub type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// What Linux counts CPU time in.
const TICKS_PER_SECOND: f64 = 100.0;

/// Events a second, and what an event costs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Measured {
    /// Events a second.
    pub rate: f64,
    /// CPU seconds an event, user and system, of this process.
    pub cpu: f64,
    /// The same of the server; 0 where there is none.
    pub server_cpu: f64,
}

impl Measured {
    /// The median of each figure.
    pub fn median(all: &[Self]) -> Self {
        let of = |figure: fn(&Self) -> f64| median(all.iter().map(figure).collect());
        Self { rate: of(|m| m.rate), cpu: of(|m| m.cpu), server_cpu: of(|m| m.server_cpu) }
    }
}

/// Measures from its start to its stop.
#[derive(Debug)]
pub struct Meter {
    started: Instant,
    cpu: f64,
    server: Option<(Pid, f64)>,
}

impl Meter {
    /// Starts. `server` is the process that is looked at too.
    ///
    /// # Errors
    /// When a process is not there.
    pub fn start(server: Option<Pid>) -> Outcome<Self> {
        let server = server.map(|pid| Ok::<_, Box<dyn Error + Send + Sync>>((pid, cpu_of(pid)?))).transpose()?;
        Ok(Self { cpu: own_cpu()?, server, started: Instant::now() })
    }

    /// What `events` took.
    ///
    /// # Errors
    /// When a process is not there any more.
    pub fn stop(&self, events: usize) -> Outcome<Measured> {
        let (events, took) = (events as f64, self.started.elapsed().as_secs_f64());
        let server = match self.server {
            Some((pid, before)) => cpu_of(pid)? - before,
            None => 0.0,
        };
        Ok(Measured { rate: events / took, cpu: (own_cpu()? - self.cpu) / events, server_cpu: server / events })
    }
}

/// User and system time that this process has taken, in seconds.
///
/// # Errors
/// When the system does not say.
pub fn own_cpu() -> Outcome<f64> {
    cpu("self")
}

/// The same of another process.
///
/// # Errors
/// When it is not there.
pub fn cpu_of(pid: Pid) -> Outcome<f64> {
    cpu(&pid.as_raw_nonzero().to_string())
}

fn cpu(process: &str) -> Outcome<f64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    // After the name, which may hold anything, come the state and ten others, then user and system time.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
    let ticks = fields.map(str::parse::<f64>).sum::<Result<f64, _>>()?;
    Ok(ticks / TICKS_PER_SECOND)
}

/// What this process has in memory, in KiB.
///
/// # Errors
/// When the system does not say.
pub fn resident_kib() -> Outcome<i64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// The one in the middle; of two, the larger.
pub fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or_default()
}

/// What so large a share of `sorted` is not above.
pub fn percentile(sorted: &[f64], share: f64) -> f64 {
    let at = (sorted.len().saturating_sub(1) as f64 * share) as usize;
    sorted.get(at).copied().unwrap_or_default()
}
