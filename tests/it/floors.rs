//! Imports point down only, over the floors that the head of each `lib.rs` lists; and no file is too long to be read at once.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Each crate by the name that others call it, and where its sources are. From above to below.
const HOUSES: [(&str, &str); 2] = [("stream_sum", "src"), ("jetfold", "crates/jetfold/src")];

/// Files of the program: they stand above the library, and no module of it can name them.
const PROGRAM: [&str; 2] = ["main", "descriptors"];

/// Modules of unit tests, and the application that they share.
const OF_TESTS: [&str; 2] = ["tests", "sample"];

const MOST_LINES: usize = 450;

/// A module, from the root of its crate.
type Module = Vec<String>;

struct House {
    name: &'static str,
    /// From below; `side` is 0, since it serves every floor.
    floors: BTreeMap<Module, u32>,
    sources: Vec<Source>,
}

struct Source {
    path: PathBuf,
    module: Module,
    text: String,
}

#[test]
fn no_module_imports_from_a_floor_above_its_own() {
    let houses = houses();
    let mut wrong = Vec::new();
    for (depth, house) in houses.iter().enumerate() {
        for source in house.sources.iter().filter(|s| !PROGRAM.contains(&s.module.join("::").as_str())) {
            let path = source.path.strip_prefix(root()).unwrap().display();
            if source.module.is_empty() || is_test(&source.module) {
                continue;
            }
            let arrows = arrows(house.name, source);
            let Some(floor) = floor_of(house, &source.module) else {
                // A folder whose modules stand on floors of their own needs none, as long as it names nothing itself.
                if arrows.is_empty() && house.floors.keys().any(|module| module.starts_with(&source.module)) {
                    continue;
                }
                wrong.push(format!("{path} has no floor: list its module in the table of lib.rs"));
                continue;
            };
            for (line, name, target) in arrows {
                let above = houses[..depth].iter().any(|above| above.name == name);
                let inside = name == house.name && floor_of(house, &target).is_some_and(|there| there > floor);
                if above || inside {
                    wrong.push(format!("{path}:{line} points up, to {name}::{}", target.join("::")));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_module_that_has_a_floor_is_there() {
    for house in houses() {
        for module in house.floors.keys() {
            let there = house.sources.iter().any(|source| source.module == *module);
            assert!(there, "{}::{} is on a floor, and has no file", house.name, module.join("::"));
        }
    }
}

#[test]
fn no_file_is_longer_than_can_be_read_at_once() {
    let mut files = Vec::new();
    for folder in ["src", "crates", "tests", "benches", "examples"] {
        files.extend(rust_files(&root().join(folder)));
    }
    let long = files.iter().filter_map(|path| {
        let lines = fs::read_to_string(path).unwrap().lines().count();
        let path = path.strip_prefix(root()).unwrap().display();
        (lines > MOST_LINES).then(|| format!("{path} has {lines} lines, and {MOST_LINES} are the most"))
    });
    let long: Vec<_> = long.collect();
    assert!(long.is_empty(), "{}", long.join("\n"));
}

#[test]
fn an_arrow_is_seen_in_whatever_way_a_path_is_written() {
    let text = "//! crate::in_words\nuse super::{beside, under::{self, Thing}};\npub use crate::a::B as C;\n\
                fn f() { let s = \"crate::in_a_string\"; crate::b::c(jetfold::d::E, 'x', r#\"crate::raw\"#) }\n\
                mod inner {\n    use super::*;\n    use super::super::up;\n}\nmod tests {\n    use crate::above;\n}\n";
    let module = vec!["top".to_owned(), "own".to_owned()];
    let source = Source { path: PathBuf::new(), module, text: text.to_owned() };
    let mut seen: Vec<_> = arrows("stream_sum", &source)
        .into_iter()
        .map(|(line, name, target)| format!("{line} {name}::{}", target.join("::")))
        .collect();
    seen.sort();
    let expected = [
        "2 stream_sum::top::beside",
        "2 stream_sum::top::under",
        "2 stream_sum::top::under::Thing",
        "3 stream_sum::a::B",
        "4 jetfold::d::E",
        "4 stream_sum::b::c",
        "6 stream_sum::top::own",
        "7 stream_sum::top::up",
    ];
    assert_eq!(seen, expected);
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn houses() -> Vec<House> {
    let there = HOUSES.into_iter().filter(|(_, folder)| root().join(folder).exists());
    there
        .map(|(name, folder)| {
            let folder = root().join(folder);
            let floors = floors(&fs::read_to_string(folder.join("lib.rs")).unwrap());
            assert!(!floors.is_empty(), "the head of {}/lib.rs has a table of floors", folder.display());
            let sources = rust_files(&folder).into_iter().map(|path| {
                let within = path.strip_prefix(&folder).unwrap().with_extension("");
                let mut module: Module = within.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
                module.pop_if(|last| last == "mod" || last == "lib");
                Source { text: fs::read_to_string(&path).unwrap(), module, path }
            });
            House { name, floors, sources: sources.collect() }
        })
        .collect()
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(folder) else { return found };
    for path in entries.map(|entry| entry.unwrap().path()) {
        match path.is_dir() {
            true if path.ends_with("target") => {}
            true => found.extend(rust_files(&path)),
            false if path.extension().is_some_and(|extension| extension == "rs") => found.push(path),
            false => {}
        }
    }
    found
}

/// The table `| floor | modules |` of a lib.rs: what is named in a row stands on its floor.
fn floors(lib: &str) -> BTreeMap<Module, u32> {
    let rows = lib.lines().filter_map(|line| line.strip_prefix("//! | ")?.split_once(" | "));
    let mut floors = BTreeMap::new();
    for (floor, cell) in rows {
        let floor = match floor.parse::<u32>() {
            Ok(floor) => floor + 1,
            Err(_) if floor == "side" => 0,
            Err(_) => continue,
        };
        for path in cell.split('`').skip(1).step_by(2) {
            let module = path.trim_start_matches("mod@").split("::").map(str::to_owned).collect();
            assert_eq!(floors.insert(module, floor), None, "{path} is on two floors");
        }
    }
    floors
}

/// The floor of a module, or of the folder that it lies in.
fn floor_of(house: &House, path: &[String]) -> Option<u32> {
    (1..=path.len()).rev().find_map(|length| house.floors.get(&path[..length]).copied())
}

/// Whether it is of unit tests: they drive what they test through whatever stands above it.
fn is_test(module: &[String]) -> bool {
    module.iter().any(|part| OF_TESTS.contains(&part.as_str()))
}

/// Line, crate and path of whatever a source names in its own crate or another of the houses.
fn arrows(own: &str, source: &Source) -> Vec<(usize, String, Module)> {
    let code = code_of(&source.text);
    let mut found = Vec::new();
    for (at, _) in code.match_indices(|c: char| c.is_alphabetic()) {
        let before = code[..at].trim_end_matches(' ');
        if before.ends_with(|c: char| c.is_alphanumeric() || c == '_') && before.len() == at || before.ends_with("::") {
            continue;
        }
        let rest = &code[at..];
        let first = rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap();
        if !rest[first.len()..].starts_with("::") {
            continue;
        }
        let line = code[..at].matches('\n').count() + 1;
        let inner = inline_modules(&code, at);
        if is_test(&inner) {
            continue;
        }
        for path in leaves(rest) {
            let mut from = source.module.clone();
            from.extend(inner.iter().cloned());
            let (name, target) = match path[0].as_str() {
                "crate" => (own, path[1..].to_vec()),
                "self" | "super" => {
                    let ups = path.iter().filter(|part| *part == "super").count();
                    from.truncate(from.len().saturating_sub(ups));
                    from.extend(path.into_iter().skip_while(|part| part == "super" || part == "self"));
                    (own, from)
                }
                name => match HOUSES.iter().find(|(house, _)| *house == name) {
                    Some((house, _)) => (*house, path[1..].to_vec()),
                    None => continue,
                },
            };
            found.push((line, name.to_owned(), target));
        }
    }
    found
}

/// The paths of a use tree, or the one path, that the text begins with. `self` and `*` at an end are left out.
fn leaves(text: &str) -> Vec<Module> {
    let mut path = Module::new();
    let mut rest = text;
    loop {
        let word = rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap();
        if !word.is_empty() && (word != "self" || path.is_empty()) {
            path.push(word.to_owned());
        }
        rest = &rest[word.len()..];
        match rest.strip_prefix("::") {
            Some(next) if next.starts_with('{') => return branches(&path, &next[1..]),
            Some(next) => rest = next,
            None => return vec![path],
        }
    }
}

/// The paths within the braces of a use tree, `text` being what follows the one that opens.
fn branches(path: &[String], text: &str) -> Vec<Module> {
    let mut found = Vec::new();
    let (mut depth, mut start) = (0, 0);
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            ',' | '}' if depth == 0 => {
                let branch = text[start..at].trim();
                let tails = if branch.is_empty() { Vec::new() } else { leaves(branch) };
                found.extend(tails.into_iter().map(|tail| {
                    let tail = tail.into_iter().filter(|part| part != "self");
                    path.iter().cloned().chain(tail).collect()
                }));
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            '}' => depth -= 1,
            _ => {}
        }
    }
    found
}

/// The modules written within the file that enclose a place in it.
fn inline_modules(code: &str, at: usize) -> Module {
    let (mut open, mut before) = (Vec::new(), 0);
    for (brace, c) in code[..at].char_indices().filter(|(_, c)| matches!(c, '{' | '}' | ';')) {
        match c {
            '{' => open.push(code[before..brace].trim().rsplit_once("mod ").map(|(_, name)| name.trim().to_owned())),
            '}' => drop(open.pop()),
            _ => {}
        }
        before = brace + 1;
    }
    open.into_iter().flatten().filter(|name| name.chars().all(|c| c.is_alphanumeric() || c == '_')).collect()
}

/// The text with its comments, strings and characters made blank, its lines where they were.
fn code_of(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let length = match c {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => rest.find("*/").map_or(rest.len(), |end| end + 2),
            'r' if !code.ends_with(|c: char| c.is_alphanumeric() || c == '_') => raw_string(rest).unwrap_or(0),
            '"' => quoted(rest, '"'),
            '\'' if rest[1..].starts_with('\\') || rest[1..].chars().nth(1) == Some('\'') => quoted(rest, '\''),
            _ => 0,
        };
        if length == 0 {
            code.push(c);
            rest = &rest[c.len_utf8()..];
        } else {
            code.extend(rest[..length].chars().map(|c| if c == '\n' { c } else { ' ' }));
            rest = &rest[length..];
        }
    }
    code
}

fn raw_string(text: &str) -> Option<usize> {
    let hashes = text[1..].chars().take_while(|c| *c == '#').count();
    let start = 1 + hashes;
    text[start..].starts_with('"').then_some(())?;
    let end = format!("\"{}", "#".repeat(hashes));
    Some(start + 1 + text[start + 1..].find(&end)? + end.len())
}

/// The length of a string or character, its quotes included.
fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}
