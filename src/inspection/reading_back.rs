//! `ReadingBack`: every effect that a transaction has in one stream is read back, a window of them at once.

use crate::doubt::{Place, Sign};
use crate::effect::{Kind, ReadBack, Subject};
use crate::inspection::{Evidence, Question, Unsound};
use crate::summer::Summer;
use crate::transaction::Transaction;

/// Effects that are read back at once.
pub const WINDOW: usize = 256;

#[derive(Debug)]
pub struct ReadingBack {
    kind: Kind,
    /// Why.
    pub sign: Sign,
    /// How many rows or subjects are gone through.
    next: usize,
    unanswered: usize,
    furthest: Option<Place<Subject>>,
    /// Finals in whose place there is another.
    others: u64,
}

impl ReadingBack {
    pub fn new(kind: Kind, sign: Sign) -> Self {
        Self { kind, sign, next: 0, unanswered: 0, furthest: None, others: 0 }
    }

    /// Whether the rows of a transaction tell all of its effects in this stream. Rejects are known by their subjects.
    pub fn is_possible(&self, transaction: &Transaction<Summer>) -> bool {
        let Transaction { rows, tally, .. } = transaction;
        let told = || rows.iter().filter(|(id, row)| row.final_sum(*id).is_some()).count();
        self.kind == Kind::Rejects || told() as u64 == tally.own.completed
    }

    /// The next effect to be read back; `None` while the window is full, and if there are no more.
    pub fn next(&mut self, transaction: &Transaction<Summer>, evidence: &Evidence) -> Option<Question> {
        if self.unanswered == WINDOW {
            return None;
        }
        let question = match self.kind {
            Kind::Sums => {
                let mut rows = transaction.rows[self.next..].iter();
                let sum = rows.find_map(|(id, row)| row.final_sum(*id));
                self.next = transaction.rows.len() - rows.len();
                sum.map(Question::Final)
            }
            Kind::Rejects => {
                let subject = evidence.reject_subjects.get(self.next).cloned();
                self.next += usize::from(subject.is_some());
                subject.map(Question::Reject)
            }
        }?;
        self.unanswered += 1;
        Some(question)
    }

    /// Whether everything that was asked is answered. Then what [`ReadingBack::next`] has nothing to add to is read.
    pub fn is_answered(&self) -> bool {
        self.unanswered == 0
    }

    /// Takes in what stands at the subject of an effect. It is handed back if it was missed for the first time.
    pub fn replied(
        &mut self,
        question: Question,
        again: bool,
        read_back: ReadBack,
    ) -> Result<Option<Question>, Unsound> {
        let subject = match &question {
            Question::Final(sum) => Subject::Final(sum.id),
            Question::Reject(subject) => Subject::Reject(subject.clone()),
            question => unreachable!("{question:?} reads nothing back"),
        };
        match read_back {
            ReadBack::Nothing if again => return Err(Unsound::Forgotten { subject, sequence: None }),
            ReadBack::Nothing => return Ok(Some(question)),
            ReadBack::Another => self.others += 1,
            ReadBack::Same(sequence) => {
                self.furthest = self.furthest.take().max(Some(Place { sequence, key: subject }));
            }
        }
        self.unanswered -= 1;
        Ok(None)
    }

    /// The furthest effect that was read. Others in the place of its finals must be those that were let pass.
    pub fn read(&self, evidence: &Evidence) -> Result<Option<Place<Subject>>, Unsound> {
        match self.others > evidence.conflicting {
            true => Err(Unsound::Another),
            false => Ok(self.furthest.clone()),
        }
    }
}
