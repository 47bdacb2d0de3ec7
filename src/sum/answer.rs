//! What a summer answers when it is asked for a stream, from what it has committed. The question is the stream's ID, as 32 hex characters; the
//! answer is JSON, so that `nats request summers.ask.3 <ID>` can be read by people.

use crate::sum::Summer;
use crate::sum::row::Row;
use crate::sum::stream_id::StreamId;
use jetfold::{Position, StoreError, View};
use serde::{Deserialize, Serialize};

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answered {
    /// The position through which the log is folded in it.
    pub position: Position,
    #[serde(flatten)]
    pub stream: Found,
}

/// What is known of a stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum Found {
    /// It was never opened, or is forgotten.
    Unknown,
    /// It is under way: the sum of its content through chunk `seq_no`.
    Live { seq_no: u64, sum: String },
    /// A chunk after `seq_no` is missing: it never gets a final.
    Broken { seq_no: u64 },
    /// It has ended with the closing chunk `seq_no`.
    Completed { seq_no: u64, sum: String },
    /// The question is no stream ID.
    Refused,
}

/// Answers from a store at one moment.
pub fn answer(view: &View<Summer>, question: &[u8]) -> Result<Vec<u8>, StoreError> {
    let position = view.checkpoint()?.map_or(0, |checkpoint| checkpoint.position);
    let id = std::str::from_utf8(question).ok().and_then(|id| id.trim().parse::<StreamId>().ok());
    let row = match id {
        Some(id) => view.get(&id)?.map_or(Found::Unknown, Found::from),
        None => Found::Refused,
    };
    Ok(serde_json::to_vec(&Answered { position, stream: row }).expect("an answer has a JSON form"))
}

impl From<Row> for Found {
    fn from(row: Row) -> Self {
        match row {
            Row::Live { sum, .. } => Self::Live { seq_no: sum.seq_no().get(), sum: sum.value().to_string() },
            Row::Broken { seq_no, .. } => Self::Broken { seq_no: seq_no.get() },
            Row::Completed { seq_no, value, .. } => Self::Completed { seq_no: seq_no.get(), sum: value.to_string() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_json_that_comes_back() {
        let sum = "da39a3ee5e6b4b0d3255bfef95601890afd80709".to_owned();
        for (stream, text) in [
            (Found::Unknown, r#"{"position":7,"state":"unknown"}"#),
            (Found::Broken { seq_no: 3 }, r#"{"position":7,"state":"broken","seq_no":3}"#),
            (
                Found::Live { seq_no: 2, sum },
                r#"{"position":7,"state":"live","seq_no":2,"sum":"da39a3ee5e6b4b0d3255bfef95601890afd80709"}"#,
            ),
        ] {
            let answered = Answered { position: 7, stream };
            assert_eq!(serde_json::to_string(&answered).unwrap(), text);
            assert_eq!(serde_json::from_str::<Answered>(text).unwrap(), answered);
        }
    }
}
