//! A process whose clock somebody sets.
//!
//! Programs ask for the time of day in a page of code that the kernel gives to each process, on Linux. In the page of one process the question
//! is answered otherwise: by the kernel's own answer and so many seconds. Whatever the process measures by a steady clock goes on as it
//! was, as it does when somebody sets the clock of a machine.

use elf::ElfBytes;
use elf::endian::NativeEndian;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;

/// The end of the page's code, where none is: what answers, and by how much its answer is off.
const ANSWER: u64 = 64;
const OFF_BY: u64 = 8;

pub struct Clock {
    memory: File,
    off_by: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum ClockError {
    #[error("the clock of one process can be set on Linux on x86-64 only")]
    NotHere,
    #[error("nobody may write to another process here ({0})")]
    NotAllowed(io::Error),
    #[error("the page in which this process asks for the time is not as expected: {0}")]
    OtherPage(&'static str),
}

impl Clock {
    /// Of a process that runs, and whose clock is right until it is set. A second one of a process answers as the first.
    pub fn of(pid: u32) -> Result<Self, ClockError> {
        if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
            return Err(ClockError::NotHere);
        }
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).map_err(ClockError::NotAllowed)?;
        let (from, to) = page_of(&maps).ok_or(ClockError::OtherPage("it has none"))?;
        let memory = OpenOptions::new().read(true).write(true).open(format!("/proc/{pid}/mem"));
        let memory = memory.map_err(ClockError::NotAllowed)?;
        let mut page = vec![0; usize::try_from(to - from).map_err(|_| ClockError::OtherPage("it is too large"))?];
        memory.read_exact_at(&mut page, from).map_err(ClockError::NotAllowed)?;
        let asked = from + entry(&page).ok_or(ClockError::OtherPage("it has no clock_gettime"))?;
        let (answer, off_by) = (to - ANSWER, to - OFF_BY);
        let code = code(answer, off_by).ok_or(ClockError::OtherPage("it is too large"))?;
        let end = page.len() - usize::try_from(ANSWER).expect("a small number");
        if page[end..].starts_with(&code) {
            return Ok(Self { memory, off_by });
        }
        if page[end..].iter().any(|byte| *byte != 0) {
            return Err(ClockError::OtherPage("there is code where none was expected"));
        }
        memory.write_all_at(&code, answer).map_err(ClockError::NotAllowed)?;
        let distance = i32::try_from(answer - (asked + 5)).map_err(|_| ClockError::OtherPage("it is too large"))?;
        let jump: Vec<u8> = [0xe9].into_iter().chain(distance.to_le_bytes()).collect();
        memory.write_all_at(&jump, asked).map_err(ClockError::NotAllowed)?;
        Ok(Self { memory, off_by })
    }

    /// Off by so many seconds from now on, forward or back.
    pub fn is_off_by(&self, seconds: i64) -> io::Result<()> {
        self.memory.write_all_at(&seconds.to_le_bytes(), self.off_by)
    }
}

/// From where to where the page is.
fn page_of(maps: &str) -> Option<(u64, u64)> {
    let (from, to) = maps.lines().find(|line| line.ends_with("[vdso]"))?.split_once(' ')?.0.split_once('-')?;
    Some((u64::from_str_radix(from, 16).ok()?, u64::from_str_radix(to, 16).ok()?))
}

/// Where the page answers the question for the time.
fn entry(page: &[u8]) -> Option<u64> {
    let page = ElfBytes::<NativeEndian>::minimal_parse(page).ok()?;
    let (symbols, names) = page.dynamic_symbol_table().ok()??;
    let is_it = |symbol: &elf::symbol::Symbol| {
        names.get(symbol.st_name as usize).is_ok_and(|name| name == "__vdso_clock_gettime")
    };
    symbols.iter().find(is_it).map(|symbol| symbol.st_value)
}

/// The kernel's answer, with the seconds of the time of day off by what stands at an address.
fn code(at: u64, off_by: u64) -> Option<Vec<u8>> {
    const BEFORE: [u8; 14] = [
        0xb8, 0xe4, 0, 0, 0, // mov eax, 228: clock_gettime
        0x0f, 0x05, // syscall
        0x85, 0xff, // test edi, edi: which clock, 0 is the time of day
        0x75, 0x0a, // jne to the end
        0x4c, 0x8b, 0x05, // mov r8, [rip + distance]
    ];
    const AFTER: [u8; 4] = [0x4c, 0x01, 0x06, 0xc3]; // add [rsi], r8; ret
    let next = at + BEFORE.len() as u64 + 4;
    let distance = i32::try_from(off_by - next).ok()?;
    Some([&BEFORE[..], &distance.to_le_bytes(), &AFTER].concat())
}
