//! The configuration: defaults, file, environment and flags, one over the other.
//!
//! figment merges the layers and remembers where each value came from. The layers themselves are read here, because
//! every environment value must stay the text that it is (a password may look like a number), and because no error
//! may quote a value.

use crate::cli::context::{self, ContextError};
use crate::roles::chunker::ChunkerConfig;
use crate::sum::topology_section;
use crate::telemetry;
use crate::web;
use figment::error::Kind;
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};
use jetfold::WorkerConfig;
use jetfold::nats::connect::{self, is_renewable};
use jetfold::nats::topology;
use jetfold::values::redact_url;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Every key with its default and what it means.
pub const DEFAULTS: &str = include_str!("../../config/default.toml");

const PREFIX: &str = "STREAM_SUM_";

/// Longer than any duration needs to be, and short enough to be added to any time.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// What every NATS client looks at.
const NATS_URL: &str = "NATS_URL";

const DEFAULT_LAYER: &str = "the defaults";

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub nats: connect::Config,
    pub topology: topology_section::Config,
    pub chunker: ChunkerConfig,
    pub summer: WorkerConfig,
    pub http: web::Config,
    pub otlp: web::OtlpConfig,
    pub log: telemetry::Config,
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("the configuration file {} can't be read ({cause}): name another with --config", path.display())]
    NoFile { path: PathBuf, cause: String },
    #[error("the configuration file {} is no TOML: line {line}: {cause}", path.display())]
    NotToml { path: PathBuf, line: usize, cause: String },
    #[error("there is no configuration key {key}, named by {source_name}; known are {known}")]
    UnknownKey { key: String, source_name: String, known: String },
    #[error("the value of {key}, from {source_name}, is not valid: {expected}")]
    BadValue { key: String, source_name: String, expected: String },
    #[error("{key} is not valid: it must be {expected}")]
    OutOfRange { key: String, expected: String },
    #[error(transparent)]
    Topology(#[from] topology::OutOfRange),
    #[error(transparent)]
    Context(#[from] ContextError),
}

/// A flag's key and value.
pub type Override = (&'static str, String);

/// The environment variable that sets a key.
pub fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "__").to_uppercase())
}

fn file_text(path: &Path) -> Result<String, ConfigError> {
    fs::read_to_string(path).map_err(|error| ConfigError::NoFile { path: path.to_owned(), cause: error.to_string() })
}

/// One layer of text values.
struct Layer {
    name: String,
    values: Dict,
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.name.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Map::from([(Profile::Default, self.values.clone())]))
    }
}

/// Where a configuration comes from, beside the defaults: what stands further down counts over what stands above it.
#[derive(Clone, Default)]
pub struct Sources {
    /// Of several, later ones count over earlier ones.
    pub files: Vec<PathBuf>,
    pub environment: Vec<(OsString, OsString)>,
    /// A context of the `nats` command line.
    pub context: Option<String>,
    pub flags: Vec<Override>,
}

/// The keys by which a server knows this client, one of which a flag may set.
const CREDENTIALS: [&str; 7] =
    ["nats.creds", "nats.nkey", "nats.user", "nats.password", "nats.password_file", "nats.token", "nats.token_file"];

impl Config {
    /// Reads all sources, and what names the user again at every connect.
    pub fn load(sources: Sources) -> Result<Self, ConfigError> {
        let mut piped = HashMap::new();
        for path in sources.files.iter().filter(|path| !is_renewable(path)) {
            piped.insert(path.clone(), file_text(path)?);
        }
        let mut config = Self::read(&sources, &piped)?;
        if sources.files.len() > piped.len() || sources.context.is_some() {
            let again =
                move || Self::read(&sources, &piped).map(|config| config.nats).map_err(|error| error.to_string());
            config.nats.reread = connect::Reread::new(again);
        }
        Ok(config)
    }

    /// `piped` are files that are read once: what has come through a pipe does not come again.
    fn read(sources: &Sources, piped: &HashMap<PathBuf, String>) -> Result<Self, ConfigError> {
        let Sources { files, environment, context, flags } = sources;
        let mut figment = Figment::from(toml_layer(DEFAULT_LAYER, DEFAULTS).expect("the defaults are TOML"));
        for path in files {
            let text = piped.get(path).cloned().map_or_else(|| file_text(path), Ok)?;
            let layer = toml_layer(&format!("the file {}", path.display()), &text).map_err(|error| {
                let at = error.span().map_or(0, |span| span.start);
                let line = text[..at.min(text.len())].matches('\n').count() + 1;
                // The message alone: the whole error would show the line, and a secret in it.
                ConfigError::NotToml { path: path.to_owned(), line, cause: error.message().to_owned() }
            })?;
            figment = figment.merge(layer);
        }
        let mut nats_url = None;
        for (name, value) in environment {
            let Some(name) = name.to_str() else { continue };
            if name == NATS_URL {
                nats_url = Some(value);
            }
            let Some(key) = name.strip_prefix(PREFIX) else { continue };
            // Others may set variables of this prefix: a Kubernetes Service makes STREAM_SUM_PORT.
            let Some((section, key)) = key.split_once("__") else { continue };
            let key = format!("{}.{}", section.to_lowercase(), key.to_lowercase());
            let source_name = format!("the environment variable {name}");
            let Some(value) = value.to_str() else {
                return Err(ConfigError::BadValue { key, source_name, expected: "expected UTF-8".to_owned() });
            };
            figment = figment.merge(text_layer(source_name, &key, value));
        }
        if let Some(name) = context {
            // Who is named on the command line is who connects.
            let named = flags.iter().any(|(key, _)| CREDENTIALS.contains(key));
            let settings = context::read(name)?.into_iter().filter(|(key, _)| !(named && CREDENTIALS.contains(key)));
            for (key, value) in settings {
                figment = figment.merge(text_layer(format!("the context {name}"), key, &value));
            }
        }
        for (key, value) in flags {
            figment = figment.merge(text_layer("the command line".to_owned(), key, value));
        }
        let extract = |figment: &Figment| figment.extract().map_err(|error| explain(figment, error));
        let mut config: Config = extract(&figment)?;
        // Whoever names servers for this program means them, and not those that every client is told of.
        if config.nats.servers.is_empty()
            && let Some(value) = nats_url.filter(|value| !value.is_empty())
        {
            let source_name = format!("the environment variable {NATS_URL}");
            let Some(value) = value.to_str() else {
                let (key, expected) = ("nats.servers".to_owned(), "expected UTF-8".to_owned());
                return Err(ConfigError::BadValue { key, source_name, expected });
            };
            figment = figment.merge(text_layer(source_name, "nats.servers", value));
            config = extract(&figment)?;
            config.nats.of_every_client = true;
        }
        for (key, _) in topology_section::Config::KEYS {
            let from = figment.find_metadata(&format!("topology.{key}"));
            if from.is_some_and(|metadata| metadata.name != DEFAULT_LAYER) {
                config.topology.stated.insert(key.to_owned());
            }
        }
        config.check()?;
        Ok(config)
    }

    /// The configuration as TOML, secrets redacted.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("every value has a TOML form")
    }

    fn check(&self) -> Result<(), ConfigError> {
        let must = |holds: bool, key: &'static str, expected: &str| {
            if holds {
                Ok(())
            } else {
                Err(ConfigError::OutOfRange { key: key.to_owned(), expected: expected.to_owned() })
            }
        };
        let (topology, chunker, summer) = (&self.topology, &self.chunker, &self.summer);
        topology.machine().check()?;
        must(topology.sums_max_bytes.0 >= 1 << 20, "topology.sums_max_bytes", "1MiB at least")?;
        let max_chunk = topology.max_chunk_bytes.0;
        must((1..=1 << 26).contains(&max_chunk), "topology.max_chunk_bytes", "from 1B to 64MiB")?;
        // A log without room for two of the largest messages could not be purged behind one while the next is stored.
        let largest = max_chunk + topology::PAYLOAD_HEADROOM as u64;
        let room = "twice topology.max_chunk_bytes and 256KiB at least";
        must(topology.log_max_bytes.0 >= 2 * largest, "topology.log_max_bytes", room)?;
        must((1..=1 << 26).contains(&chunker.chunk_bytes), "chunker.chunk_bytes", "from 1 to 67108864")?;
        summer.check().map_err(|topology::OutOfRange { key, expected }| {
            let (key, expected) = (format!("summer.{key}"), expected.to_owned());
            ConfigError::OutOfRange { key, expected }
        })?;
        // Each is a blocking thread, of which the runtime has 512 for everybody.
        must((1..=256).contains(&chunker.workers), "chunker.workers", "from 1 to 256")?;
        must((1..=1_000_000).contains(&chunker.live_streams), "chunker.live_streams", "from 1 to 1000000")?;
        must(chunker.batch_bytes.0 >= 1, "chunker.batch_bytes", "1B at least")?;
        must(summer.connections <= 1024, "summer.connections", "from 1 to 1024, or 0 for as many as serve it best")?;
        must(summer.checkpoint_bytes.0 >= 1, "summer.checkpoint_bytes", "1B at least")?;
        if let Some(bad) = self.nats.servers.iter().find(|url| !connect::is_address(url)) {
            let expected = format!(
                "addresses such as nats://host:port, with commas between them, and {} is none",
                redact_url(bad)
            );
            return Err(ConfigError::OutOfRange { key: "nats.servers".to_owned(), expected });
        }
        self.nats.check()?;
        for (key, span) in [
            ("nats.request_timeout", self.nats.request_timeout),
            ("nats.startup_timeout", self.nats.startup_timeout),
            ("topology.sums_retention", topology.sums_retention),
            ("topology.rejects_retention", topology.rejects_retention),
            ("topology.idle_expiry", topology.idle_expiry),
            ("topology.completed_expiry", topology.completed_expiry),
            ("chunker.deadline", chunker.deadline),
            ("summer.checkpoint_interval", summer.checkpoint_interval),
            ("summer.purge_delay", summer.purge_delay),
        ] {
            let holds = !span.0.is_zero() && span.0 <= LONGEST;
            must(holds, key, "longer than nothing, and ten years at the most")?;
        }
        Ok(())
    }
}

fn toml_layer(name: &str, text: &str) -> Result<Layer, toml::de::Error> {
    let table: toml::Table = toml::from_str(text)?;
    let values = Value::serialize(&table).ok().and_then(Value::into_dict).unwrap_or_default();
    Ok(Layer { name: name.to_owned(), values })
}

fn text_layer(name: String, key: &str, value: &str) -> Layer {
    let nested = figment::util::nest(key, Value::from(value));
    Layer { name, values: nested.into_dict().unwrap_or_default() }
}

/// One sentence about the first thing that is wrong, without its value.
fn explain(figment: &Figment, error: figment::Error) -> ConfigError {
    let mut path = error.path.clone();
    let source = |key: &str| {
        let metadata = error.metadata.clone().or_else(|| figment.find_metadata(key).cloned());
        metadata.map_or_else(|| "the configuration".to_owned(), |metadata| metadata.name.into_owned())
    };
    match &error.kind {
        Kind::UnknownField(name, known) => {
            if path.last() != Some(name) {
                path.push(name.clone());
            }
            let key = path.join(".");
            let parent = &path[..path.len() - 1];
            let known = known.iter().map(|name| [parent, &[(*name).to_owned()]].concat().join("."));
            ConfigError::UnknownKey { source_name: source(&key), key, known: known.collect::<Vec<_>>().join(", ") }
        }
        kind => {
            let expected = match kind {
                Kind::Message(message) => message.clone(),
                Kind::InvalidType(_, expected) | Kind::InvalidValue(_, expected) => format!("expected {expected}"),
                Kind::MissingField(name) => {
                    path.push(name.to_string());
                    "it is missing".to_owned()
                }
                _ => "expected another type".to_owned(),
            };
            let key = path.join(".");
            ConfigError::BadValue { source_name: source(&key), key, expected }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jetfold::values::{Size, Span};
    use std::io::Write;
    use std::time::Duration;

    fn load(file: &str, environment: &[(&str, &str)], flags: &[Override]) -> Result<Config, ConfigError> {
        let mut path = tempfile::NamedTempFile::new().unwrap();
        path.write_all(file.as_bytes()).unwrap();
        let environment = environment.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        let (files, flags) = (vec![path.path().to_owned()], flags.to_vec());
        Config::load(Sources { files, environment, flags, context: None })
    }

    #[test]
    fn each_layer_beats_the_one_below() {
        let file = "[topology]\npartitions = 3\nreplicas = 3\n[chunker]\nrate = 5\n";
        let environment = [("STREAM_SUM_TOPOLOGY__PARTITIONS", "4"), ("STREAM_SUM_CHUNKER__RATE", "6")];
        let config = load(file, &environment, &[("chunker.rate", "7".into())]).unwrap();
        assert_eq!((config.topology.partitions, config.topology.replicas, config.chunker.rate), (4, 3, 7));
        assert_eq!(config.topology.max_chunk_bytes, Size(512 << 10));
        assert_eq!(config.chunker.deadline, Span(Duration::from_secs(40)));
        assert_eq!(config.topology.stated.iter().collect::<Vec<_>>(), ["partitions", "replicas"]);
    }

    #[test]
    fn later_files_count_over_earlier_ones() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let files = [
            file("a", "[chunker]\nrate = 5\nchunks = 6\n"),
            file("b", "[chunker]\nrate = 7\n[log]\nlevel = \"warn\"\n"),
        ];
        let config = Config::load(Sources { files: files.into(), ..Sources::default() }).unwrap();
        assert_eq!((config.chunker.rate, config.chunker.chunks), (7, 6));
        assert_eq!(config.log.level.to_string(), "warn");
    }

    #[test]
    fn servers_are_those_of_nats_url_where_none_are_named_and_lists_that_are_none_are_refused() {
        let url = ("NATS_URL", "nats://a:1,nats://b:2");
        let servers = |environment: &[(&str, &str)]| load("", environment, &[]).map(|config| config.nats.servers);
        assert_eq!(servers(&[url]).unwrap(), ["nats://a:1", "nats://b:2"]);
        assert_eq!(servers(&[url, ("STREAM_SUM_NATS__SERVERS", "c:3")]).unwrap(), ["c:3"]);
        assert_eq!(servers(&[("STREAM_SUM_NATS__SERVERS", ""), url]).unwrap().len(), 2);
        assert_eq!(servers(&[("NATS_URL", "")]).unwrap(), Vec::<String>::new());
        for bad in ["nats://a:1,nats://b:x", "nats://s3cret@:70000", "http//a b"] {
            let said = servers(&[("NATS_URL", bad)]).unwrap_err().to_string();
            assert!(
                said.starts_with("nats.servers is not valid: it must be addresses such as") && !said.contains("s3cret")
            );
        }
    }

    #[test]
    fn every_example_is_valid_and_changes_something() {
        let defaults = load("", &[], &[]).unwrap().to_toml();
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
        let all = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let files: Vec<_> = all.filter(|file| file.extension().is_some_and(|kind| kind == "toml")).collect();
        assert!(files.len() >= 4, "{files:?}");
        for file in files.iter().filter(|file| !file.ends_with("default.toml")) {
            let config = Config::load(Sources { files: vec![file.to_owned()], ..Sources::default() }).unwrap();
            assert_ne!(config.to_toml(), defaults, "{}", file.display());
        }
    }

    #[test]
    fn environment_values_stay_the_text_that_they_are() {
        let environment = [
            ("STREAM_SUM_NATS__SERVERS", "nats://a:1, nats://b:2"),
            ("STREAM_SUM_NATS__PASSWORD", "0123"),
            ("STREAM_SUM_NATS__USER", "6"),
            ("STREAM_SUM_SUMMER__PARTITIONS", "3"),
            ("STREAM_SUM_NATS__TLS_FIRST", "true"),
            ("STREAM_SUM_PORT", "tcp://10.0.0.1:80"),
        ];
        let config = load("", &environment, &[]).unwrap();
        assert_eq!(config.nats.servers, ["nats://a:1", "nats://b:2"]);
        assert_eq!((config.nats.password.reveal(), config.nats.user.as_str()), ("0123", "6"));
        assert_eq!(config.summer.partitions.to_string(), "3");
        assert!(config.nats.tls_first);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_source_and_never_quoted() {
        let s3cret = "s3cret";
        let sentences = [
            load("[chunker]\nrate = \"s3cret\"", &[], &[]),
            load("[chunker]\nrte = \"s3cret\"", &[], &[]),
            load("[chunkr]\nrate = \"s3cret\"", &[], &[]),
            load("[nats]\npassword = [\"s3cret\"]", &[], &[]),
            load("[nats]\npassword = s3cret", &[], &[]),
            load("", &[("STREAM_SUM_CHUNKER__RATE", s3cret)], &[]),
            load("", &[("STREAM_SUM_CHUNKER__RTE", s3cret)], &[]),
            load("", &[("STREAM_SUM_CHUNKER", s3cret), ("STREAM_SUM_TOPOLOGY__REPLICAS", "2")], &[]),
            load("", &[], &[("chunker.rate", s3cret.into())]),
        ]
        .map(|result| result.unwrap_err().to_string());
        for sentence in &sentences {
            assert!(!sentence.contains(s3cret), "{sentence}");
        }
        assert!(sentences[0].starts_with("the value of chunker.rate, from the file "), "{}", sentences[0]);
        assert!(sentences[1].starts_with("there is no configuration key chunker.rte, named by the file "));
        assert!(sentences[2].starts_with("there is no configuration key chunkr, named by the file "));
        assert!(sentences[4].contains("line 2"), "{}", sentences[4]);
        assert_eq!(
            sentences[5],
            "the value of chunker.rate, from the environment variable STREAM_SUM_CHUNKER__RATE, is not valid: \
             expected a whole number in its range"
        );
        assert!(sentences[6].contains("STREAM_SUM_CHUNKER__RTE"), "{}", sentences[6]);
        assert_eq!(sentences[7], "topology.replicas is not valid: it must be 1, 3 or 5");
        assert!(sentences[8].contains("from the command line"), "{}", sentences[8]);
    }

    #[test]
    fn the_resolved_configuration_reads_back_without_its_secrets() {
        for (secret, shown) in [
            ("servers = [\"nats://me:s3cret@host\"]", "nats://[redacted]@host"),
            ("token = \"s3cret\"", "token = \"[redacted]\""),
        ] {
            let file = format!("[nats]\n{secret}\n[summer]\npartitions = \"0-3,6\"\n");
            let text = load(&file, &[], &[]).unwrap().to_toml();
            assert!(!text.contains("s3cret") && text.contains(shown), "{text}");
            let again = load(&text, &[], &[]).unwrap();
            assert_eq!(again.to_toml(), text);
        }
    }
}
