//! Connecting: servers, credentials, and what a server must be able to do.

use crate::bus::backoff;
use crate::throttle::Throttle;
use crate::values::{Secret, SecretPath, Span, list, parsed, redact_url, redacted_urls};
use async_nats::connection::State;
use async_nats::jetstream;
use async_nats::{Client, ConnectErrorKind, ConnectOptions, Event, rustls};
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
#[serde(deny_unknown_fields)]
pub struct Config {
    /// URLs, those of `NATS_URL` where none are set; empty: this machine.
    #[serde(deserialize_with = "list", serialize_with = "redacted_urls")]
    pub servers: Vec<String>,
    /// Whether `servers` are those of `NATS_URL`, which nobody has named for this program.
    #[serde(skip)]
    pub of_every_client: bool,
    /// Credentials file.
    pub creds: SecretPath,
    /// nkey seed file.
    pub nkey: SecretPath,
    /// User, with `password`.
    #[serde(deserialize_with = "parsed")]
    pub user: String,
    /// Of `user`.
    pub password: Secret,
    /// Token.
    pub token: Secret,
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
    /// How long one request or publish waits for its answer.
    pub request_timeout: Span,
    /// How long a starting process tries to reach a server.
    pub startup_timeout: Span,
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
        "the NATS server at {servers} refuses these credentials: check nats.user, nats.password, nats.token, --creds or --nkey"
    )]
    Refused { servers: String },
    #[error(
        "no secure connection to {servers} ({cause}): check nats.tls_ca, which vouches for the server, and nats.tls_cert and nats.tls_key, by which it knows this client"
    )]
    NotSecure { servers: String, cause: String },
    #[error("{key} names {path}, which cannot be used ({cause}): name a file that can be read")]
    BadFile { key: &'static str, path: String, cause: String },
    #[error("{url} is not the address of a NATS server: write it as nats://host:port")]
    BadUrl { url: String },
    #[error("nats-server {found} at {servers} is too old: stream-sum needs 2.10 or newer")]
    TooOld { servers: String, found: String },
}

/// One connection to NATS, and the JetStream context on it.
#[derive(Clone, Debug)]
pub struct Connection {
    pub client: Client,
    pub jetstream: jetstream::Context,
    /// How long one request or publish waits for its answer.
    pub request_timeout: Duration,
    connects: watch::Receiver<u64>,
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

    /// Asks what a process must know to start, again and again until `startup_timeout` is over: while a cluster looks for
    /// leaders, nobody answers. Errors that may not pass are returned at once.
    pub async fn ask_at_start<T, E: fmt::Display, F: Future<Output = Result<T, E>>>(
        &self,
        ask: impl Fn() -> F,
        may_pass: impl Fn(&E) -> bool,
    ) -> Result<T, E> {
        let mut has_said = false;
        for pause in backoff::reopening() {
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
        unreachable!("the pauses never end")
    }
}

/// Whether this is the address of a NATS server.
pub fn is_address(url: &str) -> bool {
    let whole = !url.contains(char::is_whitespace);
    whole && url.parse::<async_nats::ServerAddr>().is_ok_and(|address| !address.host().is_empty())
}

impl Config {
    /// The servers to try, in order.
    fn addresses(&self) -> Vec<String> {
        match self.servers.is_empty() {
            true => vec!["nats://127.0.0.1:4222".to_owned()],
            false => self.servers.clone(),
        }
    }

    /// The address of the first server, where that is this machine's own.
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
    let servers = config.shown_addresses();
    let mut addresses = Vec::new();
    for url in config.addresses() {
        let refuse = || ConnectError::BadUrl { url: redact_url(&url) };
        addresses.push(url.parse::<async_nats::ServerAddr>().map_err(|_| refuse())?);
    }
    let (connects_tx, connects) = watch::channel(0);
    let deadline = Instant::now() + config.startup_timeout.0;
    let client = loop {
        let options = options(config, name, connects_tx.clone()).await?;
        let error = match tokio::time::timeout_at(deadline, options.connect(addresses.as_slice())).await {
            Ok(Ok(client)) => break client,
            Ok(Err(error)) => match error.kind() {
                ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
                    return Err(ConnectError::Refused { servers });
                }
                _ => match tls_error(&error) {
                    Some(cause) => return Err(ConnectError::NotSecure { servers, cause }),
                    None => error.to_string(),
                },
            },
            Err(_) => "no answer".to_owned(),
        };
        let pause = Duration::from_millis(250);
        if Instant::now() + pause >= deadline {
            return Err(ConnectError::NoServer { servers, waited: config.startup_timeout, cause: error });
        }
        tokio::time::sleep(pause).await;
    };
    let (major, minor, patch) = OLDEST_SERVER;
    if !client.is_server_compatible(major, minor, patch) {
        return Err(ConnectError::TooOld { servers, found: client.server_info().version });
    }
    let jetstream = jetstream::context::ContextBuilder::new()
        .timeout(config.request_timeout.0)
        .max_ack_inflight(MOST_UNACKED)
        .build(client.clone());
    let request_timeout = config.request_timeout.0;
    Ok(Connection { client, jetstream, request_timeout, connects, starts_until: deadline })
}

/// What is wrong with the certificates, where it is that.
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

async fn options(config: &Config, name: &str, connects: watch::Sender<u64>) -> Result<ConnectOptions, ConnectError> {
    let was = connects.subscribe();
    let events = Arc::new(Events { connects });
    let mut options = ConnectOptions::new()
        .name(format!("stream-sum {name}"))
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
    if !config.creds.is_empty() {
        let creds = read("nats.creds", config.creds.reveal(), &config.creds)?;
        options = options.credentials(&creds).map_err(|error| bad_file("nats.creds", &config.creds, &error))?;
    }
    if !config.nkey.is_empty() {
        options = options.nkey(read("nats.nkey", config.nkey.reveal(), &config.nkey)?.trim().to_owned());
    }
    if !config.user.is_empty() {
        options = options.user_and_password(config.user.clone(), config.password.reveal().to_owned());
    }
    if !config.token.is_empty() {
        options = options.token(config.token.reveal().to_owned());
    }
    if !config.tls_ca.is_empty() {
        read("nats.tls_ca", &config.tls_ca, &config.tls_ca)?;
        options = options.add_root_certificates(config.tls_ca.clone().into()).require_tls(true);
    }
    if !config.tls_cert.is_empty() {
        read("nats.tls_cert", &config.tls_cert, &config.tls_cert)?;
        read("nats.tls_key", &config.tls_key, &config.tls_key)?;
        options = options
            .add_client_certificate(config.tls_cert.clone().into(), config.tls_key.clone().into())
            .require_tls(true);
    }
    if config.tls_first {
        options = options.tls_first().require_tls(true);
    }
    Ok(options)
}

fn read(key: &'static str, path: &str, shown: &dyn fmt::Display) -> Result<String, ConnectError> {
    std::fs::read_to_string(path).map_err(|error| bad_file(key, shown, &error))
}

fn bad_file(key: &'static str, shown: &dyn fmt::Display, cause: &io::Error) -> ConnectError {
    ConnectError::BadFile { key, path: shown.to_string(), cause: cause.to_string() }
}

/// From 0.1 s, doubling to 2 s, each shortened by up to a half: many clients that lost one server come back spread out.
fn reconnect_delay(attempts: usize) -> Duration {
    let doublings = u32::try_from(attempts.saturating_sub(1).min(5)).expect("at most 5");
    let longest = Duration::from_millis(100 << doublings).min(Duration::from_secs(2));
    longest.mul_f64(rand::random_range(0.5..=1.0))
}

/// All connections of a process are lost with one server, which is said once.
static LOST: Throttle = Throttle::new();
static MADE: Throttle = Throttle::new();

/// What the client reports of one connection.
struct Events {
    /// How many times it was made.
    connects: watch::Sender<u64>,
}

impl Events {
    fn note(&self, event: Event) {
        match event {
            Event::Connected => {
                self.connects.send_modify(|n| *n += 1);
                if *self.connects.borrow() > 1
                    && let Some(times) = MADE.count()
                {
                    tracing::info!(times, "connected to NATS again");
                }
            }
            Event::Disconnected => self.complain(LOST.count()),
            Event::LameDuckMode => tracing::info!("the NATS server is about to shut down"),
            Event::Draining | Event::Closed => {}
            Event::SlowConsumer(subscription) => {
                tracing::error!(subscription, "the client dropped messages that came too fast")
            }
            Event::ServerError(error) => tracing::warn!(%error, "the NATS server reported an error"),
            // Every try to reconnect that fails is one: the connection is not back.
            Event::ClientError(error) => {
                self.complain(LOST.held_back());
                tracing::debug!(%error, "the NATS client reported an error");
            }
        }
    }

    fn complain(&self, times: Option<u64>) {
        if let Some(times) = times {
            tracing::warn!(times, "lost the connection to NATS: trying again until it is back");
        }
    }
}
