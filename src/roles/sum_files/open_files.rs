//! Files that are open at once: no more of them than the process may have descriptors.

use nix::sys::resource::{Resource, getrlimit};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

/// Files that are read at once, each by a thread with a buffer of a piece.
const MOST_READING: usize = 16;

/// Descriptors that are left to the rest of the process: the standard ones, those of the runtime and of signals, a list of
/// checksums, and the connection to NATS, which may have to be made again, with a look at files that name hosts.
const SPARE: u64 = 16;

/// How many files this process should read at once.
pub fn most_reading() -> usize {
    // Without an answer it shows when one is opened.
    getrlimit(Resource::RLIMIT_NOFILE).map_or(MOST_READING, |(soft, _)| most_of(soft))
}

fn most_of(descriptors: u64) -> usize {
    usize::try_from(descriptors.saturating_sub(SPARE)).unwrap_or(usize::MAX).clamp(1, MOST_READING)
}

/// Opens files for all readers of the process. Cheap to clone, for threads.
#[derive(Clone, Default)]
pub struct OpenFiles(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// Files that are open, or being opened: a pipe takes as long as its writer does.
    held: usize,
    /// How many there may be: at first as many as anybody wants, and after there were too many, fewer than there were then.
    /// A connection to NATS that is made anew needs a descriptor too, and readers wait for it with their files open.
    most: usize,
    /// How many of them were closed so far.
    closed: u64,
}

impl Default for State {
    fn default() -> Self {
        Self { held: 0, most: usize::MAX, closed: 0 }
    }
}

impl OpenFiles {
    /// Opens a file. Where no descriptor is left, waits for another file to be closed, and fails where none is open.
    pub fn open(&self, path: &Path) -> io::Result<OpenFile> {
        self.open_by(|| File::open(path))
    }

    /// The same for a file that may stay open until others are closed, so that nobody waits for its end.
    pub fn open_long(&self, path: &Path) -> io::Result<File> {
        self.open_by(|| File::open(path)).map(OpenFile::into_long)
    }

    fn open_by(&self, mut open: impl FnMut() -> io::Result<File>) -> io::Result<OpenFile> {
        let mut state = self.wait_while(self.lock(), |state| state.held >= state.most);
        loop {
            let seen = state.closed;
            state.held += 1;
            drop(state);
            match open() {
                Ok(file) => return Ok(OpenFile { file: Some(file), among: self.clone() }),
                Err(error) if is_exhausted(&error) => {
                    state = self.lock();
                    state.held -= 1;
                    state.most = state.most.min(state.held.saturating_sub(1).max(1));
                    // Whoever waits may now be waiting for nobody.
                    self.0.changed.notify_all();
                    state = self.wait_while(state, |state| {
                        state.held >= state.most || (state.closed == seen && state.held > 0)
                    });
                    if state.closed == seen {
                        return Err(error);
                    }
                }
                Err(error) => {
                    self.close_one();
                    return Err(error);
                }
            }
        }
    }

    fn wait_while<'a>(
        &self,
        state: MutexGuard<'a, State>,
        mut condition: impl FnMut(&State) -> bool,
    ) -> MutexGuard<'a, State> {
        let waited = self.0.changed.wait_while(state, |state| condition(state));
        waited.expect("nothing panics while it holds this")
    }

    fn close_one(&self) {
        let mut state = self.lock();
        state.held -= 1;
        state.closed += 1;
        drop(state);
        self.0.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().expect("nothing panics while it holds this")
    }
}

/// Whether the process, or the system, has no descriptor left.
fn is_exhausted(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

/// An open file. When it is dropped, whoever waits for a descriptor tries again.
pub struct OpenFile {
    file: Option<File>,
    among: OpenFiles,
}

impl OpenFile {
    fn into_long(mut self) -> File {
        self.file.take().expect("there until it is dropped")
    }
}

impl Read for OpenFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.as_mut().expect("there until it is dropped").read(buffer)
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        // Closed before it is told.
        drop(self.file.take());
        self.among.close_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    #[test]
    fn some_descriptors_are_left_to_the_rest_of_the_process() {
        for (descriptors, most) in [(0, 1), (16, 1), (17, 1), (24, 8), (32, 16), (1024, 16), (u64::MAX, 16)] {
            assert_eq!(most_of(descriptors), most, "{descriptors}");
        }
    }

    fn exhausted() -> io::Error {
        io::Error::from_raw_os_error(libc::EMFILE)
    }

    #[test]
    fn where_no_file_is_open_there_is_nothing_to_wait_for() {
        let files = OpenFiles::default();
        let failed = files.open_by(|| Err(exhausted())).map(drop).unwrap_err();
        assert_eq!(failed.raw_os_error(), Some(libc::EMFILE));
        // Nor for one that may stay open until this one is closed.
        let long = files.open_long(Path::new("/dev/null")).unwrap();
        assert!(files.open_by(|| Err(exhausted())).is_err());
        drop(long);
    }

    #[test]
    fn whoever_finds_no_descriptor_waits_for_those_that_are_open() {
        const FILES: usize = 50;
        const DESCRIPTORS: usize = 3;
        let (files, taken, most) = (OpenFiles::default(), AtomicUsize::new(0), AtomicUsize::new(0));
        let open = || {
            let take = |taken| (taken < DESCRIPTORS).then_some(taken + 1);
            match taken.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take) {
                Ok(before) => {
                    most.fetch_max(before + 1, Ordering::SeqCst);
                    File::open("/dev/null")
                }
                Err(_) => Err(exhausted()),
            }
        };
        thread::scope(|threads| {
            for _ in 0..FILES {
                threads.spawn(|| {
                    let file = files.open_by(open).unwrap();
                    thread::yield_now();
                    taken.fetch_sub(1, Ordering::SeqCst);
                    drop(file);
                });
            }
        });
        assert_eq!(files.lock().closed, FILES as u64);
        assert_eq!(files.lock().held, 0);
        assert!(files.lock().most <= DESCRIPTORS, "not tried again and again in vain");
        assert!(most.load(Ordering::SeqCst) <= DESCRIPTORS);
    }
}
