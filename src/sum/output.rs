//! A final, as the machine puts it out.

use crate::sum::codec;
use crate::sum::names::IdTokens;
use crate::sum::running::Sum;
use jetfold::Output;
use std::fmt::Write;

impl Output for Sum {
    fn subject(&self, subject: &mut String) {
        write!(subject, "{}", IdTokens(self.id)).expect("a string takes all");
    }

    fn encode(&self, payload: &mut Vec<u8>) {
        payload.extend_from_slice(&codec::encode_final(self));
    }

    /// By what it says: the same number may be written in more bytes.
    fn agrees(&self, found: &[u8]) -> bool {
        codec::decode_final(found).is_ok_and(|found| found == *self)
    }

    fn claim(&self) -> String {
        format!("stream {} was summed to {} through chunk {}", self.id, self.value, self.seq_no)
    }

    fn found(found: &[u8]) -> String {
        match codec::decode_final(found) {
            Ok(sum) => format!("{} through chunk {}", sum.value, sum.seq_no),
            Err(error) => format!("something that is no final ({error})"),
        }
    }
}
