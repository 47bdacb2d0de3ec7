//! The wire format once more, by the tables of the MessagePack specification alone: a decoder that shares no line with the one under
//! test, so that both take and refuse the same only if both are right.

/// An ID, a number and bytes: what chunks and finals are made of.
pub type Triple<'a> = ([u8; 16], u64, &'a [u8]);

/// What a triple may hold; `Other` is whatever it may not.
enum Value<'a> {
    Natural(u64),
    Bytes(&'a [u8]),
    Other,
}

/// The chunks of a batch; if it is none, the index of the first value that is no chunk.
pub fn chunks(batch: &[u8]) -> Result<Vec<Triple<'_>>, usize> {
    let mut rest = batch;
    let mut chunks = Vec::new();
    while !rest.is_empty() || chunks.is_empty() {
        match triple(&mut rest) {
            Some(chunk) => chunks.push(chunk),
            None => return Err(chunks.len()),
        }
    }
    Ok(chunks)
}

/// What a final says.
pub fn final_of(payload: &[u8]) -> Option<([u8; 16], u64, [u8; 20])> {
    let mut rest = payload;
    let (id, number, digest) = triple(&mut rest)?;
    if rest.is_empty() { Some((id, number, digest.try_into().ok()?)) } else { None }
}

fn triple<'a>(rest: &mut &'a [u8]) -> Option<Triple<'a>> {
    let members = match take(rest, 1)?[0] {
        marker @ 0x90..=0x9f => u64::from(marker & 0x0f),
        0xdc => unsigned(rest, 2)?,
        0xdd => unsigned(rest, 4)?,
        _ => return None,
    };
    if members != 3 {
        return None;
    }
    let Value::Bytes(id) = value(rest)? else { return None };
    let id = id.try_into().ok()?;
    let Value::Natural(number @ 1..) = value(rest)? else { return None };
    let Value::Bytes(bytes) = value(rest)? else { return None };
    Some((id, number, bytes))
}

fn value<'a>(rest: &mut &'a [u8]) -> Option<Value<'a>> {
    let natural = |number: Option<u64>| number.map(Value::Natural);
    // A signed number is a natural one if its first bit is not set.
    let signed = |number: Option<u64>, bits: u32| {
        number.map(|number| if number >> (bits - 1) == 0 { Value::Natural(number) } else { Value::Other })
    };
    let marker = take(rest, 1)?[0];
    match marker {
        0x00..=0x7f => Some(Value::Natural(marker.into())),
        0xcc => natural(unsigned(rest, 1)),
        0xcd => natural(unsigned(rest, 2)),
        0xce => natural(unsigned(rest, 4)),
        0xcf => natural(unsigned(rest, 8)),
        0xd0 => signed(unsigned(rest, 1), 8),
        0xd1 => signed(unsigned(rest, 2), 16),
        0xd2 => signed(unsigned(rest, 4), 32),
        0xd3 => signed(unsigned(rest, 8), 64),
        0xc4 => bytes(rest, 1),
        0xc5 => bytes(rest, 2),
        0xc6 => bytes(rest, 4),
        _ => Some(Value::Other),
    }
}

fn bytes<'a>(rest: &mut &'a [u8], width: usize) -> Option<Value<'a>> {
    let len = unsigned(rest, width)?;
    take(rest, usize::try_from(len).ok()?).map(Value::Bytes)
}

fn unsigned(rest: &mut &[u8], width: usize) -> Option<u64> {
    Some(take(rest, width)?.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

fn take<'a>(rest: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    if rest.len() < len {
        return None;
    }
    let (taken, left) = rest.split_at(len);
    *rest = left;
    Some(taken)
}
