//! `sum` and `sha1sum`, byte for byte: what they print, what they complain of, and how they end.

use crate::support::{Ended, Program, Server, apply, noise, summer};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// A server with a summer, and a folder of files.
struct Bench {
    server: Server,
    _summer: crate::support::Process,
    _data: TempDir,
    folder: TempDir,
}

impl Bench {
    fn new() -> Self {
        let server = Server::start();
        apply(&server, 2);
        let data = tempfile::tempdir().unwrap();
        let summer = summer(&server, data.path(), "").spawn();
        Self { server, _summer: summer, _data: data, folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn write(&self, name: &[u8], content: &[u8]) {
        fs::write(self.path().join(OsStr::from_bytes(name)), content).unwrap();
    }

    /// Runs both with the same arguments, and asserts that nothing but their names tells them apart.
    #[track_caller]
    fn compare(&self, locale: &str, arguments: &[&[u8]], stdin: Option<&str>) -> Ended {
        let stdin = self.path().join(stdin.unwrap_or("/dev/null"));
        let arguments: Vec<&OsStr> = arguments.iter().map(|argument| OsStr::from_bytes(argument)).collect();
        let expected = Command::new("sha1sum")
            .args(&arguments)
            .env("LC_ALL", locale)
            .current_dir(self.path())
            .stdin(Stdio::from(fs::File::open(&stdin).unwrap()))
            .output()
            .unwrap();
        let program = Program::at(&self.server, "sum").env("LC_ALL", locale).env("STREAM_SUM_LOG__LEVEL", "error");
        let program = arguments.iter().fold(program, Program::arg);
        let ended = program.current_dir(self.path()).stdin(&stdin).run();
        let complaints = String::from_utf8_lossy(&expected.stderr).replace("sha1sum: ", "stream-sum: ");
        assert_eq!(ended.stderr, complaints, "{arguments:?}");
        let shown = String::from_utf8_lossy(&expected.stdout);
        assert!(ended.stdout == expected.stdout, "{arguments:?}: {}\n{shown}", String::from_utf8_lossy(&ended.stdout));
        assert_eq!(ended.code(), expected.status.code().unwrap(), "{arguments:?}");
        ended
    }

    fn sha1sum(&self, arguments: &[&[u8]]) -> Vec<u8> {
        let arguments = arguments.iter().map(|argument| OsStr::from_bytes(argument));
        Command::new("sha1sum").args(arguments).current_dir(self.path()).output().unwrap().stdout
    }
}

/// Names that lines and shells take for something else.
const ODD: [&[u8]; 17] = [
    b"plain",
    b"a b",
    b" ",
    b"*star",
    b"back\\slash",
    b"new\nline",
    b"\\both\n\\",
    b"re\rturn",
    b"tab\ttab",
    b"-dash",
    b"quote's",
    b"double\"s",
    b"both'\"s",
    b"colon:",
    b"$(x) `y`",
    b"\xff\xfe",
    "µ".as_bytes(),
];

#[test]
fn odd_names_and_what_cannot_be_read_are_told_of_byte_for_byte_as_sha1sum_does() {
    let bench = Bench::new();
    for (n, name) in ODD.iter().enumerate() {
        bench.write(name, &noise(n * 1000, n as u64));
    }
    bench.write(b"locked", b"locked");
    fs::set_permissions(bench.path().join("locked"), fs::Permissions::from_mode(0o000)).unwrap();
    for folder in ["folder", "fol\nder", "fol der"] {
        fs::create_dir(bench.path().join(folder)).unwrap();
    }
    let missing: [&[u8]; 9] = [b"missing", b"mis sing", b"mis'sing", b"mis\nsing", b"~", b"#", b"#'", b"{", b""];
    let others: [&[u8]; 4] = [b"locked", b"folder", b"fol\nder", b"fol der"];
    // A dash is standard input, and a file of that name has to be called otherwise.
    bench.write(b"-", b"a file");
    let rest: [&[u8]; 4] = [b"-", b"./-", b"/proc/self/mem", b"-"];
    let names = [&ODD[..], &missing, &others, &rest].concat();
    for options in ["--", "--tag --", "--zero --", "-b --", "-t --", "--tag -z --", "-bz --"] {
        let arguments: Vec<&[u8]> = options.split(' ').map(str::as_bytes).chain(names.iter().copied()).collect();
        for locale in ["C", "C.UTF-8"] {
            bench.compare(locale, &arguments, Some("plain"));
        }
    }
    // Without a file, or with one that can't be read.
    bench.compare("C", &[], Some("a b"));
    bench.compare("C", &[b"--tag"], Some("a b"));
    bench.compare("C", &[], Some("folder"));
}

#[test]
fn names_in_messages_are_quoted_as_sha1sum_quotes_them() {
    let bench = Bench::new();
    let alphabet: Vec<&[u8]> = b"'\"\\ \n\t\x01\x07\x7f$`!#~{}:=*?[]^-%+,.@&();<>|aZ0_"
        .iter()
        .map(std::slice::from_ref)
        .chain([&b"\xff"[..], b"\xe2\x82", "µ".as_bytes(), "e\u{301}".as_bytes(), "\u{85}".as_bytes(), b"'", b"a"])
        .collect();
    let noise = noise(6000, 7);
    let names: Vec<Vec<u8>> = noise
        .chunks(10)
        .map(|bytes| {
            let length = 1 + usize::from(bytes[0] % 9);
            let mut name: Vec<u8> =
                bytes[1..][..length].iter().flat_map(|n| alphabet[usize::from(*n) % alphabet.len()]).copied().collect();
            // Some versions write '' before a name that has an apostrophe and ends with an escape. It has a folder's slash too,
            // for `.` and `-` are none that are missing.
            name.splice(0..0, *b"no/");
            name.push(b'x');
            name
        })
        .collect();
    let arguments: Vec<&[u8]> = [&b"--"[..]].into_iter().chain(names.iter().map(Vec::as_slice)).collect();
    for locale in ["C", "C.UTF-8"] {
        let ended = bench.compare(locale, &arguments, None);
        assert_eq!(ended.stderr.matches(": No such file or directory\n").count(), names.len());
    }
}

#[test]
fn lists_of_checksums_are_checked_byte_for_byte_as_sha1sum_checks_them() {
    let bench = Bench::new();
    for (n, name) in ODD.iter().enumerate() {
        bench.write(name, &noise(n * 1000, n as u64));
    }
    fs::create_dir(bench.path().join("folder")).unwrap();
    // From some version on, results escape these as well.
    let escapes_more = bench.sha1sum(&[b"--", b"back\\slash"]);
    bench.write(b"probe", &escapes_more);
    let escapes_more = bench.sha1sum(&[b"-c", b"probe"]).starts_with(b"\\");
    let is_escaped = |name: &&&[u8]| !name.contains(&b'\n') && name.iter().any(|byte| matches!(byte, b'\\' | b'\r'));
    let names: Vec<&[u8]> = ODD.iter().filter(|name| !(escapes_more && is_escaped(name))).copied().collect();
    let of = |options: &[&[u8]], names: &[&[u8]]| bench.sha1sum(&[options, &[b"--"], names].concat());
    let zeros = "0".repeat(40);
    let good = of(&[], &names);
    let plain = of(&[], &[b"plain"]);
    let reversed = [&plain[..41], b"plain\n"].concat();
    let bad = [
        format!("{zeros}  missing\n{zeros}  plain\n{zeros}  folder\nno line\n\n# comment\n\\{zeros}  a\\nb\n")
            .as_bytes(),
        &plain,
        format!("{zeros}  plain\nSHA1 (plain) = {zeros}\n{zeros}  a'b\nMD5 (plain) = {zeros}").as_bytes(),
    ]
    .concat();
    for (name, content) in [
        ("good", good),
        ("tagged", of(&[b"--tag"], &names)),
        ("binary", of(&[b"-b"], &names)),
        ("bad", bad.clone()),
        ("crlf", [plain.trim_ascii_end(), b"\r\n\r\n"].concat()),
        ("reversed", [&reversed[..], &plain].concat()),
        ("straight", [&plain[..], &reversed].concat()),
        ("upper case", plain.to_ascii_uppercase().replace_name()),
        ("nothing", Vec::new()),
        ("junk", b"junk\n".to_vec()),
        ("gone", format!("{zeros}  missing\n{zeros}  missing too\n").into_bytes()),
        ("input", of(&[], &[b"-"])),
    ] {
        bench.write(name.as_bytes(), &content);
    }
    let lists: [&[&str]; 18] = [
        &["good"],
        &["tagged"],
        &["binary"],
        &["bad"],
        &["crlf"],
        &["reversed"],
        &["straight"],
        &["upper case"],
        &["nothing"],
        &["junk"],
        &["gone"],
        &["gone", "junk", "good", "reversed"],
        &["no list", "no\nlist", "good"],
        &["folder", "good"],
        &["input"],
        &["input", "input"],
        &["-"],
        &[],
    ];
    for options in [
        &["-c"][..],
        &["--check", "--quiet"],
        &["-c", "--status"],
        &["-cw"],
        &["-c", "--warn", "--strict"],
        &["-c", "--ignore-missing"],
        &["-c", "--ignore-missing", "--quiet", "--strict"],
        &["-c", "--quiet", "--status", "-w"],
    ] {
        for lists in lists {
            let arguments: Vec<&[u8]> = options.iter().chain(lists).map(|argument| argument.as_bytes()).collect();
            // Where standard input is the list, it is one that names standard input.
            let stdin = if lists == ["input"] { "plain" } else { "input" };
            bench.compare("C", &arguments, Some(stdin));
        }
    }
    // Each kind was there.
    let ended = bench.compare("C", &[b"-c", b"bad"], None);
    for kind in ["missing: FAILED open or read\n", "plain: FAILED\n", "plain: OK\n", "\\a\\nb: FAILED open or read\n"] {
        assert!(ended.stdout().contains(kind), "{}", ended.stdout());
    }
    assert!(ended.stderr.contains("WARNING: 2 lines are improperly formatted"), "{}", ended.stderr);
}

trait ReplaceName {
    fn replace_name(self) -> Self;
}

impl ReplaceName for Vec<u8> {
    /// A line whose name is `plain` again, whatever was done to it.
    fn replace_name(mut self) -> Self {
        self.truncate(42);
        self.extend_from_slice(b"plain\n");
        self
    }
}

#[test]
fn options_that_make_no_sense_together_are_refused_in_the_words_of_sha1sum() {
    for options in
        ["--quiet", "--status", "--strict", "-w", "--ignore-missing", "-c --tag", "-c -z", "-c -b", "--tag -t"]
    {
        let sha1sum = Command::new("sha1sum").args(options.split(' ')).env("LC_ALL", "C").output().unwrap();
        let expected = String::from_utf8(sha1sum.stderr).unwrap();
        let expected =
            expected.replace("sha1sum: ", "stream-sum: ").replace("'sha1sum --help'", "'stream-sum sum --help'");
        // Usage is 2 with every command.
        let ended = Program::new(&format!("sum {options}")).run().expect(2);
        assert_eq!((ended.stderr, ended.stdout), (expected, vec![]), "{options}");
    }
}

#[test]
fn one_line_that_holds_many_with_nul_at_their_ends_is_none() {
    let bench = Bench::new();
    bench.write(b"a", b"a");
    bench.write(b"b", b"b");
    let list = bench.sha1sum(&[b"-z", b"a", b"b"]);
    bench.write(b"list", &list);
    let ended = Program::at(&bench.server, "sum -c list").current_dir(bench.path()).run().expect(1);
    assert_eq!(ended.sentence(), "stream-sum: list: no properly formatted checksum lines found");
}

#[test]
fn a_list_of_thousands_of_files_and_a_line_without_an_end_is_checked_to_its_end() {
    let bench = Bench::new();
    let names: Vec<OsString> = (0..5000).map(|n| OsString::from_vec(format!("file-{n}").into_bytes())).collect();
    for name in &names {
        bench.write(name.as_bytes(), name.as_bytes());
    }
    let names: Vec<&[u8]> = names.iter().map(|name| name.as_bytes()).collect();
    let mut list = bench.sha1sum(&names);
    list.splice(0..0, [&vec![b'x'; 1 << 20][..], b"\n"].concat());
    bench.write(b"list", &list);
    bench.compare("C", &[b"-c", b"list"], None);
}
