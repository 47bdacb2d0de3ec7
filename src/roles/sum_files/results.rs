//! What is said of each file and list, word for word as GNU `sha1sum` says it.
//!
//! | a listed file | is told as |
//! | --- | --- |
//! | has the checksum of its list | `<name>: OK` |
//! | has another one | `<name>: FAILED` |
//! | was not read, or not summed | `<name>: FAILED open or read` |
//! | is not there, under `--ignore-missing` | nothing |

use crate::roles::sum_files::checksum_line;
use crate::roles::sum_files::feed::{Entry, ListEnd, Named};
use crate::roles::sum_files::quote::{Charset, quoted};
use crate::roles::sum_files::task::{Checking, Task, Told};
use crate::sum::running::Value;
use std::io;
use std::os::unix::ffi::OsStrExt;

/// Why a file has no checksum.
#[derive(Debug)]
pub enum Trouble {
    Unreadable(io::Error),
    /// Its final says something else than its own SHA-1.
    Mismatched {
        found: Option<Value>,
        own: Option<Value>,
    },
    NoFinal,
}

/// Text for standard output, and lines for standard error, which come first.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Said {
    pub complaints: Vec<String>,
    pub out: Vec<u8>,
}

impl Said {
    fn complaint(text: String) -> Self {
        Self { complaints: vec![text], out: Vec::new() }
    }
}

/// Turns what has come of the entries, one after the other, into words.
pub struct Results {
    task: Task,
    charset: Charset,
    list: List,
    failed: bool,
}

/// What was found in the list that is being read.
#[derive(Default)]
struct List {
    name: String,
    checksums: u64,
    matched: u64,
    mismatched: u64,
    unreadable: u64,
    misformatted: u64,
}

impl Results {
    pub fn new(task: Task, charset: Charset) -> Self {
        Self { task, charset, list: List::default(), failed: false }
    }

    /// Whether anything was not as it should be.
    pub fn failed(&self) -> bool {
        self.failed
    }

    fn checking(&self) -> Checking {
        match self.task {
            Task::Print(_) => Checking::default(),
            Task::Check(checking) => checking,
        }
    }

    /// What is said of an entry that is no file.
    pub fn note(&mut self, entry: &Entry) -> Said {
        match entry {
            // What a file has come to is told by `file`.
            Entry::File(_) => Said::default(),
            Entry::List(name) => {
                self.list = List { name: quoted(name.as_bytes(), self.charset), ..List::default() };
                Said::default()
            }
            Entry::Misformatted(number) => {
                self.list.misformatted += 1;
                match self.checking().told {
                    Told::Misformatted => Said::complaint(format!(
                        "{}: {number}: improperly formatted SHA1 checksum line",
                        self.list.name
                    )),
                    _ => Said::default(),
                }
            }
            Entry::End(end) => self.end(end),
        }
    }

    /// What is said of a file, by its checksum or the reason why it has none.
    pub fn file(&mut self, file: &Named, result: Result<Value, Trouble>) -> Said {
        let name = file.name.as_bytes();
        match (self.task, file.expected) {
            (Task::Check(checking), Some(expected)) => self.checked(checking, name, expected, result),
            (Task::Print(style), _) => match result {
                Ok(value) => Said { complaints: Vec::new(), out: checksum_line::line(style, value, name) },
                Err(trouble) => {
                    self.failed = true;
                    Said::complaint(self.complaint(name, &trouble))
                }
            },
            (Task::Check(_), None) => unreachable!("a list has a checksum for each file"),
        }
    }

    fn checked(&mut self, checking: Checking, name: &[u8], expected: Value, result: Result<Value, Trouble>) -> Said {
        self.list.checksums += 1;
        let mut complaints = Vec::new();
        let verdict = match result {
            Ok(value) if value == expected => {
                self.list.matched += 1;
                "OK"
            }
            Ok(_) => {
                self.list.mismatched += 1;
                "FAILED"
            }
            Err(Trouble::Unreadable(error)) if checking.ignore_missing && error.kind() == io::ErrorKind::NotFound => {
                return Said::default();
            }
            Err(trouble) => {
                self.list.unreadable += 1;
                complaints.push(self.complaint(name, &trouble));
                "FAILED open or read"
            }
        };
        let is_told = match checking.told {
            Told::All | Told::Misformatted => true,
            Told::Failures => verdict != "OK",
            Told::Nothing => false,
        };
        let out =
            if is_told { [&shown(name), ": ".as_bytes(), verdict.as_bytes(), b"\n"].concat() } else { Vec::new() };
        Said { complaints, out }
    }

    fn complaint(&self, name: &[u8], trouble: &Trouble) -> String {
        let name = quoted(name, self.charset);
        match trouble {
            Trouble::Unreadable(error) => format!("{name}: {}", plain(error)),
            Trouble::Mismatched { found, own } => {
                let text = |value: &Option<Value>| value.map_or("no digest".to_owned(), |value| value.to_string());
                format!("{name}: its final says {}, but its SHA-1 is {}", text(found), text(own))
            }
            Trouble::NoFinal => format!("{name}: no final came"),
        }
    }

    fn end(&mut self, end: &ListEnd) -> Said {
        let Checking { ignore_missing, strict, told } = self.checking();
        let List { name, checksums, matched, mismatched, unreadable, misformatted } = std::mem::take(&mut self.list);
        let is_good = matches!(end, ListEnd::Read)
            && matched > 0
            && mismatched + unreadable == 0
            && !(strict && misformatted > 0);
        self.failed |= !is_good;
        let mut complaints = Vec::new();
        match end {
            ListEnd::NotOpened(error) => complaints.push(format!("{name}: {}", plain(error))),
            ListEnd::Broken => complaints.push(format!("{name}: read error")),
            ListEnd::Read if checksums == 0 => {
                complaints.push(format!("{name}: no properly formatted checksum lines found"));
            }
            ListEnd::Read if told == Told::Nothing => {}
            ListEnd::Read => {
                for (count, one, several) in [
                    (misformatted, "line is improperly formatted", "lines are improperly formatted"),
                    (unreadable, "listed file could not be read", "listed files could not be read"),
                    (mismatched, "computed checksum did NOT match", "computed checksums did NOT match"),
                ] {
                    match count {
                        0 => {}
                        1 => complaints.push(format!("WARNING: 1 {one}")),
                        _ => complaints.push(format!("WARNING: {count} {several}")),
                    }
                }
                if ignore_missing && matched == 0 {
                    complaints.push(format!("{name}: no file was verified"));
                }
            }
        }
        Said { complaints, out: Vec::new() }
    }
}

/// A name in a line of results: escaped only where it would be several lines.
fn shown(name: &[u8]) -> Vec<u8> {
    if name.contains(&b'\n') { [b"\\", &checksum_line::escaped(name)[..]].concat() } else { name.to_vec() }
}

/// What an error says, without its number.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::roles::sum_files::checksum_line::Style;
    use crate::roles::sum_files::feed::Source;
    use std::ffi::OsString;

    const GOOD: Value = Value([1; 20]);
    const BAD: Value = Value([2; 20]);

    fn named(name: &str, expected: Option<Value>) -> Named {
        Named { name: OsString::from(name), source: Source::File, expected }
    }

    fn missing() -> Result<Value, Trouble> {
        Err(Trouble::Unreadable(io::Error::from_raw_os_error(libc::ENOENT)))
    }

    /// What is said of a list of one good file, one bad, one missing and one line that is none.
    fn all_kinds(checking: Checking) -> (String, Vec<String>, bool) {
        let mut results = Results::new(Task::Check(checking), Charset::Ascii);
        let (mut out, mut complaints) = (Vec::new(), Vec::new());
        let mut take = |said: Said| {
            out.extend(said.out);
            complaints.extend(said.complaints);
        };
        take(results.note(&Entry::List("my list".into())));
        take(results.file(&named("good", Some(GOOD)), Ok(GOOD)));
        take(results.note(&Entry::Misformatted(2)));
        take(results.file(&named("b\\a\nd", Some(GOOD)), Ok(BAD)));
        take(results.file(&named("no\nne", Some(GOOD)), missing()));
        take(results.note(&Entry::End(ListEnd::Read)));
        (String::from_utf8(out).unwrap(), complaints, results.failed())
    }

    #[test]
    fn each_way_of_checking_tells_as_much_as_it_should() {
        let (ok, bad, none) = ("good: OK\n", "\\b\\\\a\\nd: FAILED\n", "\\no\\nne: FAILED open or read\n");
        let line = "'my list': 2: improperly formatted SHA1 checksum line";
        let gone = r"'no'$'\n''ne': No such file or directory";
        let warnings = [
            "WARNING: 1 line is improperly formatted",
            "WARNING: 1 listed file could not be read",
            "WARNING: 1 computed checksum did NOT match",
        ];
        let [of_line, of_read, of_match] = warnings;
        for (told, ignore_missing, out, complaints) in [
            (Told::All, false, format!("{ok}{bad}{none}"), vec![gone, of_line, of_read, of_match]),
            (Told::All, true, format!("{ok}{bad}"), vec![of_line, of_match]),
            (Told::Misformatted, false, format!("{ok}{bad}{none}"), vec![line, gone, of_line, of_read, of_match]),
            (Told::Failures, false, format!("{bad}{none}"), vec![gone, of_line, of_read, of_match]),
            (Told::Nothing, false, String::new(), vec![gone]),
        ] {
            let said = all_kinds(Checking { told, ignore_missing, strict: false });
            assert_eq!(said, (out, complaints.into_iter().map(str::to_owned).collect(), true), "{told:?}");
        }
    }

    #[test]
    fn a_list_fails_by_what_is_in_it_and_how_it_ends() {
        type Files = &'static [fn() -> Result<Value, Trouble>];
        type Case = (Checking, Files, u64, ListEnd, bool, &'static [&'static str]);
        let good: Files = &[|| Ok(GOOD)];
        let cannot = || ListEnd::NotOpened(io::Error::from_raw_os_error(libc::EACCES));
        let (strict, lax) = (Checking { strict: true, ..Checking::default() }, Checking::default());
        let ignore = Checking { ignore_missing: true, ..Checking::default() };
        let cases: [Case; 11] = [
            (lax, good, 0, ListEnd::Read, false, &[]),
            (lax, good, 2, ListEnd::Read, false, &["WARNING: 2 lines are improperly formatted"]),
            (strict, good, 1, ListEnd::Read, true, &["WARNING: 1 line is improperly formatted"]),
            (strict, good, 0, ListEnd::Read, false, &[]),
            (lax, &[], 3, ListEnd::Read, true, &["l: no properly formatted checksum lines found"]),
            (lax, &[|| Ok(GOOD), || Ok(BAD)], 0, ListEnd::Read, true, &["WARNING: 1 computed checksum did NOT match"]),
            (ignore, &[missing, || Ok(GOOD)], 0, ListEnd::Read, false, &[]),
            (ignore, &[missing], 0, ListEnd::Read, true, &["l: no file was verified"]),
            (lax, good, 0, ListEnd::Broken, true, &["l: read error"]),
            (lax, &[], 0, cannot(), true, &["l: Permission denied"]),
            (
                lax,
                &[|| Err(Trouble::NoFinal)],
                0,
                ListEnd::Read,
                true,
                &["f: no final came", "WARNING: 1 listed file could not be read"],
            ),
        ];
        for (checking, files, misformatted, end, failed, complaints) in cases {
            let mut results = Results::new(Task::Check(checking), Charset::Ascii);
            let mut said = Vec::new();
            results.note(&Entry::List("l".into()));
            (1..=misformatted).for_each(|line| said.extend(results.note(&Entry::Misformatted(line)).complaints));
            files.iter().for_each(|file| said.extend(results.file(&named("f", Some(GOOD)), file()).complaints));
            said.extend(results.note(&Entry::End(end)).complaints);
            assert_eq!((results.failed(), said), (failed, complaints.iter().map(|text| (*text).to_owned()).collect()));
        }
    }

    #[test]
    fn what_is_wrong_with_one_list_is_not_told_of_the_next() {
        let mut results = Results::new(Task::Check(Checking::default()), Charset::Ascii);
        results.note(&Entry::List("first".into()));
        results.file(&named("a", Some(GOOD)), Ok(BAD));
        assert_eq!(results.note(&Entry::End(ListEnd::Read)).complaints.len(), 1);
        results.note(&Entry::List("second".into()));
        results.file(&named("a", Some(GOOD)), Ok(GOOD));
        assert_eq!(results.note(&Entry::End(ListEnd::Read)), Said::default());
        assert!(results.failed(), "the first one has failed");
    }

    #[test]
    fn a_file_without_a_checksum_is_named_with_the_reason_and_has_no_line() {
        let mut results = Results::new(Task::Print(Style::default()), Charset::Ascii);
        let hex = "01".repeat(20);
        let said = results.file(&named("a", None), Ok(GOOD));
        assert_eq!(said, Said { complaints: vec![], out: format!("{hex}  a\n").into_bytes() });
        assert!(!results.failed());
        for (trouble, reason) in [
            (missing(), "'a b': No such file or directory".to_owned()),
            (Err(Trouble::NoFinal), "'a b': no final came".to_owned()),
            (
                Err(Trouble::Mismatched { found: None, own: Some(GOOD) }),
                format!("'a b': its final says no digest, but its SHA-1 is {hex}"),
            ),
        ] {
            assert_eq!(results.file(&named("a b", None), trouble), Said::complaint(reason));
            assert!(results.failed());
        }
    }
}
