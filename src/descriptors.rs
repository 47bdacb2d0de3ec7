//! Which of the standard descriptors this process was started without.
//!
//! Before `main`, Rust's runtime opens /dev/null in the place of each that is closed, so that no file gets its number. Then
//! nothing tells it from a /dev/null that somebody has put there on purpose. So it is looked at before the runtime does.

use std::sync::atomic::{AtomicBool, Ordering};
use stream_sum::cli::Standard;

static INPUT_CLOSED: AtomicBool = AtomicBool::new(false);
static OUTPUT_CLOSED: AtomicBool = AtomicBool::new(false);

/// Called by the loader among the first, in the one thread that there is.
// SAFETY: these sections hold pointers to functions of this type, which are called without or with arguments that this one
// ignores; and `look` needs nothing that is made ready later.
#[allow(unsafe_code)]
#[used]
#[cfg_attr(not(target_vendor = "apple"), unsafe(link_section = ".init_array"))]
#[cfg_attr(target_vendor = "apple", unsafe(link_section = "__DATA,__mod_init_func"))]
static LOOK: extern "C" fn() = look;

extern "C" fn look() {
    INPUT_CLOSED.store(!is_open(libc::STDIN_FILENO, libc::O_RDONLY), Ordering::Relaxed);
    OUTPUT_CLOSED.store(!is_open(libc::STDOUT_FILENO, libc::O_WRONLY), Ordering::Relaxed);
}

/// Whether a descriptor can be used so. Where it is open the other way round, the standard library makes an empty input of
/// it, and an output that takes everything.
fn is_open(descriptor: libc::c_int, wanted: libc::c_int) -> bool {
    // SAFETY: it takes numbers, and changes nothing. All that it can fail for is a descriptor that is none.
    #[allow(unsafe_code)]
    let flags = unsafe { libc::fcntl(descriptor, libc::F_GETFL) };
    let way = flags & libc::O_ACCMODE;
    flags != -1 && (way == wanted || way == libc::O_RDWR)
}

/// The standard descriptors, as the process was started with them. A closed standard error is no failure: nobody could be
/// told.
pub fn standard() -> Standard {
    Standard {
        input_closed: INPUT_CLOSED.load(Ordering::Relaxed),
        output_closed: OUTPUT_CLOSED.load(Ordering::Relaxed),
    }
}
