//! A configuration from the environment.

use crate::system::Config;
use serde::de::DeserializeOwned;
use serde::de::value::{Error, MapDeserializer};
use std::ffi::OsString;

/// What the name of every variable begins with.
const PREFIX: &str = "JETFOLD_";

/// What every NATS client looks at.
const NATS_URL: &str = "NATS_URL";

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error(
        "the variable {variable} names no section: known are JETFOLD_NATS__, JETFOLD_TOPOLOGY__ and JETFOLD_WORKER__, each with a key behind it"
    )]
    UnknownSection { variable: String },
    #[error("the variable {variable} can't be used: {cause}")]
    BadValue { variable: String, cause: String },
}

/// The configuration that these variables make.
pub fn read(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Config, ConfigError> {
    let (mut nats, mut topology, mut worker) = (Vec::new(), Vec::new(), Vec::new());
    let mut servers = None;
    for (name, value) in variables {
        let Ok(variable) = name.into_string() else { continue };
        let is_of_every_client = variable == NATS_URL;
        if !is_of_every_client && !variable.starts_with(PREFIX) || variable == crate::crash_point::VARIABLE {
            continue;
        }
        let Ok(value) = value.into_string() else {
            return Err(ConfigError::BadValue { variable, cause: "it is not UTF-8".to_owned() });
        };
        if is_of_every_client {
            servers = Some(value);
            continue;
        }
        let (section, key) = match variable[PREFIX.len()..].split_once("__") {
            Some(("NATS", key)) => (&mut nats, key),
            Some(("TOPOLOGY", key)) => (&mut topology, key),
            Some(("WORKER", key)) => (&mut worker, key),
            _ => return Err(ConfigError::UnknownSection { variable }),
        };
        section.push((key.to_lowercase(), value, variable.clone()));
    }
    if let Some(servers) = servers.filter(|_| !nats.iter().any(|(key, ..)| key == "servers")) {
        nats.push(("servers".to_owned(), servers, NATS_URL.to_owned()));
    }
    let stated = topology.iter().map(|(key, ..)| key.clone()).collect();
    let mut config = Config { nats: section(nats)?, topology: section(topology)?, worker: section(worker)? };
    config.topology.stated = stated;
    Ok(config)
}

/// A key, its value, and the variable that they are from.
type Setting = (String, String, String);

fn section<T: DeserializeOwned>(settings: Vec<Setting>) -> Result<T, ConfigError> {
    // One by one first: an error does not say which it is of.
    for (key, value, variable) in &settings {
        let alone = MapDeserializer::<_, Error>::new([(key.as_str(), value.as_str())].into_iter());
        let bad = |error: Error| ConfigError::BadValue { variable: variable.clone(), cause: error.to_string() };
        T::deserialize(alone).map_err(bad)?;
    }
    let all = settings.iter().map(|(key, value, _)| (key.as_str(), value.as_str()));
    Ok(T::deserialize(MapDeserializer::<_, Error>::new(all)).expect("each was read before"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn of(variables: &[(&str, &str)]) -> Result<Config, String> {
        let variables = variables.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        read(variables).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_set_counts_and_the_rest_has_defaults() {
        let config = of(&[
            ("PATH", "/bin"),
            ("NATS_URL", "nats://a:1"),
            ("JETFOLD_TOPOLOGY__PARTITIONS", "3"),
            ("JETFOLD_WORKER__DATA_DIR", "/tmp/x"),
            ("JETFOLD_WORKER__CHECKPOINT_INTERVAL", "1s"),
        ])
        .unwrap();
        assert_eq!(config.nats.servers, ["nats://a:1"]);
        assert_eq!((config.topology.partitions, config.topology.replicas), (3, 1));
        assert_eq!(config.topology.stated.iter().collect::<Vec<_>>(), ["partitions"]);
        assert_eq!(config.worker.data_dir, Path::new("/tmp/x"));
        let named = of(&[("NATS_URL", "nats://a:1"), ("JETFOLD_NATS__SERVERS", "nats://b:1,nats://c:1")]).unwrap();
        assert_eq!(named.nats.servers, ["nats://b:1", "nats://c:1"]);
    }

    #[test]
    fn what_can_not_be_used_is_named_and_a_secret_is_not_quoted() {
        for (name, value, said) in [
            ("JETFOLD_PARTITIONS", "3", "names no section"),
            ("JETFOLD_TOPOLOGY__PARTITION", "3", "JETFOLD_TOPOLOGY__PARTITION can't be used: unknown field"),
            (
                "JETFOLD_TOPOLOGY__PARTITIONS",
                "many",
                "JETFOLD_TOPOLOGY__PARTITIONS can't be used: expected a whole number",
            ),
            ("JETFOLD_NATS__REQUEST_TIMEOUT", "s3cret", "JETFOLD_NATS__REQUEST_TIMEOUT can't be used: expected"),
        ] {
            let error = of(&[(name, value)]).unwrap_err();
            assert!(error.contains(said) && !error.contains("s3cret"), "{error}");
        }
    }
}
