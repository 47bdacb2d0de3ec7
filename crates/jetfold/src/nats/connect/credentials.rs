//! By what a server knows this client.
//!
//! Passwords are rotated and credentials renewed while processes run, so all of it is read again at every connect.

use super::{Config, ConnectError, is_token};
use crate::nats::topology::OutOfRange;
use crate::throttle::Throttle;
use crate::values::{Secret, SecretFile, SecretPath, redact_url};
use async_nats::{Auth, AuthError, ServerAddr};
use nkeys::KeyPair;
use percent_encoding::percent_decode_str;
use std::fmt;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

/// Whether a file can be read again: what has come through a pipe does not come a second time, and whoever waits for it hangs.
/// What is not there yet may be.
pub fn is_renewable(path: &Path) -> bool {
    fs::metadata(path).map_or(true, |found| found.is_file() || found.is_dir())
}

/// How the configuration is read once more, if it comes from somewhere that may have changed.
#[derive(Clone, Default)]
pub struct Reread(Option<Arc<Rereading>>);

type Rereading = dyn Fn() -> Result<Config, String> + Send + Sync;

impl Reread {
    pub fn new(read: impl Fn() -> Result<Config, String> + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(read)))
    }
}

impl fmt::Debug for Reread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Reread" } else { "Once" })
    }
}

impl Config {
    /// Whether who connects, and with which certificate, is named in one way that can be.
    pub fn check(&self) -> Result<(), OutOfRange> {
        let must = |holds: bool, key, expected| if holds { Ok(()) } else { Err(OutOfRange { key, expected }) };
        let twice = |itself: &Secret, file: &SecretFile| !itself.is_empty() && !file.is_empty();
        must(!twice(&self.password, &self.password_file), "nats.password_file", "given instead of nats.password")?;
        must(!twice(&self.token, &self.token_file), "nats.token_file", "given instead of nats.token")?;
        let nobody_s = self.user.is_empty() && !self.password_file.is_empty();
        must(!nobody_s, "nats.password_file", "given together with nats.user")?;
        let token = !self.token.is_empty() || !self.token_file.is_empty();
        // What stands in the URL that every client is told of is for those who have nothing else.
        let in_urls = !self.of_every_client && self.servers.iter().any(|url| names_user(url));
        let ways = [!self.creds.is_empty(), !self.nkey.is_empty(), !self.user.is_empty(), token, in_urls];
        let one = "given one way to authenticate: creds, nkey, user and password, token, or the URL";
        must(ways.iter().filter(|set| **set).count() <= 1, "nats", one)?;
        let is_prefix = self.inbox_prefix.is_empty() || self.inbox_prefix.split('.').all(is_token);
        must(is_prefix, "nats.inbox_prefix", "a subject without wildcards, such as _INBOX_me")?;
        let has_both = self.tls_cert.is_empty() == self.tls_key.is_empty();
        must(has_both, "nats.tls_key", "given together with nats.tls_cert")
    }
}

/// What one connection is made with.
pub(super) struct Credentials {
    config: Config,
    /// The last that could be read.
    known: Mutex<Arc<Keys>>,
}

/// One file is of all connections.
static COMPLAINTS: Throttle = Throttle::new();

impl Credentials {
    pub(super) fn new(config: &Config) -> Result<Self, ConnectError> {
        let known = Mutex::new(Arc::new(Keys::read(config)?));
        Ok(Self { config: config.clone(), known })
    }

    /// What answers a server that has sent `nonce`.
    pub(super) fn answer(&self, nonce: &[u8]) -> Result<Auth, AuthError> {
        let keys = match self.read_again() {
            Ok(keys) => {
                let keys = Arc::new(keys);
                *self.known() = keys.clone();
                keys
            }
            Err(cause) => {
                // A file that is just being replaced must not cost the connection.
                if let Some(times) = COMPLAINTS.count() {
                    tracing::warn!(times, %cause, "the credentials can't be read again: those of before are used");
                }
                self.known().clone()
            }
        };
        keys.answer(nonce)
    }

    fn read_again(&self) -> Result<Keys, String> {
        let config = self.config.reread.0.as_ref().map(|read| read()).transpose()?;
        Keys::read(config.as_ref().unwrap_or(&self.config)).map_err(|error| error.to_string())
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Arc<Keys>> {
        self.known.lock().expect("nothing panics while it holds this")
    }
}

/// The ways in which a server may know a client.
enum Keys {
    None,
    Jwt { jwt: String, key: KeyPair },
    Nkey(KeyPair),
    User { user: String, password: String },
    Token(String),
}

impl Keys {
    fn read(config: &Config) -> Result<Self, ConnectError> {
        if !config.creds.is_empty() {
            return read_creds(&config.creds);
        }
        if !config.nkey.is_empty() {
            let seed = read("nats.nkey", config.nkey.reveal(), &config.nkey)?;
            let key = KeyPair::from_seed(seed.trim());
            return key.map(Self::Nkey).map_err(|_| bad("nats.nkey", &config.nkey, "it holds no nkey seed"));
        }
        if !config.user.is_empty() {
            let password = secret(&config.password, "nats.password_file", &config.password_file)?;
            return Ok(Self::User { user: config.user.clone(), password });
        }
        if !config.token.is_empty() || !config.token_file.is_empty() {
            return secret(&config.token, "nats.token_file", &config.token_file).map(Self::Token);
        }
        let in_urls = of_servers(&config.servers)?;
        Ok(match in_urls {
            None => Self::None,
            Some(UserInfo { user, password: Some(password) }) => {
                Self::User { user, password: password.reveal().to_owned() }
            }
            // As every client of NATS reads it.
            Some(UserInfo { user: token, password: None }) => Self::Token(token),
        })
    }

    fn answer(&self, nonce: &[u8]) -> Result<Auth, AuthError> {
        let mut auth = Auth::new();
        match self {
            Self::None => {}
            Self::Jwt { jwt, key } => {
                auth.jwt = Some(jwt.clone());
                auth.signature = Some(key.sign(nonce).map_err(AuthError::new)?);
            }
            Self::Nkey(key) => {
                auth.nkey = Some(key.public_key());
                auth.signature = Some(key.sign(nonce).map_err(AuthError::new)?);
            }
            Self::User { user, password } => {
                auth.username = Some(user.clone());
                auth.password = Some(password.clone());
            }
            Self::Token(token) => auth.token = Some(token.clone()),
        }
        Ok(auth)
    }
}

/// What stands before the `@` of a URL.
#[derive(PartialEq, Eq)]
struct UserInfo {
    user: String,
    password: Option<Secret>,
}

/// The address alone, and who is named in it.
fn parts(url: &str) -> Result<(ServerAddr, Option<UserInfo>), ConnectError> {
    let refuse = || ConnectError::BadUrl { url: redact_url(url) };
    let address: ServerAddr = url.parse().map_err(|_| refuse())?;
    let mut url = address.into_inner();
    let decode = |text: &str| percent_decode_str(text).decode_utf8().map(|text| text.into_owned());
    let user = decode(url.username()).map_err(|_| refuse())?;
    let password = url.password().map(decode).transpose().map_err(|_| refuse())?;
    url.set_username("").and_then(|()| url.set_password(None)).map_err(|()| refuse())?;
    let address = ServerAddr::from_url(url).map_err(|_| refuse())?;
    let password = password.map(|password| password.parse().expect("any text is one"));
    let named = !user.is_empty() || password.is_some();
    Ok((address, named.then_some(UserInfo { user, password })))
}

/// The servers without anything secret: the client logs where it connects to.
pub(super) fn addresses(urls: &[String]) -> Result<Vec<ServerAddr>, ConnectError> {
    urls.iter().map(|url| Ok(parts(url)?.0)).collect()
}

/// Who is named in the URLs of servers. One user knows all of them: servers of one cluster tell of each other, without.
fn of_servers(urls: &[String]) -> Result<Option<UserInfo>, ConnectError> {
    let mut named: Option<UserInfo> = None;
    for url in urls {
        let Some(user) = parts(url)?.1 else { continue };
        match &named {
            Some(other) if *other != user => return Err(ConnectError::SeveralUsers),
            _ => named = Some(user),
        }
    }
    Ok(named)
}

/// Whether the URL of a server names who connects.
fn names_user(url: &str) -> bool {
    parts(url).is_ok_and(|(_, user)| user.is_some())
}

/// A credentials file holds a JWT and a seed, each between lines of dashes.
fn read_creds(path: &SecretPath) -> Result<Keys, ConnectError> {
    let text = read("nats.creds", path.reveal(), path)?;
    let inside = |what: &str| {
        let mut lines =
            text.lines().map(str::trim).skip_while(|line| !(line.starts_with("---") && line.contains(what)));
        lines.nth(1).filter(|line| !line.is_empty() && !line.starts_with("---")).map(str::to_owned)
    };
    let jwt = inside("BEGIN NATS USER JWT").ok_or_else(|| bad("nats.creds", path, "it holds no user JWT"))?;
    let seed = inside("BEGIN USER NKEY SEED").ok_or_else(|| bad("nats.creds", path, "it holds no nkey seed"))?;
    let key = KeyPair::from_seed(&seed).map_err(|_| bad("nats.creds", path, "its nkey seed is none"))?;
    Ok(Keys::Jwt { jwt, key })
}

/// A secret itself, or the one that a file holds. The newline behind it is none of it.
fn secret(itself: &Secret, key: &'static str, file: &SecretFile) -> Result<String, ConnectError> {
    if file.is_empty() {
        return Ok(itself.reveal().to_owned());
    }
    let text = read(key, file.reveal(), file)?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    let line = line.strip_suffix('\r').unwrap_or(line);
    match line {
        "" => Err(bad(key, file, "it is empty")),
        _ if line.contains(['\n', '\r']) => Err(bad(key, file, "it holds more than one line")),
        _ => Ok(line.to_owned()),
    }
}

/// `shown`: the path as it may be shown.
fn read(key: &'static str, path: &str, shown: &impl fmt::Display) -> Result<String, ConnectError> {
    if !is_renewable(Path::new(path)) {
        return Err(bad(key, shown, "it is a pipe, and is to be read again at every connect: name a file"));
    }
    fs::read_to_string(path).map_err(|cause: io::Error| bad(key, shown, &cause.to_string()))
}

fn bad(key: &'static str, shown: &impl fmt::Display, cause: &str) -> ConnectError {
    ConnectError::BadFile { key, path: shown.to_string(), cause: cause.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_an_address_and_a_user_with_a_password_or_a_token() {
        let user = |url: &str| {
            let (address, user) = parts(url).unwrap_or_else(|error| panic!("{error}"));
            let user = user.map(|user| (user.user, user.password.map(|password| password.reveal().to_owned())));
            (address.as_url_str().to_owned(), user)
        };
        let some = |user: &str, password: Option<&str>| Some((user.to_owned(), password.map(str::to_owned)));
        assert_eq!(user("nats://host:1"), ("nats://host:1".to_owned(), None));
        assert_eq!(user("me:s3cret@host"), ("nats://host".to_owned(), some("me", Some("s3cret"))));
        assert_eq!(user("tls://t0ken@host:1"), ("tls://host:1".to_owned(), some("t0ken", None)));
        assert_eq!(user("nats://m%40e:p%3Ass@[::1]:1"), ("nats://[::1]:1".to_owned(), some("m@e", Some("p:ss"))));
        assert!(parts("nats://me:s3cret@host:x").is_err_and(|error| !error.to_string().contains("s3cret")));
    }

    #[test]
    fn servers_may_name_one_user_and_no_two() {
        let named = |urls: &[&str]| of_servers(&urls.iter().map(|url| url.to_string()).collect::<Vec<_>>());
        assert!(named(&["a", "b"]).is_ok_and(|user| user.is_none()));
        assert!(named(&["me:x@a", "b", "me:x@c"]).is_ok_and(|user| user.is_some()));
        assert!(matches!(named(&["me:x@a", "you:x@b"]), Err(ConnectError::SeveralUsers)));
    }
}
