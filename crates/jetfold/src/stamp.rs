//! `Stamp`: which batch of which producer a message is.
//!
//! A message carries its stamp in one header. Its subject ends with the producer's name, so that the log itself tells the last
//! batch of each producer.

use std::fmt;
use std::str::FromStr;

/// The header that carries a stamp.
pub const STAMP: &str = "Jetfold-Stamp";

/// Who has sent a batch, and as which of its batches to one partition.
///
/// In a header: `<producer> <life> <number> <offset>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The producer's name: one token of a subject.
    pub producer: String,
    /// Of one process. Rises, by steps that are drawn, with each that takes the name.
    pub life: u64,
    /// Of the batch, among all of this producer in this partition: 1, 2, 3, whatever its life.
    pub number: u64,
    /// How far the producer's own input is sent to this partition with this batch: the offset that the last record of it
    /// was pushed with.
    pub offset: u64,
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} {}", self.producer, self.life, self.number, self.offset)
    }
}

/// A header that is no stamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a stamp is a producer's name and three numbers: life, number from 1, offset")]
pub struct NoStamp;

impl FromStr for Stamp {
    type Err = NoStamp;

    fn from_str(text: &str) -> Result<Self, NoStamp> {
        let mut parts = text.split(' ');
        let mut next = || parts.next().filter(|part| !part.is_empty()).ok_or(NoStamp);
        let producer = next()?.to_owned();
        // Digits alone: a sign is another form of the same number, which others may not read as one.
        let digits = |part: &&str| part.bytes().all(|byte| byte.is_ascii_digit());
        let mut number = || next().ok().filter(digits).and_then(|part| part.parse::<u64>().ok()).ok_or(NoStamp);
        let (life, number, offset) = (number()?, number()?, number()?);
        if number == 0 || producer.len() > MOST_NAME_BYTES || parts.next().is_some() {
            return Err(NoStamp);
        }
        Ok(Self { producer, life, number, offset })
    }
}

/// Bytes of a producer's name, at the most.
pub const MOST_NAME_BYTES: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_what_its_header_says_and_nothing_else_is() {
        let stamp = Stamp { producer: "shop-1".into(), life: 2, number: 7, offset: 41 };
        assert_eq!(stamp.to_string(), "shop-1 2 7 41");
        assert_eq!(stamp.to_string().parse(), Ok(stamp));
        let long = format!("{} 1 1 1", "x".repeat(MOST_NAME_BYTES + 1));
        for text in
            ["", "a", "a 1 1", "a 1 0 1", "a 1 1 1 1", "a  1 1 1", " 1 1 1", "a -1 1 1", "a 1 +1 1", "a 1 1 x", &long]
        {
            assert_eq!(text.parse::<Stamp>(), Err(NoStamp), "{text}");
        }
    }
}
