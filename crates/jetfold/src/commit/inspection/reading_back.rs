//! `ReadingBack`: every effect that a transaction has in one stream is read back, a window of them at once.

use crate::commit::doubt::{Place, Sign};
use crate::commit::effect::{Kind, ReadBack, Subject};
use crate::commit::inspection::{Evidence, Question, Unsound};

/// Effects that are read back at once.
pub const WINDOW: usize = 256;

#[derive(Debug)]
pub struct ReadingBack<O> {
    kind: Kind,
    /// Why.
    pub sign: Sign,
    /// How many effects have been asked for.
    next: usize,
    unanswered: usize,
    furthest: Option<Place<Subject<O>>>,
}

impl<O: Clone + std::fmt::Debug> ReadingBack<O> {
    pub fn new(kind: Kind, sign: Sign) -> Self {
        Self { kind, sign, next: 0, unanswered: 0, furthest: None }
    }

    /// The next effect to be read back; `None` while the window is full, and if there are no more.
    pub fn next(&mut self, evidence: &Evidence<O>) -> Option<Question<O>> {
        if self.unanswered == WINDOW {
            return None;
        }
        let question = match self.kind {
            Kind::Outputs => evidence.confirmed_outputs.get(self.next).cloned().map(Question::Output),
            Kind::Rejects => evidence.reject_subjects.get(self.next).cloned().map(Question::Reject),
        }?;
        self.next += 1;
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
        question: Question<O>,
        again: bool,
        read_back: ReadBack,
    ) -> Result<Option<Question<O>>, Unsound<O>> {
        let subject = match &question {
            Question::Output(output) => Subject::Output(output.clone()),
            Question::Reject(subject) => Subject::Reject(subject.clone()),
            question => unreachable!("{question:?} reads nothing back"),
        };
        match read_back {
            ReadBack::Nothing if crate::planted!("what-is-missed-is-there") => {}
            ReadBack::Nothing if again => return Err(Unsound::Forgotten { subject, sequence: None }),
            ReadBack::Nothing => return Ok(Some(question)),
            ReadBack::Another if !crate::planted!("another-output-will-do") => return Err(Unsound::Another),
            ReadBack::Another => {}
            ReadBack::Same(sequence) => Place { sequence, key: subject }.further(&mut self.furthest),
        }
        self.unanswered -= 1;
        Ok(None)
    }

    /// The furthest effect that was read.
    pub fn read(&self) -> Option<Place<Subject<O>>> {
        self.furthest.clone()
    }
}
