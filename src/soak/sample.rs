//! Samples: how the system was, second by second at first, and over longer stretches in a long run.

use crate::run::report::Latency;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Samples that a report has, at the most: with more, two neighbours become one.
pub const MOST: usize = 1800;

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Sample {
    /// The end of the stretch, in seconds since the first chunk.
    pub t: f64,
    /// What was sent and came in it.
    pub chunks: u64,
    pub finals: u64,
    pub latency_ms: Option<Latency>,
    pub baseline_ms: Option<Latency>,
    /// Streams that wait for their finals.
    pub open: u64,
    pub lag: Vec<Lag>,
    /// The server that leads each stream.
    pub leaders: BTreeMap<String, String>,
    pub processes: Vec<Process>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Lag {
    pub partition: u32,
    pub batches: u64,
    pub seconds: Option<f64>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Process {
    pub name: String,
    pub rss_bytes: Option<u64>,
    pub disk_bytes: Option<u64>,
}

/// How memory or disk of a process has grown, by a line through all that was seen of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Slope {
    pub process: String,
    pub what: &'static str,
    pub bytes_per_hour: f64,
    pub from_bytes: u64,
    pub to_bytes: u64,
}

#[derive(Default)]
pub struct Samples {
    samples: Vec<Sample>,
    /// Samples that become one.
    each: usize,
    gathering: Vec<Sample>,
}

impl Samples {
    pub fn push(&mut self, sample: Sample) {
        self.gathering.push(sample);
        if self.gathering.len() >= self.each.max(1) {
            self.samples.extend(std::mem::take(&mut self.gathering).into_iter().reduce(merged));
        }
        if self.samples.len() >= MOST {
            let mut pairs = std::mem::take(&mut self.samples).into_iter();
            while let Some(first) = pairs.next() {
                self.samples.push(match pairs.next() {
                    Some(second) => merged(first, second),
                    None => first,
                });
            }
            self.each = self.each.max(1) * 2;
        }
    }

    pub fn all(&self) -> &[Sample] {
        &self.samples
    }

    /// Of all processes of which more than a few samples tell.
    pub fn slopes(&self) -> Vec<Slope> {
        type Of = fn(&Process) -> Option<u64>;
        const WHAT: [(&str, Of); 2] = [("memory", |process| process.rss_bytes), ("disk", |process| process.disk_bytes)];
        let names: std::collections::BTreeSet<&str> =
            self.samples.iter().flat_map(|sample| &sample.processes).map(|process| process.name.as_str()).collect();
        let mut slopes = Vec::new();
        for name in names {
            for (what, of) in WHAT {
                let points = self.samples.iter().filter_map(|sample| {
                    let process = sample.processes.iter().find(|process| process.name == name)?;
                    Some((sample.t, of(process)?))
                });
                let points: Vec<_> = points.collect();
                if let (Some(slope), [(_, from), .., (_, to)]) = (slope(&points), points.as_slice()) {
                    let process = name.to_owned();
                    slopes.push(Slope {
                        process,
                        what,
                        bytes_per_hour: slope * 3600.0,
                        from_bytes: *from,
                        to_bytes: *to,
                    });
                }
            }
        }
        slopes
    }
}

/// Bytes a second, by least squares.
fn slope(points: &[(f64, u64)]) -> Option<f64> {
    let n = points.len() as f64;
    if points.len() < 10 {
        return None;
    }
    let (mean_t, mean) =
        (points.iter().map(|(t, _)| t).sum::<f64>() / n, points.iter().map(|(_, y)| *y as f64).sum::<f64>() / n);
    let over: f64 = points.iter().map(|(t, y)| (t - mean_t) * (*y as f64 - mean)).sum();
    let under: f64 = points.iter().map(|(t, _)| (t - mean_t).powi(2)).sum();
    (under > 0.0).then(|| over / under)
}

/// Two neighbours as one: what was counted is added up, of latencies the worse counts, and the rest is as at the end.
fn merged(first: Sample, second: Sample) -> Sample {
    let worse = |a: Option<Latency>, b: Option<Latency>| match (a, b) {
        (Some(a), Some(b)) => Some(Latency {
            p50: a.p50.max(b.p50),
            p90: a.p90.max(b.p90),
            p99: a.p99.max(b.p99),
            p999: a.p999.max(b.p999),
            max: a.max.max(b.max),
        }),
        (a, b) => a.or(b),
    };
    Sample {
        chunks: first.chunks + second.chunks,
        finals: first.finals + second.finals,
        latency_ms: worse(first.latency_ms, second.latency_ms),
        baseline_ms: worse(first.baseline_ms, second.baseline_ms),
        ..second
    }
}

/// Resident memory of a process, in bytes; `None` where nobody tells it.
pub fn rss_bytes(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
}

/// What a folder takes. Files may come and go meanwhile.
pub fn disk_bytes(folder: &Path) -> Option<u64> {
    let entries = fs::read_dir(folder).ok()?;
    let sizes = entries.flatten().filter_map(|entry| match entry.metadata().ok()? {
        inner if inner.is_dir() => disk_bytes(&entry.path()),
        file => Some(file.len()),
    });
    Some(sizes.sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_run_has_as_many_samples_as_a_short_one_and_tells_the_worst_and_the_whole() {
        let mut samples = Samples::default();
        let seconds = 10_000;
        for t in 0..seconds {
            let max = if t == 4321 { 900.0 } else { 1.0 };
            let latency_ms = Some(Latency { max, ..Latency::default() });
            let process = Process { name: "a".to_owned(), rss_bytes: Some(1_000_000 + 10 * t), disk_bytes: None };
            let sample = Sample { t: t as f64, finals: 3, latency_ms, processes: vec![process], ..Sample::default() };
            samples.push(sample);
        }
        let all = samples.all();
        assert!(all.len() < MOST && all.len() > MOST / 3, "{}", all.len());
        let finals: u64 = all.iter().map(|sample| sample.finals).sum();
        assert!(finals > 3 * seconds - 3 * 16, "what is gathered still is missing: {finals}");
        assert!(all.iter().any(|sample| sample.latency_ms.is_some_and(|latency| latency.max > 899.0)));
        let slopes = samples.slopes();
        assert_eq!(slopes.len(), 1);
        assert!((slopes[0].bytes_per_hour - 36_000.0).abs() < 1.0, "{slopes:?}");
    }

    #[test]
    fn a_process_s_memory_and_a_folder_s_files_are_measured() {
        assert!(rss_bytes(std::process::id()).is_none_or(|bytes| bytes > 1 << 20));
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("inner")).unwrap();
        fs::write(folder.path().join("inner/file"), [0; 1000]).unwrap();
        assert_eq!(disk_bytes(folder.path()), Some(1000));
        assert_eq!(disk_bytes(&folder.path().join("none")), None);
    }
}
