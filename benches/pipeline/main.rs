//! The price of being right: what the program does beside loops that promise nothing, side by side in one run, several
//! rounds of each. Prints medians with their spread and the ratios that are aimed at, and writes JSON and a plot.
//!
//! ```sh
//! cargo bench --bench pipeline
//! cargo bench --bench pipeline -- --only drain,latency --rounds 3
//! cargo bench --bench pipeline -- --chunk-bytes 32,1024,65536 --chunks 3,100,10000 --partitions 1,8
//! ```
//!
//! With sizes, publishing and draining are measured for each combination of them, and nothing else.

#[path = "../support/mod.rs"]
mod support;

mod latency;
mod table;

use clap::{Parser, ValueEnum};
use latency::Latency;
use nix::sys::signal::Signal;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use support::load::{Load, Made};
use support::stack::Stack;
use support::{load, loops};
use table::{Aim, Table};

#[derive(Parser)]
struct Arguments {
    /// What to measure; everything where nothing is named.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Part>,
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// MiB of chunk batches in all logs together.
    #[arg(long, default_value_t = 1024)]
    mib: u64,
    /// Bytes of data a chunk.
    #[arg(long, value_delimiter = ',')]
    chunk_bytes: Vec<usize>,
    /// Chunks of data a stream.
    #[arg(long, value_delimiter = ',')]
    chunks: Vec<u64>,
    /// Streams that are open at once.
    #[arg(long, value_delimiter = ',')]
    live_streams: Vec<usize>,
    #[arg(long, value_delimiter = ',')]
    partitions: Vec<u32>,
    /// Folder for pipeline.json and pipeline.svg.
    #[arg(long, default_value = "target/pipeline")]
    out: PathBuf,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Part {
    Publish,
    Drain,
    EndToEnd,
    Latency,
    Fold,
    Live,
}

/// More than any log of a benchmark grows to: nothing is purged.
const ROOMY: u64 = 16 << 30;

const PARTITIONS: u32 = 8;

/// Chunks a second that are a tenth of the peak.
const TENTH: u64 = 200_000;

struct Bench {
    rounds: usize,
    bytes: u64,
    table: Table,
}

#[tokio::main]
async fn main() {
    let arguments = Arguments::parse();
    let mut bench = Bench { rounds: arguments.rounds, bytes: arguments.mib << 20, table: Table::default() };
    bench.describe().await;
    let sized = !(arguments.chunk_bytes.is_empty()
        && arguments.chunks.is_empty()
        && arguments.live_streams.is_empty()
        && arguments.partitions.is_empty());
    if sized {
        bench.grid(&arguments).await;
    } else {
        let wanted = |part| arguments.only.is_empty() || arguments.only.contains(&part);
        let load = bench.load(100, 32);
        if wanted(Part::Publish) {
            bench.publish(load, Some(Aim::AtLeast(0.65))).await;
        }
        if wanted(Part::Drain) {
            bench.drain(bench.load(10_000, 32), true).await;
            bench.drain(load, true).await;
            bench.drain(bench.load(100, 1 << 10), true).await;
        }
        if wanted(Part::EndToEnd) {
            bench.end_to_end().await;
        }
        if wanted(Part::Latency) {
            bench.latency().await;
        }
        if wanted(Part::Fold) {
            bench.fold();
        }
        if wanted(Part::Live) {
            bench.live().await;
        }
    }
    fs::create_dir_all(&arguments.out).expect("a folder");
    let json = serde_json::to_vec_pretty(&bench.table).expect("a JSON form");
    fs::write(arguments.out.join("pipeline.json"), json).expect("a file");
    fs::write(arguments.out.join("pipeline.svg"), bench.table.plot()).expect("a file");
    println!("written to {}", arguments.out.display());
}

/// What a load is called.
fn name(load: &Load) -> String {
    let Load { partitions, chunks, chunk_bytes, live_streams, .. } = load;
    let partitions = if *partitions == PARTITIONS { String::new() } else { format!(", {partitions} partitions") };
    let live = if *live_streams == load::LIVE_STREAMS { String::new() } else { format!(", {live_streams} live") };
    format!("{chunk_bytes} B, {chunks} a stream{live}{partitions}")
}

fn ratios(over: &[f64], under: &[f64]) -> Vec<f64> {
    over.iter().zip(under).map(|(over, under)| over / under).collect()
}

impl Bench {
    fn load(&self, chunks: u64, chunk_bytes: usize) -> Load {
        Load { partitions: PARTITIONS, chunks, chunk_bytes, live_streams: load::LIVE_STREAMS, bytes: self.bytes }
    }

    async fn describe(&mut self) {
        let stack = Stack::start(1, ROOMY).await;
        let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model =
            cpus.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("?").trim_matches(['\t', ':', ' ']);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        self.table.describe(format!("{cores} cores ({model}), client, server and workers together on them"));
        self.table.describe(format!(
            "nats-server {}, 1 replica, file storage, sync_interval 2 min (its default); stream-sum {}, {} rounds: median (least to most)",
            stack.version,
            env!("CARGO_PKG_VERSION"),
            self.rounds
        ));
    }

    /// Every combination of the sizes that were asked for.
    async fn grid(&mut self, arguments: &Arguments) {
        fn or<T: Copy>(given: &[T], default: T) -> Vec<T> {
            if given.is_empty() { vec![default] } else { given.to_vec() }
        }
        for chunk_bytes in or(&arguments.chunk_bytes, 32) {
            for chunks in or(&arguments.chunks, 100) {
                for live_streams in or(&arguments.live_streams, load::LIVE_STREAMS) {
                    for partitions in or(&arguments.partitions, PARTITIONS) {
                        let load = Load { partitions, chunks, chunk_bytes, live_streams, bytes: self.bytes };
                        self.publish(load, None).await;
                        self.drain(load, false).await;
                    }
                }
            }
        }
    }

    /// The chunker alone, beside the publishing of ready-made batches.
    async fn publish(&mut self, load: Load, aim: Option<Aim>) {
        let made = load.make();
        let (mut raw, mut chunker) = (vec![], vec![]);
        let streams = (made.chunks / (load.chunks + 1)).max(1);
        for _ in 0..self.rounds {
            let stack = Stack::start(load.partitions, ROOMY).await;
            loops::publish(&stack, &made).await;
            raw.push(made.chunks as f64 / stack.publishing_seconds().await / 1e6);

            let stack = Stack::start(load.partitions, ROOMY).await;
            let arguments =
                format!("chunker --streams {streams} --chunks {} --chunk-bytes {}", load.chunks, load.chunk_bytes);
            let live = (load.live_streams / 4).max(1).to_string();
            let mut command = stack.program(&arguments);
            let _chunking = stack.spawn(command.env("STREAM_SUM_CHUNKER__LIVE_STREAMS", live));
            let chunks = streams * (load.chunks + 1);
            chunker.push(chunks as f64 / stack.publishing_seconds().await / 1e6);
        }
        let name = name(&load);
        let ratio = ratios(&chunker, &raw);
        self.table.add(format!("raw publish of ready-made batches ({name})"), "M/s", raw, None);
        self.table.add(format!("chunker alone, verification data included ({name})"), "M/s", chunker, None);
        self.table.add(format!("chunker to raw publish ({name})"), "", ratio, aim);
    }

    /// The summer alone on full logs, beside loops that do parts of its work.
    async fn drain(&mut self, load: Load, aims: bool) {
        let made = load.make();
        let stack = Stack::start(load.partitions, ROOMY).await;
        loops::publish(&stack, &made).await;
        let (mut drain, mut once, mut forget, mut summer, mut used) = (vec![], vec![], vec![], vec![], vec![]);
        let (mut sha1, mut alone) = (vec![], vec![]);
        let data_bytes = made.chunks * load.chunk_bytes as u64;
        for _ in 0..self.rounds {
            drain.push(loops::drain(&stack).await);
            once.push(loops::publish_once(&stack, &made).await);
            stack.purge_sums().await;
            forget.push(loops::fold_and_forget(&stack).await);

            let before = stack.server.processor_seconds();
            let began = Instant::now();
            let summing = stack.summer(&stack.data());
            stack.committed().await;
            summer.push(began.elapsed().as_secs_f64());
            used.push((summing.processor_seconds(), stack.server.processor_seconds() - before));
            assert_eq!(stack.finals().await, made.completed(), "each completed stream has its final");
            summing.end(Signal::SIGKILL);
            fs::remove_dir_all(stack.data()).expect("a folder");
            stack.purge_sums().await;

            sha1.push(loops::bare_sha1(data_bytes));
            alone.push(data_bytes as f64 / loops::fold_alone(&made));
        }
        let name = name(&load);
        let rate =
            |seconds: &[f64]| seconds.iter().map(|seconds| made.chunks as f64 / seconds / 1e6).collect::<Vec<_>>();
        let finals = load.chunks <= 1000;
        let slower: Vec<_> =
            drain.iter().zip(&once).map(|(drain, once)| if finals { drain.max(*once) } else { *drain }).collect();
        let (to_raw, to_loop) = (ratios(&slower, &summer), ratios(&forget, &summer));
        self.table.add(format!("raw drain ({name})"), "M/s", rate(&drain), None);
        if finals {
            let rounds = once.iter().map(|seconds| made.completed() as f64 / seconds / 1e3).collect();
            self.table.add(format!("raw once-only publish of its finals ({name})"), "k/s", rounds, None);
        }
        self.table.add(format!("loop without commit and once-only ({name})"), "M/s", rate(&forget), None);
        self.table.add(format!("summer, from start to last commit ({name})"), "M/s", rate(&summer), None);
        let seconds = |of: fn(&(f64, f64)) -> f64| used.iter().map(of).collect::<Vec<_>>();
        self.table.add("  processor time of the summer", "s", seconds(|used| used.0), None);
        self.table.add("  processor time of nats-server meanwhile", "s", seconds(|used| used.1), None);
        let limit = if finals { "the slower of raw drain and once-only publish" } else { "raw drain" };
        let small = aims && load.chunk_bytes == 32;
        self.table.add(format!("summer to {limit} ({name})"), "", to_raw, small.then_some(Aim::AtLeast(0.65)));
        self.table.add(format!("summer to that loop ({name})"), "", to_loop, aims.then_some(Aim::AtLeast(0.9)));
        if load.chunk_bytes >= 1 << 10 {
            let gigabytes = |rates: &[f64]| rates.iter().map(|rate| rate / 1e9).collect::<Vec<_>>();
            let summed: Vec<_> = summer.iter().map(|seconds| data_bytes as f64 / seconds).collect();
            let (of_fold, of_summer) = (ratios(&alone, &sha1), ratios(&summed, &sha1));
            self.table.add(format!("bare SHA-1, a thread a core ({name})"), "GB/s", gigabytes(&sha1), None);
            self.table.add(format!("fold alone, as many threads ({name})"), "GB/s", gigabytes(&alone), None);
            self.table.add(format!("summer ({name})"), "GB/s", gigabytes(&summed), None);
            self.table.add(format!("fold to bare SHA-1 ({name})"), "", of_fold, aims.then_some(Aim::AtLeast(0.8)));
            self.table.add(format!("summer to bare SHA-1 ({name})"), "", of_summer, aims.then_some(Aim::AtLeast(0.8)));
        }
    }

    /// Everything at once: chunker, server and summer.
    async fn end_to_end(&mut self) {
        for (streams, chunks, what, unit, per, aim) in [
            (200_000, 100, "end to end, verified (32 B, 100 a stream)", "M/s", 1e6, Aim::AtLeast(2.0)),
            (400_000, 3, "finals, verified (32 B, 3 a stream)", "k/s", 1e3, Aim::AtLeast(40.0)),
        ] {
            let stack = Stack::start(PARTITIONS, ROOMY).await;
            let _summing = stack.summer(&stack.data());
            let mut rounds = Vec::new();
            for _ in 0..self.rounds {
                let report = report(&stack, &format!("--streams {streams} --chunks {chunks}"));
                assert_eq!(report["verified"], streams);
                let counted = if chunks == 3 { &report["verified"] } else { &report["chunks"] };
                let elapsed = report["elapsed_s"].as_f64().expect("seconds");
                rounds.push(counted.as_f64().expect("a number") / elapsed / per);
            }
            self.table.add(what, unit, rounds, Some(aim));
        }
    }

    /// From a closing chunk to its verified final, at a tenth of the peak.
    async fn latency(&mut self) {
        const SECONDS: u64 = 10;
        let closings = TENTH / 101;
        let stack = Stack::start(PARTITIONS, ROOMY).await;
        let (mut floors, mut finals) = (vec![], vec![]);
        for _ in 0..self.rounds {
            // What a stream's chunks take, in one batch.
            floors.push(latency::floor(&stack, 101 * 54, closings, SECONDS).await);
        }
        drop(stack);
        let stack = Stack::start(PARTITIONS, ROOMY).await;
        let _summing = stack.summer(&stack.data());
        for _ in 0..self.rounds {
            let report = report(&stack, &format!("--rate {TENTH} --streams {}", closings * SECONDS));
            let ms = |quantile: &str| report["latency_ms"][quantile].as_f64().expect("milliseconds");
            finals.push(Latency { p50: ms("p50"), p99: ms("p99") });
        }
        for (quantile, of, aim) in [("p50", Latency::p50 as fn(&Latency) -> f64, 1.5), ("p99", Latency::p99, 3.0)] {
            let floor: Vec<_> = floors.iter().map(of).collect();
            let summed: Vec<_> = finals.iter().map(of).collect();
            let ratio = ratios(&summed, &floor);
            let at = format!("at {} k chunk/s, {quantile}", TENTH / 1000);
            self.table.add(format!("floor: publish with ack, deliver, twice ({at})"), "ms", floor, None);
            self.table.add(format!("closing chunk to verified final ({at})"), "ms", summed, None);
            self.table.add(format!("final to floor ({at})"), "", ratio, Some(Aim::Under(aim)));
        }
    }

    /// The pure fold, with few streams and with many.
    fn fold(&mut self) {
        let costs: Vec<Vec<f64>> = [1_000, 100_000, 1_000_000]
            .into_iter()
            .map(|live_streams| {
                let load = Load { partitions: 1, live_streams, bytes: self.bytes, ..self.load(1_000_000, 32) };
                let made = load.make();
                (0..self.rounds).map(|_| cost(&made, live_streams)).collect()
            })
            .collect();
        for (cost, live) in costs.iter().zip(["1 k", "100 k", "1 M"]) {
            self.table.add(format!("fold, {live} live streams (32 B)"), "ns/chunk", cost.clone(), None);
        }
        let to_few = |n: usize| ratios(&costs[n], &costs[0]);
        self.table.add("fold, 100 k live streams to 1 k", "", to_few(1), Some(Aim::Under(3.0)));
        self.table.add("fold, 1 M live streams to 1 k", "", to_few(2), Some(Aim::Under(8.0)));
    }

    /// A million live streams: memory, and the time to get back to them.
    async fn live(&mut self) {
        const LIVE: u64 = 1_000_000;
        let mut stack = Stack::start(PARTITIONS, 256 << 20).await;
        let summing = stack.summer(&stack.data());
        let mut command = stack.program("chunker --streams 1000000 --chunks 1000000000");
        let chunking = stack.spawn(command.env("STREAM_SUM_CHUNKER__LIVE_STREAMS", (LIVE / 4).to_string()));
        loop {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let live: u64 = stack.standings().await.iter().map(|standing| standing.live_streams).sum();
            if live >= LIVE * 99 / 100 {
                break;
            }
        }
        // At every full second for a while, while all of them are extended.
        let mut resident = Vec::new();
        for _ in 0..60 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            resident.push(summing.resident() as f64 / f64::from(1 << 20));
        }
        let growth = resident[40..].iter().sum::<f64>() / resident[..20].iter().sum::<f64>();
        self.table.add("summer's memory, 1 M live streams, default cache", "MiB", resident, Some(Aim::Under(400.0)));
        self.table.add("  its last 20 seconds of a minute to its first", "", vec![growth], None);
        chunking.end(Signal::SIGINT);
        stack.committed().await;
        let mut summing = Some(summing);
        let mut rounds = Vec::new();
        for _ in 0..self.rounds {
            summing.take().expect("it runs").end(Signal::SIGKILL);
            let (seconds, running) = stack.time_to_progress(&stack.data()).await;
            rounds.push(seconds);
            summing = Some(running);
        }
        self.table.add("SIGKILL to progress in every partition, 1 M live rows", "s", rounds, Some(Aim::Under(1.0)));
    }
}

/// Nanoseconds a chunk, once every stream is open.
fn cost(made: &Made, live_streams: usize) -> f64 {
    use jetfold::Batch;
    use stream_sum::sum::held::fold_held;
    let mut table = loops::table(0, 1);
    let (mut began, mut chunks, mut live) = (Instant::now(), 0, 0);
    for (payload, position) in made.batches[0].iter().zip(1..) {
        // The first few turns open streams: a third of the log is enough for all.
        if position as usize == made.batches[0].len() / 3 {
            (began, chunks) = (Instant::now(), 0);
        }
        let batch = Batch { position, time: 1, payload: payload.clone(), stamp: None };
        chunks += fold_held(&mut table, &batch).tally.records;
        // A transaction ends now and then, as in a summer.
        if position % 256 == 0
            && let Some(last) = table.seal(0, &[])
        {
            live = last.checkpoint.live;
        }
    }
    assert!(live as usize >= live_streams * 9 / 10, "{live} live streams");
    began.elapsed().as_nanos() as f64 / chunks as f64
}

/// What a chunker reports of its run.
fn report(stack: &Stack, arguments: &str) -> serde_json::Value {
    let file = stack.folder.path().join("report.json");
    let mut command = stack.program(&format!("chunker {arguments}"));
    stack.spawn(command.arg("--report").arg(&file)).succeed();
    serde_json::from_slice(&fs::read(&file).expect("a report")).expect("JSON")
}
