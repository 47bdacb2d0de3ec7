//! Batches that no honest client sends, and honest ones between them: without these nothing would be there to be harmed.

use super::dice::Dice;
use super::model::{Id, digits, fnv};
use std::collections::HashMap;
use std::ops::Range;

/// How many batches are remembered, to be sent again and spliced.
const REMEMBERED: usize = 32;

/// Numbers at which something may go over.
const EDGES: [u64; 12] =
    [0, 1, 127, 128, 255, 256, 65_535, 65_536, u32::MAX as u64, 1 << 32, i64::MAX as u64, u64::MAX];

/// Lengths that lie.
const LIES: [u64; 8] = [0, 1, 15, 17, 255, 65_535, 1 << 31, u32::MAX as u64];

/// Places in a chunk where a marker stands: of the array, the ID, the number, and the data.
const MARKERS: [usize; 4] = [0, 1, 19, 20];

pub struct Forge {
    pub dice: Dice,
    ids: Vec<Id>,
    of_one_hash: Vec<[u8; 12]>,
    /// The last chunk that was sent of each.
    sent: HashMap<Id, u64>,
    honest: u64,
    remembered: Vec<Vec<u8>>,
    /// Which marker byte comes next, and where: all of them have their turn at each place.
    turn: usize,
}

impl Forge {
    pub fn new(dice: Dice) -> Self {
        let (ids, of_one_hash, sent, remembered) = (Vec::new(), of_one_hash(), HashMap::new(), vec![Vec::new()]);
        Self { dice, ids, of_one_hash, sent, honest: 0, remembered, turn: 0 }
    }

    /// The next batch.
    pub fn batch(&mut self) -> Vec<u8> {
        let mut batch = Vec::new();
        match self.dice.below(64) {
            0..20 => batch = self.honest(1..5),
            20..26 => batch = self.of_odd_chunks(),
            26..32 => self.flipped(&mut batch),
            32..38 => {
                batch = self.honest(1..4);
                batch.truncate(self.dice.below(batch.len()));
            }
            38..43 => self.spliced(&mut batch),
            43..50 => self.with_a_marker(&mut batch),
            50..54 => self.nested(&mut batch),
            54..58 => {
                let len = self.dice.below(64);
                batch = self.dice.bytes(len);
            }
            58..62 => batch = self.again(),
            62 => {}
            _ if self.dice.one_in(400) => self.tiny(&mut batch),
            _ => batch = self.honest(5..40),
        }
        if batch.len() < 1 << 12 {
            let at = self.dice.below(REMEMBERED);
            match self.remembered.get_mut(at) {
                Some(remembered) => remembered.clone_from(&batch),
                None => self.remembered.push(batch.clone()),
            }
        }
        batch
    }

    fn id(&mut self) -> Id {
        match self.dice.below(8) {
            0 => self.dice.bytes(16).try_into().expect("16 bytes"),
            _ if self.ids.is_empty() => [7; 16],
            _ => self.ids[self.dice.below(self.ids.len())],
        }
    }

    /// Chunks of the shortest form, most of them the next of their streams.
    fn honest(&mut self, many: Range<usize>) -> Vec<u8> {
        // Streams that go on for ever have all ended, or are broken.
        if self.honest.is_multiple_of(128) {
            self.ids = self.colliding_ids();
            self.sent.clear();
        }
        self.honest += 1;
        let mut batch = Vec::new();
        for _ in 0..many.start + self.dice.below(many.end - many.start) {
            let id = self.id();
            let last = self.sent.get(&id).copied().unwrap_or(0);
            let number = match self.dice.below(40) {
                0 => last + 2,
                1 | 3 => last.max(1),
                2 => self.dice.of_these(&EDGES[1..]),
                _ => last + 1,
            };
            let len = match self.dice.below(24) {
                0 => 0,
                1 => self.dice.of_these(&[64, 65, 255, 256, 300]),
                n => n,
            };
            if number == last + 1 && len <= 64 {
                self.sent.insert(id, number);
            }
            chunk(&mut batch, &id, number, len);
        }
        batch
    }

    /// Chunks in forms that are allowed and rare, and in some that are not.
    fn of_odd_chunks(&mut self) -> Vec<u8> {
        let mut batch = self.honest(0..2);
        let id = self.id();
        match self.dice.below(12) {
            0 => batch.extend([0xdc, 0, 3]),
            1 => batch.extend([0xdd, 0, 0, 0, 3]),
            2 => {
                let of = self.dice.of_these(&[0xdc, 0xdd]);
                batch.push(of);
                let lie = self.dice.of_these(&LIES);
                big_endian(&mut batch, lie, if of == 0xdc { 2 } else { 4 });
            }
            3 => batch.push(0x90 + self.dice.byte() % 16),
            _ => batch.push(0x93),
        }
        let len = if self.dice.one_in(8) { self.dice.of_these(&LIES) } else { 16 };
        head(&mut batch, self.dice.of_these(&[0xc4, 0xc4, 0xc4, 0xc5, 0xc6, 0xd9]), len);
        batch.extend(id);
        let number = if self.dice.one_in(2) { 1 } else { self.dice.of_these(&EDGES) };
        match self.dice.below(10) {
            0 => batch.push(self.dice.byte()),
            wide => {
                // Unsigned and signed, each in four widths; what does not fit is cut, and some of it is negative then.
                let marker = [0xcc, 0xcd, 0xce, 0xcf, 0xd0, 0xd1, 0xd2, 0xd3, 0xca][wide - 1];
                batch.push(marker);
                big_endian(&mut batch, number, [1, 2, 4, 8, 1, 2, 4, 8, 4][wide - 1]);
            }
        }
        let data = self.dice.below(20) as u64;
        let announced = if self.dice.one_in(4) { self.dice.of_these(&LIES) } else { data };
        head(&mut batch, self.dice.of_these(&[0xc4, 0xc4, 0xc5, 0xc6, 0xda]), announced);
        batch.resize(batch.len() + data as usize, 7);
        if self.dice.one_in(3) {
            batch.extend(self.honest(0..2));
        }
        batch
    }

    fn flipped(&mut self, batch: &mut Vec<u8>) {
        *batch = self.honest(1..4);
        for _ in 0..=self.dice.below(3) {
            let at = self.dice.below(batch.len());
            batch[at] ^= 1 << self.dice.below(8);
        }
    }

    fn spliced(&mut self, batch: &mut Vec<u8>) {
        let [first, second] = [(); 2].map(|()| self.dice.below(self.remembered.len()));
        let end = self.dice.below(self.remembered[first].len() + 1);
        let start = self.dice.below(self.remembered[second].len() + 1);
        batch.extend(&self.remembered[first][..end]);
        batch.extend(&self.remembered[second][start..]);
    }

    /// Each byte there is, at each place where a marker stands.
    fn with_a_marker(&mut self, batch: &mut Vec<u8>) {
        *batch = self.honest(1..3);
        let at = MARKERS[self.turn % MARKERS.len()];
        batch[at] = (self.turn / MARKERS.len()) as u8;
        self.turn += 1;
    }

    /// Arrays and maps in each other, in the place of a chunk or of what is in it.
    fn nested(&mut self, batch: &mut Vec<u8>) {
        *batch = self.honest(0..2);
        let place = self.dice.below(3);
        batch.extend(&[0x93, 0xc4, 16][..place]);
        let deep = if self.dice.one_in(64) { 20_000 } else { self.dice.below(40) };
        for _ in 0..deep {
            batch.push(self.dice.of_these(&[0x91, 0x93, 0x81, 0x9f]));
        }
        batch.extend([0xdd, 0xff, 0xff, 0xff, 0xff]);
        batch.extend(self.honest(0..2));
    }

    /// What was sent before, once or twice.
    fn again(&mut self) -> Vec<u8> {
        let at = self.dice.below(self.remembered.len());
        self.remembered[at].repeat(1 + self.dice.below(2))
    }

    /// As many chunks as a message may hold, of one byte each, of one stream or of many.
    fn tiny(&mut self, batch: &mut Vec<u8>) {
        let many = 1_000 + self.dice.below(8_000) as u64;
        let (mut id, is_one) = (self.id(), self.dice.one_in(2));
        for n in 1..=many {
            if !is_one {
                id[8..].copy_from_slice(&n.to_be_bytes());
            }
            chunk(batch, &id, if is_one { n } else { 1 }, 1);
        }
    }

    /// IDs that have as much in common as they can: the first four bytes, the first eight, all but the last, the partition's hash.
    fn colliding_ids(&mut self) -> Vec<Id> {
        let first: Id = self.dice.bytes(16).try_into().expect("16 bytes");
        let mut ids = vec![[0; 16], [0xff; 16], first];
        for n in 1..5 {
            for same in [4, 8, 15] {
                let mut id = first;
                id[same..].copy_from_slice(&self.dice.bytes(16 - same));
                ids.push(id);
            }
            let mut next = first;
            next[15] = first[15].wrapping_add(n);
            ids.push(next);
        }
        // What follows is the same in all of them, and so is their hash.
        let end = self.dice.bytes(4);
        ids.extend(self.of_one_hash.iter().map(|id| Id::try_from([&id[..], &end].concat()).expect("16 bytes")));
        ids
    }
}

/// Eight beginnings of IDs that FNV-1a makes the same of: in each of three blocks two ways lead to one state, and so 2^3 through all of
/// them.
pub fn of_one_hash() -> Vec<[u8; 12]> {
    let mut state = 0x811c_9dc5;
    let mut ids: Vec<Vec<u8>> = vec![Vec::new()];
    for _ in 0..3 {
        let mut seen: HashMap<u32, [u8; 4]> = HashMap::new();
        let found = (0u32..).find_map(|n| {
            let block = n.wrapping_mul(0x9e37_79b9).to_be_bytes();
            let after = digits(&block).into_iter().fold(state, fnv);
            seen.insert(after, block).map(|other| (after, [other, block]))
        });
        let (after, blocks) = found.expect("two of 2^32 blocks meet");
        state = after;
        ids = ids.iter().flat_map(|id| blocks.map(|block| [&id[..], &block].concat())).collect();
    }
    ids.into_iter().map(|id| id.try_into().expect("three blocks of four bytes")).collect()
}

/// Appends a chunk in the shortest form.
pub fn chunk(batch: &mut Vec<u8>, id: &Id, number: u64, len: usize) {
    batch.extend([0x93, 0xc4, 16]);
    batch.extend(id);
    match number {
        0..128 => batch.push(number as u8),
        128..256 => head(batch, 0xcc, number),
        256..65_536 => {
            batch.push(0xcd);
            big_endian(batch, number, 2);
        }
        _ => {
            batch.push(0xcf);
            big_endian(batch, number, 8);
        }
    }
    head(batch, if len < 256 { 0xc4 } else { 0xc5 }, len as u64);
    batch.resize(batch.len() + len, number as u8);
}

/// A marker and the length behind it, in as many bytes as the marker says.
fn head(batch: &mut Vec<u8>, marker: u8, len: u64) {
    batch.push(marker);
    big_endian(
        batch,
        len,
        match marker {
            0xc5 | 0xda => 2,
            0xc6 => 4,
            _ => 1,
        },
    );
}

/// The last bytes of a number.
fn big_endian(batch: &mut Vec<u8>, number: u64, width: usize) {
    batch.extend(&number.to_be_bytes()[8 - width..]);
}
