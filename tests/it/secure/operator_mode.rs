//! `nats/nsc.sh`: the same rights, in operator mode.

use super::{PARTITIONS, configuration, made};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// In the place of `nsc`: writes down what it is called with, one argument a line, and makes the file that it is to make.
const NSC: &str = "#!/bin/sh\nprintf '%s\\n' call \"$@\" >> \"$CALLS\"\n\
                   while [ $# -gt 0 ]; do [ \"$1\" = --output-file ] && : > \"$2\"; shift; done\n";

type Call = Vec<String>;

/// What the script calls, for so many partitions.
fn calls(partitions: u32) -> Vec<Call> {
    let folder = tempfile::tempdir().unwrap();
    let (nsc, calls) = (folder.path().join("nsc"), folder.path().join("calls"));
    fs::write(&nsc, NSC).unwrap();
    fs::set_permissions(&nsc, fs::Permissions::from_mode(0o755)).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("nats/nsc.sh");
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
    let creds = folder.path().join("creds");
    let mut script = Command::new(script);
    script.arg(&creds).env("PATH", path).env("CALLS", &calls).env("PARTITIONS", partitions.to_string());
    assert!(script.status().unwrap().success());
    let made: BTreeSet<_> =
        fs::read_dir(creds).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(made, made::ROLES.map(|role| format!("{role}.creds")).into(), "and nothing else is left");
    let calls = fs::read_to_string(calls).unwrap();
    calls.split("call\n").skip(1).map(|call| call.lines().map(str::to_owned).collect()).collect()
}

fn value<'a>(call: &'a Call, flag: &str) -> Option<&'a str> {
    let at = call.iter().position(|argument| argument == flag)?;
    Some(&call[at + 1])
}

/// Those calls that begin with these words.
fn of<'a>(calls: &'a [Call], words: &'a str) -> impl Iterator<Item = &'a Call> {
    calls.iter().filter(move |call| call[..2].join(" ") == words)
}

fn set<'a>(items: impl IntoIterator<Item = &'a str>) -> BTreeSet<String> {
    items.into_iter().map(str::to_owned).collect()
}

/// What a user may publish and subscribe to.
type Rights = (BTreeSet<String>, BTreeSet<String>);

/// What stands between quotes.
fn quoted(text: &str) -> BTreeSet<String> {
    set(text.split('"').skip(1).step_by(2))
}

/// The rights of each role by the configuration, whose comments are left out.
fn configured() -> BTreeMap<String, Rights> {
    let text: String = configuration()
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .map(|line| format!("{line}\n"))
        .collect();
    let rights = |role: &str| {
        let user = text.split_once(&format!("nkey: ${}\n", role.to_uppercase())).unwrap().1;
        let list = |name: &str| quoted(user.split_once(name).unwrap().1.split_once(']').unwrap().0);
        (list("publish: ["), list("subscribe: ["))
    };
    made::ROLES.iter().map(|role| ((*role).to_owned(), rights(role))).collect()
}

#[test]
fn the_script_for_operator_mode_gives_each_role_what_the_configuration_gives_it() {
    let calls = calls(PARTITIONS);
    let scripted: BTreeMap<String, Rights> = of(&calls, "edit signing-key")
        .map(|call| {
            let list = |flag: &str| set(value(call, flag).unwrap().split(','));
            (value(call, "--role").unwrap().to_owned(), (list("--allow-pub"), list("--allow-sub")))
        })
        .collect();
    assert_eq!(scripted, configured());
    let accounts: BTreeMap<_, _> = of(&calls, "add user")
        .map(|call| (value(call, "--name").unwrap(), value(call, "--account").unwrap()))
        .collect();
    let inside_and_outside =
        [("admin", "INSIDE"), ("summer", "INSIDE"), ("chunker", "OUTSIDE"), ("reader", "OUTSIDE")].into();
    assert_eq!(accounts, inside_and_outside);
    // A user is signed by the key that holds its rights.
    assert!(of(&calls, "add user").all(|call| value(call, "--private-key") == value(call, "--name")));
}

#[test]
fn the_script_for_operator_mode_lets_through_what_the_configuration_lets_through() {
    let calls = calls(PARTITIONS);
    let text = configuration();
    let lines = text.lines().map(str::trim);
    let exports = lines.clone().filter(|line| line.starts_with("{ service: \""));
    let exports: BTreeMap<_, _> = exports
        .map(|line| {
            (
                line.split('"').nth(1).unwrap(),
                if line.contains("response_type: stream") { "Stream" } else { "Singleton" },
            )
        })
        .collect();
    let scripted: BTreeMap<_, _> = of(&calls, "add export")
        .map(|call| (value(call, "--subject").unwrap(), value(call, "--response-type").unwrap()))
        .collect();
    assert_eq!(scripted, exports);
    assert!(of(&calls, "add export").all(|call| call.contains(&"--private".to_owned())), "for OUTSIDE alone");
    let imports = lines.filter(|line| line.starts_with("{ service: { account: INSIDE"));
    let imports = set(imports.map(|line| line.split('"').nth(1).unwrap()));
    assert_eq!(imports, set(exports.keys().copied()));
    assert_eq!(set(of(&calls, "add import").map(|call| value(call, "--local-subject").unwrap())), imports);
}

#[test]
fn the_script_for_operator_mode_names_as_many_logs_as_it_is_told() {
    let calls = calls(10);
    let of_summer = of(&calls, "edit signing-key").find(|call| value(call, "--role") == Some("summer")).unwrap();
    let rights = set(value(of_summer, "--allow-pub").unwrap().split(','));
    let purges: BTreeSet<_> = rights.iter().filter_map(|right| right.strip_prefix("$JS.API.STREAM.PURGE.")).collect();
    let logs: Vec<_> = (0..10).map(|n| format!("chunks-{n}")).collect();
    assert_eq!(purges, logs.iter().map(String::as_str).chain(["OBJ_stream-sum-state"]).collect());
}
