//! Contexts of the `nats` command line: by which servers and credentials an operator reaches a system already.

use serde::Deserialize;
use std::fs;
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum ContextError {
    #[error("there is no context {name} in {}: known are {known}", folder.display())]
    Unknown { name: String, folder: PathBuf, known: String },
    #[error("the context {name} can't be read from {} ({cause}): see `nats context info {name}`", path.display())]
    Unreadable { name: String, path: PathBuf, cause: String },
    #[error(
        "the context {name} sets {key}, which stream-sum can't follow: name servers and credentials without --context"
    )]
    Unsupported { name: String, key: &'static str },
}

/// A configuration key and its value.
pub type Setting = (&'static str, String);

/// What a context names. All that it does not name is empty.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Context {
    url: String,
    user: String,
    password: String,
    token: String,
    creds: String,
    nkey: String,
    ca: String,
    cert: String,
    key: String,
    inbox_prefix: String,
    tls_first: bool,
    nsc: String,
    user_jwt: String,
    user_seed: String,
    socks_proxy: String,
    jetstream_domain: String,
    jetstream_api_prefix: String,
}

/// The settings of a context. Those of credentials are all there, empty where it has none of a kind: it replaces others.
pub fn read(name: &str) -> Result<Vec<Setting>, ContextError> {
    let base = std::env::var_os("XDG_CONFIG_HOME").filter(|path| !path.is_empty()).map(PathBuf::from);
    // Where that program looks, which is the same on all systems.
    let base = base.or_else(|| dirs::home_dir().map(|home| home.join(".config"))).unwrap_or_default();
    read_in(&base.join("nats").join("context"), name)
}

fn read_in(folder: &Path, name: &str) -> Result<Vec<Setting>, ContextError> {
    let unknown = || ContextError::Unknown { name: name.to_owned(), folder: folder.to_owned(), known: known(folder) };
    if name.is_empty() || name.contains(['/', '\\']) || name.contains("..") {
        return Err(unknown());
    }
    let path = folder.join(format!("{name}.json"));
    let refuse = |cause: String| ContextError::Unreadable { name: name.to_owned(), path: path.clone(), cause };
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(unknown()),
        Err(error) => return Err(refuse(error.to_string())),
    };
    // Where it is wrong, and not what stands there: that may be a secret.
    let context: Context = serde_json::from_str(&text)
        .map_err(|error| refuse(format!("no context at line {}, column {}", error.line(), error.column())))?;
    context.settings().map_err(|key| ContextError::Unsupported { name: name.to_owned(), key })
}

impl Context {
    /// The settings, or the key that can't be followed.
    fn settings(self) -> Result<Vec<Setting>, &'static str> {
        for (key, value) in [
            ("nsc", &self.nsc),
            ("user_jwt", &self.user_jwt),
            ("user_seed", &self.user_seed),
            ("socks_proxy", &self.socks_proxy),
            ("jetstream_domain", &self.jetstream_domain),
            ("jetstream_api_prefix", &self.jetstream_api_prefix),
        ] {
            if !value.is_empty() {
                return Err(key);
            }
        }
        let (creds, nkey) = (file("creds", &self.creds)?, file("nkey", &self.nkey)?);
        let (user, password, token) = (self.user, literal("password", self.password)?, literal("token", self.token)?);
        // The first of these counts, as it does for that program.
        let [user, creds, nkey, token] = first_of([user, creds, nkey, token]);
        let password = if user.is_empty() { String::new() } else { password };
        let mut settings = vec![
            ("nats.user", user),
            ("nats.password", password),
            ("nats.password_file", String::new()),
            ("nats.creds", creds),
            ("nats.nkey", nkey),
            ("nats.token", token),
            ("nats.token_file", String::new()),
        ];
        let others = [
            ("nats.servers", self.url),
            ("nats.tls_ca", file("ca", &self.ca)?),
            ("nats.tls_cert", file("cert", &self.cert)?),
            ("nats.tls_key", file("key", &self.key)?),
            ("nats.inbox_prefix", self.inbox_prefix),
            ("nats.tls_first", if self.tls_first { "true".to_owned() } else { String::new() }),
        ];
        settings.extend(others.into_iter().filter(|(_, value)| !value.is_empty()));
        Ok(settings)
    }
}

/// The first that is not empty; the others are.
fn first_of<const N: usize>(mut values: [String; N]) -> [String; N] {
    let first = values.iter().position(|value| !value.is_empty());
    for (n, value) in values.iter_mut().enumerate() {
        if Some(n) != first {
            value.clear();
        }
    }
    values
}

/// A path, with the home folder where it begins with `~`. References to other places can't be followed.
fn file(key: &'static str, value: &str) -> Result<String, &'static str> {
    let path = value.strip_prefix("file://").unwrap_or(value);
    if path.contains("://") || path.starts_with("data:") || path.contains('$') {
        return Err(key);
    }
    let home = path.strip_prefix('~').and_then(|rest| Some((dirs::home_dir()?, rest)));
    Ok(home.map_or_else(|| path.to_owned(), |(home, rest)| format!("{}{rest}", home.display())))
}

/// A secret itself, and no reference to where it is kept.
fn literal(key: &'static str, value: String) -> Result<String, &'static str> {
    let kept_elsewhere = ["env://", "file://", "op://", "nsc://", "data:"];
    if kept_elsewhere.iter().any(|scheme| value.starts_with(scheme)) { Err(key) } else { Ok(value) }
}

/// The names of those that are there.
fn known(folder: &Path) -> String {
    let files = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path());
    let contexts = files.filter(|path| path.extension().is_some_and(|extension| extension == "json"));
    let mut names: Vec<_> =
        contexts.filter_map(|path| Some(path.file_stem()?.to_string_lossy().into_owned())).collect();
    names.sort();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(json: &str) -> Result<Vec<Setting>, String> {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("prod.json"), json).unwrap();
        read_in(folder.path(), "prod").map_err(|error| error.to_string())
    }

    #[test]
    fn a_context_names_servers_one_way_to_authenticate_and_certificates() {
        let set = settings(
            r#"{"description":"d","url":"nats://a:1,b:2","user":"me","password":"x","creds":"/c","nkey":"",
                "ca":"/ca","inbox_prefix":"_me","tls_first":true,"color_scheme":"dark"}"#,
        )
        .unwrap();
        let value = |key: &str| set.iter().find(|(found, _)| *found == key).map(|(_, value)| value.as_str());
        assert_eq!(value("nats.servers"), Some("nats://a:1,b:2"));
        // The user counts before the file, and nothing of another layer is left beside it.
        assert_eq!(
            (value("nats.user"), value("nats.password"), value("nats.creds")),
            (Some("me"), Some("x"), Some(""))
        );
        assert_eq!((value("nats.nkey"), value("nats.token")), (Some(""), Some("")));
        assert_eq!((value("nats.tls_ca"), value("nats.tls_cert")), (Some("/ca"), None));
        assert_eq!((value("nats.inbox_prefix"), value("nats.tls_first")), (Some("_me"), Some("true")));
    }

    #[test]
    fn what_can_not_be_followed_is_refused_by_name_and_never_quoted() {
        for (json, said) in [
            (r#"{"nsc":"nsc://a"}"#, "sets nsc,"),
            (r#"{"jetstream_domain":"hub"}"#, "sets jetstream_domain,"),
            (r#"{"token":"op://s3cret"}"#, "sets token,"),
            (r#"{"creds":"nsc://s3cret"}"#, "sets creds,"),
            (r#"{"token":s3cret}"#, "no context at line 1"),
        ] {
            let error = settings(json).unwrap_err();
            assert!(error.contains(said) && !error.contains("s3cret"), "{error}");
        }
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("prod.json"), "{}").unwrap();
        for name in ["stage", "../prod", "", "a/b"] {
            let error = read_in(folder.path(), name).unwrap_err().to_string();
            assert!(error.ends_with("known are prod"), "{error}");
        }
    }
}
