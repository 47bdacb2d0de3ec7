//! What is to be summed, in order: the files that were named, or those that lists of checksums name.

use crate::roles::sum_files::checksum_line::{Line, Lines};
use crate::roles::sum_files::open_files::OpenFiles;
use crate::sum::running::Value;
use std::ffi::{OsStr, OsString};
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use tokio::sync::mpsc;

/// The most bytes of a line that can be a checksum: those of a path that every system takes, escaped, and then some.
const MOST_LINE_BYTES: u64 = 64 << 10;

/// Entries that are read ahead.
const MOST_AHEAD: usize = 64;

/// One thing to do, or to say, after those before it.
#[derive(Debug)]
pub enum Entry {
    File(Named),
    /// The entries up to the end of the list are of this one.
    List(OsString),
    /// A line of the list, by its number from 1, is no checksum.
    Misformatted(u64),
    End(ListEnd),
}

#[derive(Debug)]
pub enum ListEnd {
    Read,
    NotOpened(io::Error),
    /// It can't be read to its end.
    Broken,
}

/// A file to sum.
#[derive(Debug)]
pub struct Named {
    pub name: OsString,
    pub source: Source,
    /// The checksum that a list has for it.
    pub expected: Option<Value>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    File,
    Stdin,
    /// The first to name it has read it to its end.
    StdinAgain,
    /// This process was started without it.
    StdinClosed,
}

/// Nobody takes what is fed.
struct Gone;

/// Starts a thread that feeds the files of `names`, or those that the lists of these names tell.
pub fn feed(names: Vec<OsString>, are_lists: bool, stdin_closed: bool, files: OpenFiles) -> mpsc::Receiver<Entry> {
    let (entries, fed) = mpsc::channel(MOST_AHEAD);
    tokio::task::spawn_blocking(move || {
        let mut feeder = Feeder { entries, files, stdin_closed, stdin_taken: false, lines: Lines::default() };
        // Who is gone needs nothing more.
        let _gone = if are_lists { feeder.lists(names) } else { feeder.files(names) };
    });
    fed
}

struct Feeder {
    entries: mpsc::Sender<Entry>,
    files: OpenFiles,
    stdin_closed: bool,
    stdin_taken: bool,
    lines: Lines,
}

impl Feeder {
    fn send(&self, entry: Entry) -> Result<(), Gone> {
        self.entries.blocking_send(entry).map_err(|_| Gone)
    }

    fn files(&mut self, names: Vec<OsString>) -> Result<(), Gone> {
        names.into_iter().try_for_each(|name| self.file(name, None))
    }

    fn file(&mut self, name: OsString, expected: Option<Value>) -> Result<(), Gone> {
        let source = if name == "-" { self.stdin() } else { Source::File };
        self.send(Entry::File(Named { name, source, expected }))
    }

    fn stdin(&mut self) -> Source {
        match std::mem::replace(&mut self.stdin_taken, true) {
            _ if self.stdin_closed => Source::StdinClosed,
            true => Source::StdinAgain,
            false => Source::Stdin,
        }
    }

    fn lists(&mut self, names: Vec<OsString>) -> Result<(), Gone> {
        names.into_iter().try_for_each(|name| {
            let end = self.list(&name)?;
            self.send(Entry::End(end))
        })
    }

    fn list(&mut self, name: &OsStr) -> Result<ListEnd, Gone> {
        if name != "-" {
            self.send(Entry::List(name.to_owned()))?;
            return match self.files.open_long(Path::new(name)) {
                Ok(file) => self.entries_of(BufReader::new(file), false),
                Err(error) => Ok(ListEnd::NotOpened(error)),
            };
        }
        self.send(Entry::List("standard input".into()))?;
        match self.stdin() {
            Source::Stdin => self.entries_of(io::stdin().lock(), true),
            Source::StdinClosed => Ok(ListEnd::Broken),
            Source::StdinAgain | Source::File => Ok(ListEnd::Read),
        }
    }

    fn entries_of(&mut self, mut list: impl BufRead, is_stdin: bool) -> Result<ListEnd, Gone> {
        let mut line = Vec::new();
        for number in 1.. {
            let found = match next_line(&mut list, &mut line) {
                Ok(Some(false)) => Line::Misformatted,
                Ok(Some(true)) => self.lines.read(&line),
                Ok(None) => break,
                Err(_) => return Ok(ListEnd::Broken),
            };
            match found {
                Line::Checksum { name, .. } if is_stdin && name == b"-" => self.send(Entry::Misformatted(number))?,
                Line::Checksum { value, name } => self.file(OsString::from_vec(name), Some(value))?,
                Line::Misformatted => self.send(Entry::Misformatted(number))?,
                Line::Nothing => {}
            }
        }
        Ok(ListEnd::Read)
    }
}

/// Reads a line, and says whether it is whole: one that is too long for a checksum is passed over. `None` at the end.
fn next_line(list: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<Option<bool>> {
    line.clear();
    let read = list.by_ref().take(MOST_LINE_BYTES).read_until(b'\n', line)?;
    if read as u64 == MOST_LINE_BYTES && !line.ends_with(b"\n") {
        list.skip_until(b'\n')?;
        return Ok(Some(false));
    }
    Ok((read > 0).then_some(true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_too_long_is_passed_over_and_the_next_one_is_whole() {
        let most = usize::try_from(MOST_LINE_BYTES).unwrap();
        let long = vec![b'x'; 3 * most];
        let just = vec![b'y'; most - 1];
        let text = [&long[..], b"\n", &just, b"\nlast"].concat();
        let (mut list, mut line) = (&text[..], Vec::new());
        assert_eq!(next_line(&mut list, &mut line).unwrap(), Some(false));
        assert_eq!(next_line(&mut list, &mut line).unwrap(), Some(true));
        assert_eq!(line.len(), most);
        assert_eq!(next_line(&mut list, &mut line).unwrap(), Some(true));
        assert_eq!(line, b"last");
        assert_eq!(next_line(&mut list, &mut line).unwrap(), None);
    }
}
