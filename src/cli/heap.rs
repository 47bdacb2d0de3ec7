//! The allocator, told what this program does with memory.

/// Arenas that threads share, at the most. Beyond the processors they are no faster, and every arena keeps what its
/// threads once needed: with a new one for each thread that commits, memory creeps up for hours.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const MOST_ARENAS: usize = 8;

/// Free bytes at the end of an arena that are not given back to the system. A batch comes and goes every millisecond, and
/// each would be mapped anew: a tenth of a summer's time.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEPT_BYTES: i32 = 8 << 20;

/// What is larger is mapped by itself, and given back as soon as it is free: tables of rows, not batches.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const MAPPED_BYTES: i32 = 3 << 20;

/// To be called once, before there are threads. Does nothing where the allocator is not glibc's.
pub fn tune() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let arenas = i32::try_from(processors.clamp(2, MOST_ARENAS)).unwrap_or(2);
        for (parameter, value) in
            [(libc::M_ARENA_MAX, arenas), (libc::M_TRIM_THRESHOLD, KEPT_BYTES), (libc::M_MMAP_THRESHOLD, MAPPED_BYTES)]
        {
            // SAFETY: it takes two numbers, and no other thread runs that could allocate meanwhile. One that it does not
            // know it ignores.
            #[allow(unsafe_code)]
            unsafe {
                libc::mallopt(parameter, value);
            }
        }
    }
}
