//! A process whose clock somebody sets.
//!
//! Programs ask for the time of day in a page of code that the kernel gives to each process, on Linux. In the page of one process the question
//! is answered otherwise: by the kernel's own answer and so many nanoseconds. Whatever the process measures by a steady clock goes on as it
//! was, as it does when somebody sets the clock of a machine.

use elf::ElfBytes;
use elf::endian::NativeEndian;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;

/// The end of the page's code, where none is: what answers, and by how much its answer is off.
const ANSWER: u64 = 64;
const OFF_BY: u64 = 8;

pub struct Clock {
    memory: File,
    off_by: u64,
}

impl Clock {
    /// Of a process that runs; `None` where this is not known how to be done.
    pub fn of(pid: u32) -> Option<Self> {
        if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
            eprintln!("left out: clocks are set on Linux on x86-64 only");
            return None;
        }
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
        let (from, to) = maps.lines().find(|line| line.ends_with("[vdso]"))?.split_once(' ')?.0.split_once('-')?;
        let [from, to] = [from, to].map(|address| u64::from_str_radix(address, 16).unwrap());
        let Ok(memory) = OpenOptions::new().read(true).write(true).open(format!("/proc/{pid}/mem")) else {
            eprintln!("left out: nobody may write to another process here");
            return None;
        };
        let mut page = vec![0; usize::try_from(to - from).unwrap()];
        memory.read_exact_at(&mut page, from).unwrap();
        let free = &page[page.len() - usize::try_from(ANSWER).unwrap()..];
        assert!(free.iter().all(|byte| *byte == 0), "there is code where none was expected");
        let asked = from + entry(&page);
        let (answer, off_by) = (to - ANSWER, to - OFF_BY);
        memory.write_all_at(&code(answer, off_by), answer).unwrap();
        let distance = i32::try_from(answer - (asked + 5)).unwrap();
        let jump: Vec<u8> = [0xe9].into_iter().chain(distance.to_le_bytes()).collect();
        memory.write_all_at(&jump, asked).unwrap();
        Some(Self { memory, off_by })
    }

    /// Off by so many seconds from now on, forward or back.
    pub fn is_off_by(&self, seconds: i64) {
        self.memory.write_all_at(&(seconds).to_le_bytes(), self.off_by).unwrap();
    }
}

/// Where the page answers the question for the time.
fn entry(page: &[u8]) -> u64 {
    let page = ElfBytes::<NativeEndian>::minimal_parse(page).unwrap();
    let (symbols, names) = page.dynamic_symbol_table().unwrap().unwrap();
    let found = symbols
        .iter()
        .find(|symbol| names.get(symbol.st_name as usize).is_ok_and(|name| name == "__vdso_clock_gettime"));
    found.unwrap().st_value
}

/// The kernel's answer, with the seconds of the time of day off by what stands at an address.
fn code(at: u64, off_by: u64) -> Vec<u8> {
    const BEFORE: [u8; 14] = [
        0xb8, 0xe4, 0, 0, 0, // mov eax, 228: clock_gettime
        0x0f, 0x05, // syscall
        0x85, 0xff, // test edi, edi: which clock, 0 is the time of day
        0x75, 0x0a, // jne to the end
        0x4c, 0x8b, 0x05, // mov r8, [rip + distance]
    ];
    const AFTER: [u8; 4] = [0x4c, 0x01, 0x06, 0xc3]; // add [rsi], r8; ret
    let next = at + BEFORE.len() as u64 + 4;
    let distance = i32::try_from(off_by - next).unwrap();
    [&BEFORE[..], &distance.to_le_bytes(), &AFTER].concat()
}
