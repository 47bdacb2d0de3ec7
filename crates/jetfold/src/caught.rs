//! Panics of a library that are caught where it was called, and say nothing on standard error.
//!
//! A panic that is caught so has a cause that its caller knows and names: bytes on a disk that are not what they were. All
//! others go on as they do. It takes panics that unwind, and puts a hook before the one that the process has.

use std::any::Any;
use std::cell::Cell;
use std::ops::{Deref, DerefMut};
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::sync::Once;

thread_local! {
    /// Calls of [`caught`] that this thread is in.
    static WITHIN: Cell<u32> = const { Cell::new(0) };
    /// What the last panic within one has said.
    static SAID: Cell<Option<String>> = const { Cell::new(None) };
}

/// What `call` returns; if it panics, what the panic says, and nobody else hears it.
///
/// Whatever `call` was changing is in doubt after a panic.
pub fn caught<T>(call: impl FnOnce() -> T) -> Result<T, String> {
    listen();
    WITHIN.set(WITHIN.get() + 1);
    let result = panic::catch_unwind(AssertUnwindSafe(call));
    WITHIN.set(WITHIN.get() - 1);
    result.map_err(|payload| SAID.take().unwrap_or_else(|| words(&*payload)))
}

/// Puts a hook before the one of the process, once, that takes in the panics that are caught here.
fn listen() {
    static LISTENING: Once = Once::new();
    // A thread that panics may not change the hook: its panics are caught all the same.
    if LISTENING.is_completed() || std::thread::panicking() {
        return;
    }
    LISTENING.call_once(|| {
        let others = panic::take_hook();
        panic::set_hook(Box::new(move |info: &PanicHookInfo<'_>| {
            if WITHIN.get() == 0 {
                return others(info);
            }
            let place = info.location().map_or_else(String::new, |place| format!(" (in {place})"));
            SAID.set(Some(words(info.payload()) + &place));
        }));
    });
}

fn words(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    // One line, whatever an assertion prints.
    text.unwrap_or("a panic without words").split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Something whose end may panic: that is caught, and nobody has to know, for it is not needed any more.
pub struct Quiet<T>(Option<T>);

impl<T> Quiet<T> {
    pub fn new(inner: T) -> Self {
        Self(Some(inner))
    }

    pub fn into_inner(mut self) -> T {
        self.0.take().expect("there until it is taken or dropped")
    }
}

impl<T> Deref for Quiet<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_ref().expect("there until it is taken or dropped")
    }
}

impl<T> DerefMut for Quiet<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.as_mut().expect("there until it is taken or dropped")
    }
}

impl<T> Drop for Quiet<T> {
    fn drop(&mut self) {
        if let Some(inner) = self.0.take() {
            caught(|| drop(inner)).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_caught_with_its_words_and_place_and_others_are_not() {
        assert_eq!(caught(|| 7), Ok(7));
        let said = caught(|| -> u8 { panic!("page {}\n is none", 9) }).unwrap_err();
        assert!(said.starts_with("page 9 is none (in crates/jetfold/src/caught.rs:"), "{said}");
        let nested = caught(|| caught(|| assert_eq!(1, 2)).is_err());
        assert_eq!(nested, Ok(true));
        let beyond = panic::catch_unwind(|| caught(|| ()).map(|()| panic::resume_unwind(Box::new("a bug"))));
        assert!(beyond.is_err());
    }

    struct Bad;

    impl Drop for Bad {
        fn drop(&mut self) {
            panic!("at its end");
        }
    }

    #[test]
    fn what_panics_at_its_end_ends_quietly_even_while_another_panic_passes() {
        drop(Quiet::new(Bad));
        let passed = caught(|| {
            let _bad = Quiet::new(Bad);
            panic!("first");
        });
        assert!(passed.is_err());
    }
}
