//! `Watching`: all that is kept of a run, gathered second by second, and the document that is made of it at any time.

use crate::roles::status;
use crate::run::endings::Told as Ended;
use crate::run::report::{Latency, Report};
use crate::soak::Soak;
use crate::soak::baseline::Baseline;
use crate::soak::document::{Document, Head, Ledger, Told};
use crate::soak::faults::Faults;
use crate::soak::injector::Injector;
use crate::soak::judgement::{Evidence, Whose};
use crate::soak::overheard::Overheard;
use crate::soak::points::Points;
use crate::soak::replicas::Replicas;
use crate::soak::sample::{Lag, Process, Sample, Samples, disk_bytes, rss_bytes};
use crate::soak::seconds::Seconds;
use crate::soak::stage::Set;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

/// How often the system is asked how it is.
const LOOKS: Duration = Duration::from_secs(2);

/// How long that may take.
const ANSWER: Duration = Duration::from_secs(3);

/// What was so long before a fault tells what is usual.
const USUAL: f64 = 20.0;

/// What is told of two processes counts as the same trouble if the servers alone took this part of the time.
const CLUSTERS: f64 = 0.5;

#[derive(Clone)]
pub struct Watching {
    head: Head,
    reports: watch::Receiver<Report>,
    kept: Arc<Mutex<Kept>>,
    faults: Faults,
    baseline: Arc<Mutex<Seconds>>,
    overheard: Overheard,
    not_tested: Vec<String>,
    began: Instant,
    /// Ends with it.
    _tasks: Arc<Vec<AbortOnDropHandle<()>>>,
}

/// What is gathered.
struct Kept {
    ours: Seconds,
    points: Points,
    samples: Samples,
    latest: Latest,
    chunks: u64,
    violations: Vec<String>,
    last: Option<Report>,
}

/// How the system was when it was asked last.
#[derive(Clone, Debug, Default)]
struct Latest {
    lag: Vec<Lag>,
    leaders: BTreeMap<String, String>,
    processes: Vec<Process>,
}

impl Watching {
    pub fn start(
        soak: &Soak,
        head: Head,
        set: &Set,
        overheard: &Overheard,
        reports: watch::Receiver<Report>,
        told: Receiver<Ended>,
        began: Instant,
    ) -> Self {
        let kept = Arc::new(Mutex::new(Kept {
            ours: Seconds::default(),
            points: Points::new(soak.seed),
            samples: Samples::default(),
            latest: Latest::default(),
            chunks: 0,
            violations: Vec::new(),
            last: None,
        }));
        let baseline = Baseline::new(began);
        let seconds = baseline.seconds.clone();
        let beside = baseline.run(
            set.over_links.clone(),
            set.baseline_stream.clone(),
            set.baseline_subject.clone(),
            set.replicas,
        );
        let faults = Faults::default();
        let counting = count(kept.clone(), seconds.clone(), faults.clone(), reports.clone(), told, began);
        let looking = look(kept.clone(), set.injector.clone(), set.folders.clone());
        let tasks = [tokio::spawn(beside), tokio::spawn(counting), tokio::spawn(looking)].map(AbortOnDropHandle::new);
        let (not_tested, overheard) = (soak.not_tested.clone(), overheard.clone());
        let _tasks = Arc::new(tasks.into());
        Self { head, reports, kept, faults, baseline: seconds, overheard, not_tested, began, _tasks }
    }

    pub fn faults(&self) -> Faults {
        self.faults.clone()
    }

    /// How the chunker's run stands.
    pub fn report(&self) -> Report {
        self.reports.borrow().clone()
    }

    /// How the chunker's run has ended, and what a summer has said of a guarantee.
    pub fn ends_with(&self, report: Report, violation: Option<String>) {
        let mut kept = lock(&self.kept);
        kept.violations.extend(violation);
        kept.last = Some(report);
    }

    /// All that is known now.
    pub fn document(&self, has_ended: bool, failure: Option<String>, replicas: Option<Replicas>) -> Document {
        let report = self.report();
        let now = self.began.elapsed().as_secs_f64();
        let mut faults = self.faults.all();
        let mut kept = lock(&self.kept);
        recover(&mut faults, now, &kept.ours, &lock(&self.baseline));
        // What is known of the last two goes with them: when others come, these are not looked at any more.
        self.faults.change(|all| {
            for (told, now) in all.iter_mut().zip(&faults) {
                (told.recovered_s, told.baseline_recovered_s) = (now.recovered_s, now.baseline_recovered_s);
                told.whose = now.whose;
            }
        });
        let (forgot, forgot_more) = self.overheard.findings();
        let Report { counts, latency_ms, awaited, .. } = kept.last.take().unwrap_or(report);
        let evidence = Evidence {
            counts,
            unknown: if has_ended { awaited } else { 0 },
            latency: latency_ms,
            baseline: lock(&self.baseline).whole(),
            max_p99_ms: self.head.max_p99_ms,
            has_ended,
            failure,
            forgot: forgot.len() as u64 + forgot_more,
            differences: replicas.as_ref().map(|replicas| replicas.differences.clone()),
            faults: faults.iter().filter(|fault| fault.until.is_some()).count() as u64,
            without_effect: faults.iter().filter(|fault| fault.until.is_some() && !fault.had_effect).count() as u64,
            violations: kept.violations.clone(),
            slowest_recovery_s: faults.iter().filter_map(|fault| fault.recovered_s).reduce(f64::max),
        };
        Document {
            head: self.head.clone(),
            written: now_text(),
            ended: has_ended.then(now_text),
            verdict: evidence.judge(),
            ledger: Ledger { counts, unknown: evidence.unknown },
            latency_ms,
            baseline_ms: evidence.baseline,
            samples: kept.samples.all().to_vec(),
            streams: kept.points.all(),
            slopes: kept.samples.slopes(),
            faults,
            replicas,
            forgot,
            forgot_more,
            not_tested: self.not_tested(),
        }
    }

    /// What was not tested, planned faults included that were not come to.
    fn not_tested(&self) -> Vec<String> {
        let done = self.faults.all();
        let mut missed: Vec<_> = self.head.plan.faults.iter().map(|planned| planned.fault).collect();
        missed.sort_unstable();
        missed.dedup();
        missed.retain(|kind| !done.iter().any(|fault| fault.kind == *kind && fault.until.is_some()));
        let missed = missed.into_iter().map(|kind| format!("{kind}: the run did not come to it"));
        self.not_tested.iter().cloned().chain(missed).collect()
    }

    /// Of a run that was stopped before it began.
    pub fn nothing(head: Head) -> Document {
        let evidence = Evidence { has_ended: true, ..Evidence::default() };
        Document {
            head,
            written: now_text(),
            ended: Some(now_text()),
            verdict: evidence.judge(),
            ledger: Ledger::default(),
            latency_ms: Latency::default(),
            baseline_ms: Latency::default(),
            samples: Vec::new(),
            faults: Vec::new(),
            streams: Vec::new(),
            slopes: Vec::new(),
            replicas: None,
            forgot: Vec::new(),
            forgot_more: 0,
            not_tested: vec!["everything: it was stopped before it began".to_owned()],
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub fn now() -> String {
    now_text()
}

/// RFC 3339, to the millisecond.
fn now_text() -> String {
    let now = OffsetDateTime::now_utc();
    let now = now.replace_millisecond(now.millisecond()).unwrap_or(now);
    now.format(&Rfc3339).unwrap_or_default()
}

/// How long the system, and the servers alone, took to be as before after the last two faults. What was before those is told already.
fn recover(faults: &mut [Told], now: f64, ours: &Seconds, baseline: &Seconds) {
    let starts: Vec<f64> = faults.iter().map(|fault| fault.at).collect();
    let last = starts.len();
    for (n, fault) in faults.iter_mut().enumerate().skip(last.saturating_sub(2)) {
        let until = Duration::from_secs_f64(starts.get(n + 1).copied().unwrap_or(now));
        let at = Duration::from_secs_f64(fault.at);
        let seconds = |found: Option<Duration>| found.map(|found| found.as_secs_f64());
        fault.recovered_s = seconds(ours.recovered(at, until));
        fault.baseline_recovered_s = seconds(baseline.recovered(at, until));
        fault.whose = match (fault.recovered_s, fault.baseline_recovered_s) {
            (Some(0.0), _) | (None, None) => None,
            (Some(ours), Some(servers)) if servers < ours * CLUSTERS => Some(Whose::Program),
            (None, Some(_)) => Some(Whose::Program),
            (Some(_), _) => Some(Whose::Cluster),
        };
    }
}

/// Takes what is told of single streams, and makes a sample each second.
async fn count(
    kept: Arc<Mutex<Kept>>,
    baseline: Arc<Mutex<Seconds>>,
    faults: Faults,
    reports: watch::Receiver<Report>,
    told: Receiver<Ended>,
    began: Instant,
) {
    let mut ticks = interval(Duration::from_millis(100));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut sampled = 0;
    loop {
        ticks.tick().await;
        let now = began.elapsed();
        // Whoever has what is kept may look at the faults and the baseline; nobody who has those asks for what is kept.
        let mut kept = lock(&kept);
        while let Ok(told) = told.try_recv() {
            match told {
                Ended::Came { at, took } => {
                    kept.ours.record(at, took);
                    kept.points.came(at, took);
                }
                Ended::Badly(ending) => kept.points.ended_badly(now, ending),
            }
        }
        let second = now.as_secs();
        if second > sampled {
            let report = reports.borrow();
            let (finals, latency_ms) = kept.ours.of(sampled, second);
            let baseline_ms = {
                let baseline = lock(&baseline);
                // It is sent all the time: where nothing comes, something is held up.
                baseline.of(sampled, second).1.or_else(|| baseline.silence(second))
            };
            let Latest { lag, leaders, processes } = kept.latest.clone();
            let chunks = report.counts.chunks.saturating_sub(kept.chunks);
            kept.chunks = report.counts.chunks;
            let (t, open) = (second as f64, report.awaited);
            kept.samples.push(Sample { t, chunks, finals, latency_ms, baseline_ms, open, lag, leaders, processes });
            sampled = second;
            // Recoveries are told of the last two faults only.
            let two_before = faults.all().iter().rev().nth(1).map(|fault| fault.at);
            let keeps = (two_before.unwrap_or(now.as_secs_f64() - 60.0) - USUAL).max(0.0) as u64;
            kept.ours.forget(keeps);
            lock(&baseline).forget(keeps);
        }
    }
}

/// Asks the system how it is, now and then.
async fn look(kept: Arc<Mutex<Kept>>, injector: Arc<Injector>, folders: Vec<(String, PathBuf)>) {
    loop {
        let asked = status::ask(&injector.connection, &injector.names, injector.partitions);
        let asked = timeout(ANSWER, asked).await.ok().and_then(Result::ok);
        let leaders: BTreeMap<_, _> = injector.leaders().await.into_iter().collect();
        let mut processes = Vec::new();
        for (name, folder) in &folders {
            let pid = timeout(ANSWER, injector.crew.pid(name)).await.ok().flatten();
            let folder = folder.clone();
            let disk = jetfold::joined(tokio::task::spawn_blocking(move || disk_bytes(&folder)).await);
            let rss_bytes = pid.and_then(rss_bytes);
            processes.push(Process { name: name.clone(), rss_bytes, disk_bytes: disk });
        }
        let own = Process { name: "chunker".to_owned(), rss_bytes: rss_bytes(std::process::id()), disk_bytes: None };
        processes.push(own);
        let lag = asked.map(|asked| {
            let lag = asked.partitions.into_iter().filter_map(|place| {
                Some(Lag { partition: place.partition, batches: place.lag?, seconds: place.lag_seconds })
            });
            lag.collect()
        });
        {
            let mut kept = lock(&kept);
            // Where nobody answers there is nothing to tell.
            kept.latest = Latest { lag: lag.unwrap_or_default(), leaders, processes };
        }
        sleep(LOOKS).await;
    }
}
