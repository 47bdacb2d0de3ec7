//! Configuration values: durations, sizes, lists and secrets, read alike from TOML, environment and flags.
//!
//! Every value may come as text, because the environment has nothing else; and what is wrong with one is said
//! without quoting it, because it may be a secret in the wrong place.

use serde::de::{self, Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;
use std::time::Duration;

/// A number of bytes, written as `64MiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl Size {
    pub fn bytes(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl fmt::Display for Size {
    /// In the largest unit that divides it, so that it reads back as the same number.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];
        let (unit, bytes) =
            units.into_iter().find(|(_, bytes)| self.0 >= *bytes && self.0.is_multiple_of(*bytes)).unwrap_or(("B", 1));
        write!(f, "{}{unit}", self.0 / bytes)
    }
}

impl FromStr for Size {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        text.parse::<bytesize::ByteSize>().map(|size| Size(size.0)).map_err(|_| "a size such as 512KiB or 64MiB")
    }
}

/// A length of time, written as `250ms`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

impl FromStr for Span {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        text.parse::<humantime::Duration>().map(|d| Span(*d)).map_err(|_| "a duration such as 250ms, 5s or 24h")
    }
}

#[doc(hidden)]
#[macro_export]
macro_rules! serde_as_text {
    ($($type:ty),*) => {$(
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                parsed(deserializer)
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    )*};
}
pub use serde_as_text;

serde_as_text!(Size, Span);

/// What a type's `FromStr` expects, in words.
pub trait Expectation {
    fn expectation(self) -> &'static str;
}

impl Expectation for &'static str {
    fn expectation(self) -> &'static str {
        self
    }
}

impl Expectation for std::num::ParseIntError {
    fn expectation(self) -> &'static str {
        "a whole number in its range"
    }
}

impl Expectation for std::str::ParseBoolError {
    fn expectation(self) -> &'static str {
        "true or false"
    }
}

impl Expectation for std::convert::Infallible {
    fn expectation(self) -> &'static str {
        match self {}
    }
}

/// Reads a value from text, a number or a boolean, through its `FromStr`.
pub fn parsed<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr,
    T::Err: Expectation,
{
    struct Parsed<T>(PhantomData<T>);

    impl<T> Visitor<'_> for Parsed<T>
    where
        T: FromStr,
        T::Err: Expectation,
    {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a single value")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
            text.parse().map_err(|error: T::Err| E::custom(format_args!("expected {}", error.expectation())))
        }

        fn visit_u64<E: de::Error>(self, n: u64) -> Result<T, E> {
            self.visit_str(&n.to_string())
        }

        fn visit_i64<E: de::Error>(self, n: i64) -> Result<T, E> {
            self.visit_str(&n.to_string())
        }

        fn visit_f64<E: de::Error>(self, n: f64) -> Result<T, E> {
            self.visit_str(&n.to_string())
        }

        fn visit_bool<E: de::Error>(self, flag: bool) -> Result<T, E> {
            self.visit_str(&flag.to_string())
        }
    }

    deserializer.deserialize_any(Parsed(PhantomData))
}

/// Reads a list of texts, or one text with commas.
pub fn list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    struct List;

    impl<'de> Visitor<'de> for List {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list, or one text with commas")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
            Ok(text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect())
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
            let mut parts = Vec::new();
            while let Some(part) = seq.next_element::<String>()? {
                parts.push(part);
            }
            Ok(parts)
        }
    }

    deserializer.deserialize_any(List)
}

/// A text that is never printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn reveal(&self) -> &str {
        &self.0
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromStr for Secret {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "" } else { "[redacted]" })
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

serde_as_text!(Secret);

/// The path of a file with credentials. Should the credentials themselves stand here, they are never printed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SecretPath(Secret);

impl SecretPath {
    pub fn reveal(&self) -> &str {
        self.0.reveal()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromStr for SecretPath {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

impl fmt::Display for SecretPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.reveal();
        let is_seed = text.len() >= 58 && text.starts_with('S') && text.bytes().all(|b| b.is_ascii_alphanumeric());
        if is_seed || text.contains("-----") || text.contains('\n') { self.0.fmt(f) } else { f.write_str(text) }
    }
}

serde_as_text!(SecretPath);

/// The path of a file that holds a secret and nothing else. Should the secret itself stand here, it looks like a path as little as
/// any other word: so only what begins as a path does is shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SecretFile(SecretPath);

impl SecretFile {
    pub fn reveal(&self) -> &str {
        self.0.reveal()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromStr for SecretFile {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

impl fmt::Display for SecretFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let begins_as_a_path = ["/", "./", "../"].iter().any(|start| self.reveal().starts_with(start));
        if begins_as_a_path { self.0.fmt(f) } else { self.0.0.fmt(f) }
    }
}

serde_as_text!(SecretFile);

/// A server's URL as it may be shown: without the user, password or token in it.
pub fn redact_url(url: &str) -> String {
    // By hand rather than through a URL parser: what does not parse may hold a password too.
    let (scheme, rest) = url.split_once("://").map_or(("", url), |(scheme, rest)| (scheme, rest));
    let separator = if scheme.is_empty() { "" } else { "://" };
    match rest.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}{separator}[redacted]@{host}"),
        None => url.to_owned(),
    }
}

/// Shows a list of URLs redacted wherever it is written out.
pub fn redacted_urls<S: Serializer>(urls: &[String], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(urls.iter().map(|url| redact_url(url)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_back_as_they_are_written() {
        for bytes in [0, 1, 1000, 1024, 1536, 512 << 10, 64 << 20, (1 << 30) + 1] {
            assert_eq!(Size(bytes).to_string().parse(), Ok(Size(bytes)));
        }
        assert_eq!(Size(512 << 10).to_string(), "512KiB");
        assert!("many".parse::<Size>().is_err());
    }

    #[test]
    fn durations_read_back_as_they_are_written() {
        for text in ["250ms", "5s", "24h", "40s"] {
            let span: Span = text.parse().unwrap();
            assert_eq!(span.to_string().parse(), Ok(span));
        }
    }

    #[test]
    fn a_seed_in_place_of_a_path_is_never_shown() {
        let shown = |text: &str| text.parse::<SecretPath>().unwrap().to_string();
        assert_eq!(shown("/run/secrets/user.nk"), "/run/secrets/user.nk");
        assert_eq!(shown(&format!("SU{}", "A".repeat(56))), "[redacted]");
        assert_eq!(shown("-----BEGIN USER NKEY SEED-----"), "[redacted]");
    }

    #[test]
    fn a_password_in_place_of_its_file_is_never_shown() {
        let shown = |text: &str| text.parse::<SecretFile>().unwrap().to_string();
        for path in ["/run/secrets/nats", "./nats", "../nats", ""] {
            assert_eq!(shown(path), path);
        }
        for other in ["s3cret", "s3/cret", ".s3cret", "data/nats"] {
            assert_eq!(shown(other), "[redacted]", "{other}");
        }
    }

    #[test]
    fn credentials_in_a_url_are_never_shown() {
        assert_eq!(redact_url("nats://me:s3cret@host:4222"), "nats://[redacted]@host:4222");
        assert_eq!(redact_url("t0ken@host"), "[redacted]@host");
        assert_eq!(redact_url("nats://me:p@ss@host"), "nats://[redacted]@host");
        assert_eq!(redact_url("nats://host:4222"), "nats://host:4222");
    }
}
