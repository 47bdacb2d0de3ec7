//! Connecting: servers, credentials, and what a server must be able to do.

mod credentials;
mod denied;
mod events;

pub use credentials::{Reread, is_renewable};
pub use denied::Denied;

use crate::nats::retry::Pauses;
use crate::values::{Secret, SecretFile, SecretPath, Span, list, parsed, redact_url, redacted_urls};
use async_nats::connection::State;
use async_nats::jetstream;
use async_nats::{Client, ConnectErrorKind, ConnectOptions, ServerError, rustls};
use credentials::Credentials;
use events::{Events, Trouble};
use serde::{Deserialize, Serialize};
use std::error::Error;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// URLs, those of `NATS_URL` if none are set; empty: this machine.
    #[serde(deserialize_with = "list", serialize_with = "redacted_urls")]
    pub servers: Vec<String>,
    /// Whether `servers` are those of `NATS_URL`, which nobody has named for this program.
    #[serde(skip)]
    pub of_every_client: bool,
    /// How all of this is read once more: who connects is asked for at every connect.
    #[serde(skip)]
    pub reread: Reread,
    /// Credentials file.
    pub creds: SecretPath,
    /// nkey seed file.
    pub nkey: SecretPath,
    /// User, with `password` or `password_file`.
    #[serde(deserialize_with = "parsed")]
    pub user: String,
    /// Of `user`.
    pub password: Secret,
    /// File that holds the password, and nothing else.
    pub password_file: SecretFile,
    /// Token.
    pub token: Secret,
    /// File that holds the token, and nothing else.
    pub token_file: SecretFile,
    /// PEM file of the authority that signed the server's certificate.
    #[serde(deserialize_with = "parsed")]
    pub tls_ca: String,
    /// PEM file of the client's certificate, with `tls_key`.
    #[serde(deserialize_with = "parsed")]
    pub tls_cert: String,
    /// PEM file of its key.
    #[serde(deserialize_with = "parsed")]
    pub tls_key: String,
    /// TLS from the first byte, before the server's greeting.
    #[serde(deserialize_with = "parsed")]
    pub tls_first: bool,
    /// What subjects for answers begin with; empty: `_INBOX`.
    #[serde(deserialize_with = "parsed")]
    pub inbox_prefix: String,
    /// How long one request or publish waits for its answer.
    pub request_timeout: Span,
    /// How long a starting process tries to reach a server.
    pub startup_timeout: Span,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            of_every_client: false,
            reread: Reread::default(),
            creds: SecretPath::default(),
            nkey: SecretPath::default(),
            user: String::new(),
            password: Secret::default(),
            password_file: SecretFile::default(),
            token: Secret::default(),
            token_file: SecretFile::default(),
            tls_ca: String::new(),
            tls_cert: String::new(),
            tls_key: String::new(),
            tls_first: false,
            inbox_prefix: String::new(),
            request_timeout: Span(Duration::from_secs(5)),
            startup_timeout: Span(Duration::from_secs(10)),
        }
    }
}

/// The oldest server with stream metadata and the consumer options that the log source relies on.
const OLDEST_SERVER: (i64, i64, i64) = (2, 10, 0);

/// Publishes and the like that may wait for the socket of one connection: as many as all partitions send in one go.
const MOST_COMMANDS: usize = 1 << 13;

/// Publishes of one connection that may wait for their acknowledgement at once.
const MOST_UNACKED: usize = 1 << 15;

#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error(
        "no NATS server answers at {servers} within {waited} ({cause}): start one there, or name another with --server"
    )]
    NoServer { servers: String, waited: Span, cause: String },
    #[error(
        "the NATS server at {servers} refuses these credentials ({cause}): check what names the user: nats.user with nats.password or nats.password_file, nats.token, nats.token_file, --creds, --nkey, --context or the URL"
    )]
    Refused { servers: String, cause: String },
    #[error("the NATS server at {servers} takes no more connections ({cause}): raise its limit, or end who holds some")]
    NoMore { servers: String, cause: String },
    #[error("the URLs of the servers name different users: name one, in nats.user and nats.password or in nats.token")]
    SeveralUsers,
    #[error("{0}")]
    Denied(Denied),
    #[error(
        "no secure connection to {servers} ({cause}): check nats.tls_ca, which vouches for the server, and nats.tls_cert and nats.tls_key, by which it knows this client"
    )]
    NotSecure { servers: String, cause: String },
    #[error("{key} names {path}, which cannot be used ({cause}): name a file that can be read")]
    BadFile { key: &'static str, path: String, cause: String },
    #[error("{url} is not the address of a NATS server: write it as nats://host:port")]
    BadUrl { url: String },
    #[error("nats-server {found} at {servers} is too old: {application} needs 2.10 or newer")]
    TooOld { servers: String, found: String, application: String },
}

/// One connection to NATS, and the JetStream context on it.
#[derive(Clone, Debug)]
pub struct Connection {
    pub client: Client,
    pub jetstream: jetstream::Context,
    /// How long one request or publish waits for its answer.
    pub request_timeout: Duration,
    connects: watch::Receiver<u64>,
    trouble: watch::Receiver<Trouble>,
    /// When a starting process gives up.
    starts_until: Instant,
}

impl Connection {
    /// Changes whenever the connection was lost and made again: what was in flight then may be lost.
    pub fn connects(&self) -> watch::Receiver<u64> {
        self.connects.clone()
    }

    /// Whether it stands, as far as the client knows.
    pub fn stands(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    /// What keeps it from being of use at the moment, in words.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.borrow().said(Instant::now())
    }

    /// Does `work`, for which this user must be allowed everything that it tries: who is refused would wait for ever.
    pub async fn unless_denied<T>(&self, work: impl Future<Output = T>) -> Result<T, ConnectError> {
        tokio::select! {
            done = work => Ok(done),
            denied = self.denied() => Err(ConnectError::Denied(denied)),
        }
    }

    /// Waits until the server has said of something that this user may not do it.
    pub async fn denied(&self) -> Denied {
        self.denied_where(|_| true).await
    }

    /// The same of what `matters` alone. Of refusals that come together the last one may be all that is seen.
    pub async fn denied_where(&self, matters: impl Fn(&Denied) -> bool) -> Denied {
        let mut trouble = self.trouble.clone();
        let denied = match trouble.wait_for(|trouble| trouble.denied().is_some_and(&matters)).await {
            Ok(trouble) => trouble.denied().cloned(),
            Err(_) => None,
        };
        match denied {
            Some(denied) => denied,
            // The client is gone, and with it whoever could say so.
            None => std::future::pending().await,
        }
    }

    /// Asks what a process must know to start, again and again until `startup_timeout` is over: while a cluster looks for
    /// leaders, nobody answers. Errors that may not pass are returned at once.
    pub async fn ask_at_start<T, E: fmt::Display, F: Future<Output = Result<T, E>>>(
        &self,
        ask: impl Fn() -> F,
        may_pass: impl Fn(&E) -> bool,
    ) -> Result<T, E> {
        let mut has_said = false;
        let mut pauses = Pauses::reopening();
        loop {
            let pause = pauses.pause();
            match ask().await {
                Err(cause) if may_pass(&cause) && Instant::now() + pause < self.starts_until => {
                    if !has_said {
                        tracing::warn!(%cause, "no answer yet: asking again");
                    }
                    has_said = true;
                }
                answer => return answer,
            }
            tokio::time::sleep(pause).await;
        }
    }
}

/// Whether this is the address of a NATS server.
pub fn is_address(url: &str) -> bool {
    let whole = !url.contains(char::is_whitespace);
    whole && url.parse::<async_nats::ServerAddr>().is_ok_and(|address| !address.host().is_empty())
}

/// Whether this may stand between the dots of a subject.
fn is_token(text: &str) -> bool {
    !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c.is_control() || matches!(c, '*' | '>' | '.'))
}

impl Config {
    /// The servers to try, in order.
    fn addresses(&self) -> Vec<String> {
        match self.servers.is_empty() {
            true => vec!["nats://127.0.0.1:4222".to_owned()],
            false => self.servers.clone(),
        }
    }

    /// The address of the first server, if that is this machine's own.
    pub fn address_here(&self) -> Option<SocketAddr> {
        let address: async_nats::ServerAddr = self.addresses().first()?.parse().ok()?;
        let host = address.host().trim_start_matches('[').trim_end_matches(']');
        let ip = if host == "localhost" { Ipv4Addr::LOCALHOST.into() } else { host.parse::<IpAddr>().ok()? };
        ip.is_loopback().then(|| SocketAddr::new(ip, address.port()))
    }

    /// The servers as they may be shown.
    pub fn shown_addresses(&self) -> String {
        self.addresses().iter().map(|url| redact_url(url)).collect::<Vec<_>>().join(", ")
    }
}

/// Connects as `name`, trying until `startup_timeout` has passed. Afterwards the client reconnects by itself, for ever.
pub async fn connect(config: &Config, name: &str) -> Result<Connection, ConnectError> {
    connect_until(config, name, Instant::now() + config.startup_timeout.0, true).await
}

/// One more connection beside others: if the server has no more to give, that is said at once.
pub async fn connect_another(config: &Config, name: &str) -> Result<Connection, ConnectError> {
    connect_until(config, name, Instant::now() + config.startup_timeout.0, false).await
}

async fn connect_until(
    config: &Config,
    name: &str,
    deadline: Instant,
    wait_for_a_place: bool,
) -> Result<Connection, ConnectError> {
    let servers = config.shown_addresses();
    let addresses = credentials::addresses(&config.addresses())?;
    let events = Arc::new(Events::default());
    let (connects, trouble) = (events.connects.subscribe(), events.trouble.subscribe());
    let client = loop {
        let options = options(config, name, events.clone())?;
        let (cause, is_full) = match tokio::time::timeout_at(deadline, options.connect(addresses.as_slice())).await {
            Ok(Ok(client)) => break client,
            Ok(Err(error)) => match why_not(&error) {
                WhyNot::Refused(cause) => return Err(ConnectError::Refused { servers, cause }),
                WhyNot::NotSecure(cause) => return Err(ConnectError::NotSecure { servers, cause }),
                WhyNot::Full(cause) if !wait_for_a_place => return Err(ConnectError::NoMore { servers, cause }),
                WhyNot::Full(cause) => (cause, true),
                WhyNot::Other => (error.to_string(), false),
            },
            Err(_) => ("no answer".to_owned(), false),
        };
        let pause = Duration::from_millis(250);
        if Instant::now() + pause >= deadline {
            return Err(match is_full {
                true => ConnectError::NoMore { servers, cause },
                false => ConnectError::NoServer { servers, waited: config.startup_timeout, cause },
            });
        }
        tokio::time::sleep(pause).await;
    };
    let (major, minor, patch) = OLDEST_SERVER;
    if !client.is_server_compatible(major, minor, patch) {
        let application = name.split(' ').next().unwrap_or(name).to_owned();
        return Err(ConnectError::TooOld { servers, found: client.server_info().version, application });
    }
    let jetstream = jetstream::context::ContextBuilder::new()
        .timeout(config.request_timeout.0)
        .max_ack_inflight(MOST_UNACKED)
        .build(client.clone());
    let request_timeout = config.request_timeout.0;
    Ok(Connection { client, jetstream, request_timeout, connects, trouble, starts_until: deadline })
}

/// What a failed connect means.
enum WhyNot {
    Refused(String),
    NotSecure(String),
    /// The server, or the account, has as many connections as it may have.
    Full(String),
    Other,
}

fn why_not(error: &async_nats::ConnectError) -> WhyNot {
    if let Some(cause) = tls_error(error) {
        return WhyNot::NotSecure(cause);
    }
    if matches!(error.kind(), ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation) {
        return WhyNot::Refused(error.kind().to_string());
    }
    let said = error.source().and_then(|source| source.downcast_ref::<ServerError>()).map(|error| match error {
        ServerError::Other(said) => said.clone(),
        error => error.to_string(),
    });
    match said {
        // Expired, revoked, or of an account that is.
        Some(said) if said.contains("Authentication") => WhyNot::Refused(said),
        Some(said) if said.contains("connections exceeded") => WhyNot::Full(said),
        _ => WhyNot::Other,
    }
}

/// What is wrong with the certificates, if it is that.
fn tls_error(error: &async_nats::ConnectError) -> Option<String> {
    let mut next: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = next {
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if let Some(tls) = inner.and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            return Some(tls.to_string());
        }
        next = error.source();
    }
    (error.kind() == ConnectErrorKind::Tls).then(|| error.to_string())
}

fn options(config: &Config, name: &str, events: Arc<Events>) -> Result<ConnectOptions, ConnectError> {
    let was = events.connects.subscribe();
    let credentials = Credentials::new(config)?;
    let mut options = ConnectOptions::with_auth_callback(move |nonce| std::future::ready(credentials.answer(&nonce)))
        .name(name)
        .request_timeout(Some(config.request_timeout.0))
        .connection_timeout(config.request_timeout.0)
        .max_reconnects(None)
        .client_capacity(MOST_COMMANDS)
        // A first connection has nobody to spread out from.
        .reconnect_delay_callback(
            move |attempts| if *was.borrow() > 0 { reconnect_delay(attempts) } else { Duration::ZERO },
        )
        .event_callback(move |event| {
            let events = events.clone();
            async move { events.note(event) }
        });
    if !config.inbox_prefix.is_empty() {
        options = options.custom_inbox_prefix(&config.inbox_prefix);
    }
    if !config.tls_ca.is_empty() {
        must_be_there("nats.tls_ca", &config.tls_ca)?;
        options = options.add_root_certificates(config.tls_ca.clone().into()).require_tls(true);
    }
    if !config.tls_cert.is_empty() {
        must_be_there("nats.tls_cert", &config.tls_cert)?;
        must_be_there("nats.tls_key", &config.tls_key)?;
        options = options
            .add_client_certificate(config.tls_cert.clone().into(), config.tls_key.clone().into())
            .require_tls(true);
    }
    if config.tls_first {
        options = options.tls_first().require_tls(true);
    }
    Ok(options)
}

fn must_be_there(key: &'static str, path: &str) -> Result<(), ConnectError> {
    let bad = |cause: io::Error| ConnectError::BadFile { key, path: path.to_owned(), cause: cause.to_string() };
    std::fs::read(path).map(|_| ()).map_err(bad)
}

/// From 0.1 s, doubling to 2 s, each shortened by up to a half: many clients that lost one server come back spread out.
fn reconnect_delay(attempts: usize) -> Duration {
    let doublings = u32::try_from(attempts.saturating_sub(1).min(5)).expect("at most 5");
    let longest = Duration::from_millis(100 << doublings).min(Duration::from_secs(2));
    longest.mul_f64(rand::random_range(0.5..=1.0))
}
