//! Seeds, passwords and tokens: from where they are read, and that nobody sees them.

use super::{Secure, made};
use crate::support::{Process, Program, Server, apply, wait_for};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// What a process was started with, as every user of the machine sees it.
fn command_line(process: &Process) -> String {
    String::from_utf8_lossy(&fs::read(format!("/proc/{}/cmdline", process.pid())).unwrap()).into_owned()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn no_seed_is_in_a_log_or_a_command_line_or_the_configuration_or_an_error() {
    let secure = Secure::with_streams("64MiB");
    let folder = tempfile::tempdir().unwrap();
    let mut said = String::new();
    let program = secure.run_as("summer", "summer --data-dir").arg(folder.path().join("data"));
    let summer = program.env("STREAM_SUM_LOG__LEVEL", "trace").spawn();
    summer.wait_for_log("opened the log", 8);
    said += &command_line(&summer);
    let mut ran = |program: Program| {
        let ended = program.env("STREAM_SUM_LOG__LEVEL", "trace").run();
        said += &format!("{}{}", ended.stdout(), ended.stderr);
        ended
    };
    for role in made::ROLES {
        ran(secure.run_as(role, "config")).expect(0);
        ran(secure.run_as(role, "chunker --streams 5"));
        ran(secure.run_as(role, "topology show"));
        ran(secure.run_as(role, "status"));
        // In the place of its file.
        let seed = secure.seed(role);
        ran(secure.run_as(role, "config").env("STREAM_SUM_NATS__NKEY", &seed)).expect(0);
        ran(secure.run_as(role, "topology show").env("STREAM_SUM_NATS__NKEY", &seed)).expect(2);
        ran(secure.run_as(role, "topology show").env("STREAM_SUM_NATS__TOKEN_FILE", &seed)).expect(2);
    }
    let stopped = summer.stop().expect(0);
    said += &format!("{}{}", stopped.stdout(), stopped.stderr);
    // The names of their files are told, so these were read.
    assert!(said.contains("chunker.nk") && said.contains("DEBUG"), "{said}");
    for role in made::ROLES {
        assert!(!said.contains(&secure.seed(role)), "the seed of the {role}");
    }
}

#[test]
fn no_password_and_no_token_of_a_file_is_in_a_log_or_a_command_line_or_the_configuration_or_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret");
    let path = file.to_str().unwrap();
    let both = [
        ("user: me, password: right-s3cret", &[("USER", "me"), ("PASSWORD_FILE", path)][..]),
        ("token: right-s3cret", &[("TOKEN_FILE", path)][..]),
    ];
    for (authorization, keys) in both {
        let server = Server::with_config(&format!("authorization {{ {authorization} }}\n"));
        let at = |arguments: &str| {
            let program = Program::at(&server, arguments).env("STREAM_SUM_LOG__LEVEL", "trace");
            keys.iter().fold(program, |program, (key, value)| program.env(&format!("STREAM_SUM_NATS__{key}"), value))
        };
        let mut said = String::new();
        for (text, code) in [
            ("right-s3cret", 0),
            ("right-s3cret\n", 0),
            ("right-s3cret\r\n", 0),
            ("wrong-s3cret\n", 2),
            ("right-s3cret\n\n", 2),
            ("", 2),
        ] {
            fs::write(&file, text).unwrap();
            let ended = at("topology apply --partitions 1").run().expect(code);
            said += &format!("{}{}", ended.stdout(), ended.stderr);
        }
        fs::write(&file, "right-s3cret\n").unwrap();
        let config = at("config").run().expect(0).stdout();
        assert!(config.contains(path), "{config}");
        let summer = at("summer --data-dir").arg(server.folder().join("data")).spawn();
        summer.wait_for_log("opened the log", 1);
        let up = at("up --streams 5 --summers 1 --server").arg(server.url()).spawn();
        // What it starts is told where to look, and not what is there.
        wait_for("a summer of the stack", || up.stderr_so_far().contains("shares the partitions"));
        said += &fs::read_dir("/proc")
            .unwrap()
            .filter_map(|process| {
                let command = fs::read(process.unwrap().path().join("cmdline")).ok()?;
                Some(String::from_utf8_lossy(&command).into_owned())
            })
            .collect::<String>();
        let (up, stopped) = (up.wait().expect(0), summer.stop().expect(0));
        said += &format!("{config}{}{}{}", up.stdout(), up.stderr, stopped.stderr);
        assert!(!said.contains("s3cret"), "{said}");
    }
}

#[test]
fn a_password_that_stands_in_the_place_of_its_file_is_not_shown() {
    for (keys, sentence) in [
        (
            &[("USER", "me"), ("PASSWORD_FILE", "s3cret")][..],
            "nats.password_file names [redacted], which cannot be used",
        ),
        (&[("TOKEN_FILE", "s3cret")], "nats.token_file names [redacted], which cannot be used"),
        (&[("TOKEN_FILE", "/nowhere")], "nats.token_file names /nowhere, which cannot be used"),
        (&[("PASSWORD_FILE", "s3cret")], "nats.password_file is not valid: it must be given together with nats.user"),
        (&[("USER", "me"), ("PASSWORD", "s3cret"), ("PASSWORD_FILE", "/f")], "given instead of nats.password"),
        (&[("TOKEN", "s3cret"), ("TOKEN_FILE", "/f")], "given instead of nats.token"),
        (&[("USER", "me"), ("TOKEN_FILE", "/f")], "one way to authenticate"),
        (&[("TOKEN_FILE", "/dev/stdin")], "it is a pipe"),
    ] {
        let program = keys.iter().fold(Program::new("topology show"), |program, (key, value)| {
            program.env(&format!("STREAM_SUM_NATS__{key}"), value)
        });
        let ended = program.run().expect(2);
        assert!(ended.sentence().contains(sentence) && !ended.stderr.contains("s3cret"), "{}", ended.stderr);
    }
    let config = Program::new("config").env("STREAM_SUM_NATS__TOKEN_FILE", "s3cret").run().expect(0).stdout();
    assert!(config.contains("token_file = \"[redacted]\""), "{config}");
}

#[test]
fn a_password_file_is_read_again_at_every_connect() {
    if Server::leaves_out_before((2, 11), "nats-server 2.10 reloads nothing if its store is named on the command line")
    {
        return;
    }
    let users = |password: &str| format!("authorization {{ user: me, password: {password} }}\n");
    let server = Server::with_config(&users("old"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    fs::write(&file, "old\n").unwrap();
    let at = |arguments: &str| {
        let program = Program::at(&server, arguments).env("STREAM_SUM_NATS__USER", "me");
        program.env_path("STREAM_SUM_NATS__PASSWORD_FILE", &file)
    };
    at("topology apply --partitions 1").run().expect(0);
    let summer = at("summer --data-dir").arg(folder.path().join("data")).spawn();
    summer.wait_for_log("opened the log", 1);
    server.reconfigure(&users("rotated"));
    wait_for("a refusal", || summer.stderr_so_far().contains("refuses the credentials"));
    fs::write(&file, "rotated\n").unwrap();
    summer.wait_for_log("opened the log", 2);
    at("chunker --streams 20").run().expect(0);
}

#[test]
fn a_data_folder_that_is_made_is_open_to_its_owner_alone_and_one_that_is_there_stays_as_it_is() {
    let server = Server::start();
    apply(&server, 1);
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("deep/down");
    let summer = Program::in_shell("umask 0", "summer --data-dir").with_server(&server).arg(&data).spawn();
    summer.wait_for_log("opened the log", 1);
    assert_eq!((mode(&data), mode(&folder.path().join("deep"))), (0o700, 0o700));
    assert!(!summer.stderr_so_far().contains("open to others"));
    summer.stop().expect(0);
    fs::set_permissions(&data, fs::Permissions::from_mode(0o755)).unwrap();
    let summer = Program::at(&server, "summer --data-dir").arg(&data).spawn();
    summer.wait_for_log("opened the log", 1);
    assert_eq!(mode(&data), 0o755);
    assert!(summer.stderr_so_far().contains("the data folder is open to others"));
}

#[test]
fn keys_are_for_their_owner_alone_and_are_never_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("data/keys");
    made::make(&keys, vec!["localhost".to_owned()]).unwrap();
    let texts = || {
        let files = fs::read_dir(&keys).unwrap().map(|file| file.unwrap().path());
        let mut texts: Vec<_> = files.map(|file| (fs::read_to_string(&file).unwrap(), file)).collect();
        texts.sort();
        texts
    };
    let before = texts();
    assert_eq!(before.len(), 2 * made::ROLES.len() + 4);
    assert_eq!(mode(&keys), 0o700);
    assert!(before.iter().all(|(_, file)| mode(file) == 0o600));
    // The authority's key is kept nowhere, and no seed beside its own file.
    let with = |what: &str| before.iter().filter(|(text, _)| text.contains(what)).count();
    assert_eq!(with("PRIVATE KEY"), 1);
    for role in made::ROLES {
        assert_eq!(with(fs::read_to_string(keys.join(format!("{role}.nk"))).unwrap().trim()), 1, "{role}");
    }
    let error = made::make(&keys, vec!["localhost".to_owned()]).unwrap_err().to_string();
    assert!(error.contains("admin.nk is there already"), "{error}");
    assert_eq!(texts(), before);
}
