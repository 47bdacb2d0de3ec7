//! What a thread asks of the allocator: so that a length which is believed before its bytes are there is seen.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static LARGEST: Cell<usize> = const { Cell::new(0) };
    static HELD: Cell<isize> = const { Cell::new(0) };
}

struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

fn count(asked: usize, freed: usize) {
    // A thread that ends has none of these any more.
    LARGEST.try_with(|largest| largest.set(largest.get().max(asked))).ok();
    HELD.try_with(|held| held.set(held.get() + asked.cast_signed() - freed.cast_signed())).ok();
}

// SAFETY: each call is handed on as it came, and counting allocates nothing.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        count(0, layout.size());
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size, layout.size());
        unsafe { System.realloc(memory, layout, size) }
    }
}

/// Runs something, and says besides how many bytes it has asked for at once at the most.
pub fn largest<T>(run: impl FnOnce() -> T) -> (T, usize) {
    LARGEST.set(0);
    let done = run();
    (done, LARGEST.get())
}

/// Bytes that this thread holds.
pub fn held() -> isize {
    HELD.get()
}
