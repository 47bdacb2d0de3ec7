//! A hint to the processor: what will be needed soon.

/// How many cache lines of a value are asked for at the most.
const MOST_LINES: usize = 4;

const LINE_BYTES: usize = 64;

/// Has the processor fetch `value` while it works on something else. Changes nothing but speed: a fold of many live
/// rows waits for memory more than for anything else, and which rows it needs next is known.
pub fn prefetch<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let start = (&raw const *value).cast::<i8>();
        for offset in (0..size_of::<T>()).step_by(LINE_BYTES).take(MOST_LINES) {
            // SAFETY: a prefetch reads nothing and can't fault, and the address lies within a value that is borrowed.
            #[allow(unsafe_code)]
            unsafe {
                _mm_prefetch::<_MM_HINT_T0>(start.add(offset));
            }
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}
