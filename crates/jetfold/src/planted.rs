//! Bugs that are planted on purpose, to see which test finds each.
//!
//! With the feature `planted`, which is for tests only, `JETFOLD_PLANTED` names the one that is there; without it, there is none, and
//! nothing of this is left in the program. `just planted` runs the tests against one after the other.

/// Whether this bug is there.
#[doc(hidden)]
#[macro_export]
macro_rules! planted {
    ($bug:literal) => {
        $crate::planted::is($bug)
    };
}

#[cfg(not(feature = "planted"))]
#[must_use]
#[inline(always)]
pub const fn is(_: &str) -> bool {
    false
}

#[cfg(feature = "planted")]
#[must_use]
pub fn is(bug: &str) -> bool {
    use std::sync::LazyLock;
    static PLANTED: LazyLock<Option<String>> = LazyLock::new(|| std::env::var("JETFOLD_PLANTED").ok());
    PLANTED.as_deref() == Some(bug)
}
