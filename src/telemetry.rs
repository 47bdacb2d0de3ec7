//! Logs: to standard error, as text for people or JSON for machines; and progress bars, which share a terminal with
//! them.

use indicatif::MultiProgress;
use jetfold::values::{parsed, serde_as_text};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::str::FromStr;
use std::sync::LazyLock;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What is logged.
    pub level: Filter,
    /// How it looks.
    pub format: Format,
}

/// A level, or a list of filters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter(String);

impl Default for Filter {
    fn default() -> Self {
        Self("info".to_owned())
    }
}

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

/// Starts logging for the whole process. `elsewhere` is the format where "auto" finds no terminal.
pub fn start(config: &Config, elsewhere: Format) {
    let mut filter = EnvFilter::try_new(&config.level.0).expect("a filter is checked when it is read");
    if !config.level.0.contains("async_nats") {
        // The client reports every failure as an event or an error, which this program tells in its own words.
        filter = filter.add_directive("async_nats=off".parse().expect("a plain directive"));
    }
    let terminal = io::stderr().is_terminal();
    let registry = tracing_subscriber::registry().with(filter);
    // Where standard error takes nothing more, saying so there would be a panic.
    let layer =
        tracing_subscriber::fmt::layer().with_writer(|| AboveBars).with_target(false).log_internal_errors(false);
    let format = if config.format == Format::Auto && !terminal { elsewhere } else { config.format };
    match format {
        Format::Json => registry.with(layer.json().flatten_event(true)).init(),
        Format::Auto | Format::Text => registry.with(layer.with_ansi(terminal)).init(),
    }
}

/// The progress bars of the process, on the terminal that standard error is. Elsewhere they are never drawn.
pub fn bars() -> &'static MultiProgress {
    // One a process, as the terminal is.
    static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);
    &BARS
}

/// Writes to standard error, above the bars where there are any.
struct AboveBars;

impl Write for AboveBars {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bars().is_hidden() {
            return io::stderr().write(bytes);
        }
        let text = String::from_utf8_lossy(bytes);
        bars().println(text.strip_suffix('\n').unwrap_or(&text))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// A writer of results that takes the bars away from the terminal meanwhile, where it is one.
pub struct BesideBars(pub io::Stdout);

impl Write for BesideBars {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.is_terminal() && !bars().is_hidden() {
            return bars().suspend(|| self.0.write(bytes).and_then(|written| self.0.flush().map(|()| written)));
        }
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Says one line on standard error. Where nobody listens, nothing is lost that matters.
pub fn say(line: &str) {
    AboveBars.write_all(format!("{line}\n").as_bytes()).ok();
}
