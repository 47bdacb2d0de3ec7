//! `Packed`: a row of whatever serde can pack.

use crate::application::Row;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt;
use std::ops::{Deref, DerefMut};

/// A row as MessagePack, by the names of its fields: one that is added later needs a default, and one that is gone is passed
/// over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Packed<T>(pub T);

impl<T> Deref for Packed<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for Packed<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<T> Row for Packed<T>
where
    T: Serialize + DeserializeOwned + Clone + fmt::Debug + PartialEq + Send + Sync + 'static,
{
    /// # Panics
    /// If serde can't serialize it: then no value of this kind could be kept.
    fn encode(&self, out: &mut Vec<u8>) {
        rmp_serde::encode::write_named(out, &self.0).expect("a row can be serialized");
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        rmp_serde::from_slice(bytes).ok().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Balance {
        cents: i64,
    }

    /// The same, in a later version.
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Dated {
        cents: i64,
        #[serde(default)]
        since: Option<u64>,
    }

    #[test]
    fn a_packed_row_comes_back_also_to_a_version_that_knows_more_or_less() {
        let mut bytes = Vec::new();
        Packed(Balance { cents: -7 }).encode(&mut bytes);
        assert_eq!(Packed::<Balance>::decode(&bytes), Some(Packed(Balance { cents: -7 })));
        assert_eq!(Packed::<Dated>::decode(&bytes), Some(Packed(Dated { cents: -7, since: None })));
        bytes.clear();
        Packed(Dated { cents: 9, since: Some(3) }).encode(&mut bytes);
        assert_eq!(Packed::<Balance>::decode(&bytes), Some(Packed(Balance { cents: 9 })));
        assert_eq!(Packed::<u64>::decode(&bytes), None);
    }
}
