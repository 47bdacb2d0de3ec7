//! Logs: to standard error, as text for people or JSON for machines.

use crate::values::{parsed, serde_as_text};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::io::{self, IsTerminal};
use std::str::FromStr;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub level: Filter,
    pub format: Format,
}

/// A level, or a list of filters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter(String);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Auto,
    Text,
    Json,
}

impl FromStr for Filter {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        const EXPECTED: &str =
            "a level: off, error, warn, info, debug or trace, or filters such as info,stream_sum=debug";
        // A filter takes any word for the name of a module, and would then show nothing but what that one says.
        let words = text.split(',').filter(|part| !part.contains('='));
        let all_levels = words.map(str::trim).all(|word| word.parse::<tracing::level_filters::LevelFilter>().is_ok());
        if all_levels && EnvFilter::try_new(text).is_ok() { Ok(Self(text.to_owned())) } else { Err(EXPECTED) }
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Format {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        match text {
            "auto" => Ok(Self::Auto),
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("auto, text or json"),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

serde_as_text!(Filter, Format);

/// Starts logging for the whole process.
pub fn start(config: &Config) {
    let mut filter = EnvFilter::try_new(&config.level.0).expect("a filter is checked when it is read");
    if !config.level.0.contains("async_nats") {
        // The client reports every reconnect as an event, which this program logs in its own words.
        filter = filter.add_directive("async_nats=error".parse().expect("a plain directive"));
    }
    let terminal = io::stderr().is_terminal();
    let registry = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer().with_writer(io::stderr).with_target(false);
    match config.format {
        Format::Json => registry.with(layer.json().flatten_event(true)).init(),
        Format::Auto if !terminal => registry.with(layer.json().flatten_event(true)).init(),
        Format::Auto | Format::Text => registry.with(layer.with_ansi(terminal)).init(),
    }
}
