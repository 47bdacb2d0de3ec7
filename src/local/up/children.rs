//! Child processes that are kept running: started again when they end, and never left behind.

use crate::local::up::keeper::{self, Note};
use crate::telemetry;
use futures_util::future::{self, BoxFuture, FutureExt};
use jetfold::nats::retry::Pauses;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{self, PipeWriter, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{self, Child};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

/// A child that has run for less has not got anywhere.
const QUICK: Duration = Duration::from_secs(2);

/// After this many ends in a row without getting anywhere, a child is not started again.
const MOST_QUICK_ENDS: u32 = 8;

/// How long the last words of a child may take.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How long the keeper may take to clean up.
const CLEANING: Duration = Duration::from_secs(12);

/// Exit codes of this program after which starting it again would not help.
const USAGE: i32 = 2;
const VIOLATION: i32 = 3;

#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    #[error("{name} can't be started: {source}")]
    NotStarted { name: String, source: io::Error },
    #[error("{name} {how}, {times} times in a row as soon as it was started")]
    KeepsEnding { name: String, how: String, times: u32 },
    /// Its exit code says that starting it again would not help.
    #[error("{name} {how}")]
    GaveUp { name: String, how: String, code: i32 },
}

/// Why a child has ended, as its log says.
type LastWord = Box<dyn Fn() -> String + Send>;

/// Makes the command that starts a child.
type Make = Box<dyn FnMut() -> io::Result<Command> + Send>;

struct Kept {
    name: String,
    make: Make,
    /// What it says about its end elsewhere than on standard error.
    last_word: Option<LastWord>,
    /// Whether its exit codes are those of this program.
    ours: bool,
    state: State,
    quick_ends: u32,
    pauses: Pauses,
}

enum State {
    Running {
        process: Box<Child>,
        pid: u32,
        since: Instant,
        /// What it says, being passed on.
        words: Option<JoinHandle<()>>,
    },
    /// To be started again.
    Resting { until: Instant },
    /// Ended as it was told to, and not started again until somebody says so.
    Held,
}

/// Told what each child says, by its name.
pub type Hear = Arc<dyn Fn(&str, &str) + Send + Sync>;

enum Event {
    /// The child at this place has ended.
    Ended(usize, ExitStatus),
    /// Its rest is over.
    Rested(usize),
}

/// The children of this process, and the keeper that outlives it.
pub struct Children {
    kept: Vec<Kept>,
    folder: Option<PathBuf>,
    /// `None` where one could not be started in place of one that was killed.
    keeper: Option<Keeper>,
    /// A child of this program has given up: whatever is waited for, this is not forgotten.
    given_up: Option<ChildError>,
    hear: Hear,
}

struct Keeper {
    process: Child,
    pipe: PipeWriter,
}

impl Keeper {
    /// `running` are the children that there are already. It finds them in its pipe as it starts, however soon afterwards
    /// this process dies.
    fn start(folder: Option<&Path>, running: impl Iterator<Item = u32>) -> Result<Self, ChildError> {
        let start = || {
            // Blocking, so that a note is never half-way when somebody stops waiting; a pipe holds thousands of them.
            let (notes, mut pipe) = io::pipe()?;
            for pid in running {
                pipe.write_all(Note::Started(pid).line().as_bytes())?;
            }
            let mut command = process::Command::new(program()?);
            command.arg(keeper::COMMAND).args(folder).process_group(0);
            command.stdin(notes).stdout(Stdio::null()).stderr(Stdio::null());
            Ok(Self { process: command.spawn()?, pipe })
        };
        start().map_err(|source| ChildError::NotStarted { name: "the keeper".to_owned(), source })
    }

    fn note(&mut self, note: Note) {
        // Where the keeper is gone, its successor is told everything.
        self.pipe.write_all(note.line().as_bytes()).ok();
    }
}

fn note(keeper: &mut Option<Keeper>, note: Note) {
    if let Some(keeper) = keeper {
        keeper.note(note);
    }
}

impl Children {
    /// Starts the keeper. `folder` is removed at the end, whatever the end is.
    pub fn new(folder: Option<&Path>) -> Result<Self, ChildError> {
        let keeper = Some(Keeper::start(folder, std::iter::empty())?);
        let hear: Hear = Arc::new(|name, line| telemetry::say(&format!("{name} | {line}")));
        Ok(Self { kept: Vec::new(), folder: folder.map(Path::to_owned), keeper, given_up: None, hear })
    }

    /// The same, and what children say goes to `hear`.
    pub fn heard_by(self, hear: Hear) -> Self {
        Self { hear, ..self }
    }

    /// Starts a process of this program, in a process group of its own: a Ctrl-C is this process's alone. What it says
    /// on a piped standard error is passed on under its name.
    pub fn start(
        &mut self,
        name: impl Into<String>,
        make: impl FnMut() -> io::Result<Command> + Send + 'static,
    ) -> Result<u32, ChildError> {
        self.keep(name.into(), Box::new(make), None)
    }

    /// Starts another program in the same way. `last_word` is why it has ended, as its own log says.
    pub fn start_other(
        &mut self,
        name: impl Into<String>,
        make: impl FnMut() -> io::Result<Command> + Send + 'static,
        last_word: impl Fn() -> String + Send + 'static,
    ) -> Result<u32, ChildError> {
        self.keep(name.into(), Box::new(make), Some(Box::new(last_word)))
    }

    fn keep(&mut self, name: String, make: Make, last_word: Option<LastWord>) -> Result<u32, ChildError> {
        let state = State::Resting { until: Instant::now() };
        let (pauses, ours) = (Pauses::reopening(), last_word.is_none());
        self.kept.push(Kept { name, make, last_word, ours, state, quick_ends: 0, pauses });
        self.start_again(self.kept.len() - 1)
    }

    fn start_again(&mut self, index: usize) -> Result<u32, ChildError> {
        let kept = &mut self.kept[index];
        let refuse = |source| ChildError::NotStarted { name: kept.name.clone(), source };
        let mut command = process::Command::from((kept.make)().map_err(refuse)?);
        let mut process = command.process_group(0).spawn().map_err(refuse)?;
        let pid = process.id().expect("it was not waited for");
        note(&mut self.keeper, Note::Started(pid));
        let words =
            process.stderr.take().map(|stderr| tokio::spawn(pass_on(kept.name.clone(), stderr, self.hear.clone())));
        kept.state = State::Running { process: Box::new(process), pid, since: Instant::now(), words };
        Ok(pid)
    }

    /// Starts again whatever ends, and says so. Returns why that can't go on. Cancel-safe.
    pub async fn supervise(&mut self) -> ChildError {
        loop {
            if let Some(error) = self.given_up.take() {
                return error;
            }
            match self.next_event().await {
                Event::Ended(index, status) => {
                    if let Err(error) = self.ended(index, status).await {
                        return error;
                    }
                }
                Event::Rested(index) => match self.start_again(index) {
                    Ok(pid) => tracing::warn!("{} runs again (pid {pid})", self.kept[index].name),
                    Err(error) if self.rest(index, true) => return error,
                    Err(error) => tracing::warn!("{error}: trying again"),
                },
            }
        }
    }

    /// Waits until one of the children has ended, and leaves it so. Cancel-safe.
    pub async fn first_end(&mut self) {
        while !matches!(self.next_event().await, Event::Ended(..)) {}
    }

    /// The number of the child of this name, where it runs.
    pub fn pid(&self, name: &str) -> Option<u32> {
        self.kept.iter().find(|kept| kept.name == name).and_then(|kept| match kept.state {
            State::Running { pid, .. } => Some(pid),
            State::Resting { .. } | State::Held => None,
        })
    }

    fn index(&self, name: &str) -> Option<usize> {
        self.kept.iter().position(|kept| kept.name == name)
    }

    /// Ends a child by a signal, and keeps it so; one that has not ended within `patience` is killed. How it has ended; `None` if it does
    /// not run.
    pub async fn hold(&mut self, name: &str, by: Signal, patience: Duration) -> Option<String> {
        let index = self.index(name)?;
        let kept = &mut self.kept[index];
        let State::Running { mut process, pid, words, .. } = std::mem::replace(&mut kept.state, State::Held) else {
            return None;
        };
        signal(pid, by);
        let ended = match timeout(patience, process.wait()).await {
            Ok(ended) => ended,
            Err(_) => {
                signal(pid, Signal::SIGKILL);
                process.wait().await
            }
        };
        note(&mut self.keeper, Note::Ended(pid));
        if let Some(words) = words {
            timeout(LAST_WORDS, words).await.ok();
        }
        let status = ended.unwrap_or_default();
        let kept = &self.kept[index];
        self.given_up = self.given_up.take().or_else(|| kept.given_up(status));
        Some(shown(status))
    }

    /// Starts a child again that was held. Its number.
    pub fn release(&mut self, name: &str) -> Result<Option<u32>, ChildError> {
        match self.index(name) {
            Some(index) if matches!(self.kept[index].state, State::Held) => self.start_again(index).map(Some),
            _ => Ok(None),
        }
    }

    /// Sends a signal to a child. Whether it runs.
    pub fn signal(&self, name: &str, by: Signal) -> bool {
        self.pid(name).inspect(|pid| signal(*pid, by)).is_some()
    }

    /// Cancel-safe.
    async fn next_event(&mut self) -> Event {
        loop {
            let mut events: Vec<BoxFuture<'_, Option<Event>>> = Vec::with_capacity(self.kept.len() + 1);
            if let Some(keeper) = &mut self.keeper {
                events.push(keeper.process.wait().map(|_| None).boxed());
            }
            for (index, kept) in self.kept.iter_mut().enumerate() {
                events.push(match &mut kept.state {
                    // A child that can't be waited for is one that is gone.
                    State::Running { process, .. } => {
                        process.wait().map(move |status| Some(Event::Ended(index, status.unwrap_or_default()))).boxed()
                    }
                    State::Resting { until } => sleep_until(*until).map(move |()| Some(Event::Rested(index))).boxed(),
                    State::Held => continue,
                });
            }
            if events.is_empty() {
                // All are held, and the keeper is gone.
                return future::pending().await;
            }
            let (event, _, others) = future::select_all(events).await;
            drop(others);
            match event {
                Some(event) => return event,
                None => self.replace_keeper(),
            }
        }
    }

    /// Somebody has killed the keeper.
    fn replace_keeper(&mut self) {
        let running = self.kept.iter().filter_map(|kept| match kept.state {
            State::Running { pid, .. } => Some(pid),
            _ => None,
        });
        self.keeper = match Keeper::start(self.folder.as_deref(), running) {
            Ok(keeper) => Some(keeper),
            Err(error) => {
                tracing::warn!("{error}: if this process is killed, its children stay");
                None
            }
        };
    }

    /// Lets a child rest before it is started again. True where it has ended too often without getting anywhere.
    fn rest(&mut self, index: usize, quick: bool) -> bool {
        let kept = &mut self.kept[index];
        if quick {
            kept.quick_ends += 1;
        } else {
            kept.quick_ends = 0;
            kept.pauses = Pauses::reopening();
        }
        let pause = kept.pauses.pause();
        kept.state = State::Resting { until: Instant::now() + pause };
        kept.quick_ends >= MOST_QUICK_ENDS
    }

    async fn ended(&mut self, index: usize, status: ExitStatus) -> Result<(), ChildError> {
        let resting = State::Resting { until: Instant::now() };
        let State::Running { pid, since, words, .. } = std::mem::replace(&mut self.kept[index].state, resting) else {
            unreachable!("only what runs ends")
        };
        note(&mut self.keeper, Note::Ended(pid));
        let too_often = self.rest(index, since.elapsed() < QUICK);
        let kept = &self.kept[index];
        self.given_up = kept.given_up(status);
        let (name, times) = (kept.name.clone(), kept.quick_ends);
        let how = match &kept.last_word {
            // Who was killed had nothing to say about it.
            Some(last_word) if status.code().is_some() => format!("{} ({})", shown(status), last_word()),
            _ => shown(status),
        };
        if let Some(words) = words {
            timeout(LAST_WORDS, words).await.ok();
        }
        match self.given_up.take() {
            Some(error) => Err(error),
            None if too_often => Err(ChildError::KeepsEnding { name, how, times }),
            None => {
                tracing::warn!("{name} (pid {pid}) {how}: starting it again");
                Ok(())
            }
        }
    }

    /// Asks the children that are named so to stop, and kills what has not ended at `deadline`.
    pub async fn stop(&mut self, named: impl Fn(&str) -> bool, deadline: Instant) {
        let (stopping, others) = std::mem::take(&mut self.kept).into_iter().partition(|kept| named(&kept.name));
        self.kept = others;
        let stopping: Vec<Kept> = stopping;
        for kept in &stopping {
            if let State::Running { pid, .. } = kept.state {
                signal(pid, Signal::SIGTERM);
            }
        }
        for Kept { name, ours, state, .. } in stopping {
            let State::Running { mut process, pid, words, .. } = state else { continue };
            match timeout_at(deadline, process.wait()).await {
                // Violations found while draining are found all the same.
                Ok(Ok(status)) if ours && status.code() == Some(VIOLATION) => {
                    self.given_up = Some(ChildError::GaveUp { name, how: shown(status), code: VIOLATION });
                }
                Ok(_) => {}
                Err(_) => {
                    tracing::warn!("{name} (pid {pid}) did not stop in time: killing it");
                    signal(pid, Signal::SIGKILL);
                    process.wait().await.ok();
                }
            }
            note(&mut self.keeper, Note::Ended(pid));
            if let Some(words) = words {
                timeout(LAST_WORDS, words).await.ok();
            }
        }
    }

    /// Cleans up, and tells whether a child has given up.
    pub async fn close(self) -> Option<ChildError> {
        if let Some(Keeper { mut process, pipe }) = self.keeper {
            drop(pipe);
            if timeout(CLEANING, process.wait()).await.is_err() {
                tracing::warn!("cleaning up takes its time: the keeper goes on with it");
            }
        }
        if let Some(folder) = self.folder {
            // Somebody may have killed the keeper.
            tokio::fs::remove_dir_all(folder).await.ok();
        }
        self.given_up
    }
}

impl Kept {
    /// What a child of this program says with its exit code.
    fn given_up(&self, status: ExitStatus) -> Option<ChildError> {
        let code = status.code().filter(|code| self.ours && matches!(*code, USAGE | VIOLATION))?;
        Some(ChildError::GaveUp { name: self.name.clone(), how: shown(status), code })
    }
}

/// This program, also where its file was replaced meanwhile.
pub fn program() -> io::Result<PathBuf> {
    let program = std::env::current_exe()?;
    if program.exists() { Ok(program) } else { Ok("/proc/self/exe".into()) }
}

fn signal(pid: u32, signal: Signal) {
    if let Ok(pid) = i32::try_from(pid) {
        // It may have ended by itself.
        kill(Pid::from_raw(pid), signal).ok();
    }
}

async fn pass_on(name: String, stderr: impl AsyncRead + Unpin, hear: Hear) {
    let mut lines = BufReader::new(stderr).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        hear(&name, &line);
    }
}

fn shown(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(number)) => {
            let name = Signal::try_from(number).map_or_else(|_| number.to_string(), |signal| signal.to_string());
            format!("was killed by {name}")
        }
        (None, None) => "is gone".to_owned(),
    }
}
