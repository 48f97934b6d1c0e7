//! The fields of methods and content headers: walked through, and made readable in place. Pure.

use crate::amqp::properties::COUNT_HEADERS;

/// What stands for each byte that is not UTF-8: Unicode's SUBSTITUTE, a control character of one byte. No id and no name of a
/// queue may have one.
pub(super) const SUBSTITUTE: u8 = 0x1A;
/// Tables and arrays deeper than this are read as text: those are bytes, and their contents are no longer looked at.
pub(super) const DEPTH_MAX: usize = 8;
/// How many values a message's headers may have, also in tables and arrays. What is more is read as text: of a value of one byte
/// the library makes one of 32.
pub(super) const VALUES_MAX: usize = 256;
/// Of a content header, before its properties: class, weight, size of the body.
const CONTENT_HEAD_BYTES: usize = 12;
/// What AMQP has every frame be allowed to have.
const FRAME_MAX_LEAST: usize = 4_096;

#[derive(Clone, Copy)]
pub(super) enum Field {
    Short,
    Table,
    /// So many bytes of anything else.
    Other(usize),
}

pub(super) use Field::{Other, Short, Table};

/// The methods in which the broker repeats a sender's words, by class and method. (It cuts a long explanation off anywhere.)
const METHODS: [([u8; 4], &[Field]); 5] = [
    // connection.close and channel.close: code, text.
    ([0, 10, 0, 50], &[Other(2), Short]),
    ([0, 20, 0, 40], &[Other(2), Short]),
    // basic.return: code, text, exchange, routing key.
    ([0, 60, 0, 50], &[Other(2), Short, Short, Short]),
    // basic.deliver: consumer tag, delivery tag and flag, exchange, routing key.
    ([0, 60, 0, 60], &[Short, Other(9), Short, Short]),
    // basic.get-ok: delivery tag and flag, exchange, routing key.
    ([0, 60, 0, 71], &[Other(9), Short, Short]),
];

/// A message's properties, in the order of their flags: content type and encoding, headers, delivery mode, priority, correlation
/// id, reply to, expiration, message id, timestamp, type, user, application, cluster.
pub(super) const PROPERTIES: [Field; 14] =
    [Short, Short, Table, Other(1), Other(1), Short, Short, Short, Short, Other(8), Short, Short, Short, Short];

/// Of a method in which the broker repeats a sender's words.
pub(super) fn mend_method(payload: &mut [u8]) -> Option<()> {
    let (method, arguments) = payload.split_first_chunk_mut::<4>()?;
    let (_, fields) = METHODS.iter().find(|(known, _)| known == method)?;
    let mut cursor = Cursor { bytes: arguments, at: 0 };
    fields.iter().try_for_each(|field| cursor.mend(*field))
}

/// The largest frame, where this is connection.tune: the most channels, the largest frame (0: any), the heartbeat.
pub(super) fn frame_max_of(payload: &[u8]) -> Option<usize> {
    let frame_max = payload.strip_prefix(&[0, 10, 0, 30])?.get(2..)?.first_chunk::<4>()?;
    usize::try_from(u32::from_be_bytes(*frame_max)).ok().filter(|max| *max >= FRAME_MAX_LEAST)
}

/// Empties the headers of a content header, but for some bytes: what becomes free is a multiple of `multiple`, and stands behind
/// the rest, whose length is returned. Where no headers are found, all properties go.
pub(super) fn drop_headers(payload: &mut [u8], multiple: usize) -> usize {
    let bytes = payload.len();
    empty_table(payload, multiple).unwrap_or_else(|| {
        payload[CONTENT_HEAD_BYTES..][..2].fill(0);
        let behind = bytes - CONTENT_HEAD_BYTES - 2;
        bytes - (behind - behind % multiple)
    })
}

fn empty_table(payload: &mut [u8], multiple: usize) -> Option<usize> {
    let bytes = payload.len();
    let mut cursor = Cursor { bytes: payload, at: CONTENT_HEAD_BYTES };
    let flags = cursor.number(2)?;
    let is_there = |place: usize| flags & (1 << (15 - place)) != 0;
    let place = PROPERTIES.iter().position(|field| matches!(field, Table)).filter(|place| is_there(*place))?;
    for _ in (0..place).filter(|before| is_there(*before)) {
        cursor.mend_short()?;
    }
    let (table, end) = (cursor.at, cursor.end()?);
    let begin = table + 4;
    // No entry has one byte.
    let kept = match (end - begin) % multiple {
        1 => 1 + multiple,
        rest => rest,
    };
    let free = (end - begin).checked_sub(kept)?;
    cursor.make_text(begin, begin + kept)?;
    payload[table..begin].copy_from_slice(&u32::try_from(kept).ok()?.to_be_bytes());
    payload.copy_within(end.., end - free);
    Some(bytes - free)
}

/// Properties that cannot be walked through to their end are cleared: the library would read them by recursion.
pub(super) fn mend_content_header(payload: &mut [u8]) -> Option<()> {
    let mut cursor = Cursor { bytes: payload, at: CONTENT_HEAD_BYTES };
    let flags = cursor.number(2)?;
    let is_there = |(place, _): &(usize, &Field)| flags & (1 << (15 - place)) != 0;
    let mended = PROPERTIES.iter().enumerate().filter(is_there).try_for_each(|(_, field)| cursor.mend(*field));
    if mended.is_none() {
        payload[CONTENT_HEAD_BYTES..][..2].fill(0);
    }
    mended
}

/// Goes through fields, one behind the other. `None`: they end too early, or are none.
struct Cursor<'a> {
    bytes: &'a mut [u8],
    at: usize,
}

impl Cursor<'_> {
    fn mend(&mut self, field: Field) -> Option<()> {
        match field {
            Short => self.mend_short(),
            Table => {
                let end = self.end()?;
                let begin = self.at;
                if self.mend_table(end).is_none() {
                    self.make_text(begin, end)?;
                }
                self.at = end;
                Some(())
            }
            Other(bytes) => self.pass(bytes),
        }
    }

    fn mend_short(&mut self) -> Option<()> {
        let (size, begin) = (self.number(1)?, self.at);
        self.pass(size)?;
        mend_text(&mut self.bytes[begin..self.at]);
        Some(())
    }

    /// The names in a table, and in all that is in it.
    fn mend_table(&mut self, end: usize) -> Option<()> {
        let (mut values, mut seen) = (0, [false; COUNT_HEADERS.len()]);
        // Where what is too much begins, while it goes on.
        let mut rest = None;
        while self.at < end {
            let entry = self.at;
            self.mend_short()?;
            let name = &mut self.bytes[entry + 1..self.at];
            // The broker writes the first of these, and a sender may have written more behind it; the library keeps the last.
            let place = COUNT_HEADERS.iter().position(|known| known.as_bytes() == name);
            let is_first = place.is_some_and(|place| !std::mem::replace(&mut seen[place], true));
            if place.is_some() && !is_first {
                name[0] = SUBSTITUTE;
            }
            self.mend_value(&mut values)?;
            if is_first || values <= VALUES_MAX {
                self.make_text(rest.take().unwrap_or(entry), entry)?;
            } else {
                rest.get_or_insert(entry);
            }
        }
        self.make_text(rest.unwrap_or(end), end)?;
        (self.at == end).then_some(())
    }

    /// A value, and all that is in it. Where that is too much, it becomes one text.
    fn mend_value(&mut self, values: &mut usize) -> Option<()> {
        let (begin, values_before) = (self.at, *values);
        // Of each table or array that we are in: where it ends, and whether its values have names. The first is the message's.
        let mut open = [(0, false); DEPTH_MAX];
        let mut depth = 0;
        loop {
            *values += 1;
            if depth > 0 && *values > VALUES_MAX {
                (self.bytes[begin], self.at, *values) = (b'S', begin + 1, values_before + 1);
                self.at = self.end()?;
                return Some(());
            }
            let place = self.at;
            match u8::try_from(self.number(1)?).ok()? {
                b'V' => Some(()),
                b't' | b'b' | b'B' => self.pass(1),
                b's' | b'U' | b'u' => self.pass(2),
                b'I' | b'i' | b'f' => self.pass(4),
                b'D' => self.pass(5),
                b'L' | b'l' | b'd' | b'T' => self.pass(8),
                kind @ (b'F' | b'A') if depth + 1 < DEPTH_MAX => {
                    depth += 1;
                    open[depth] = (self.end()?, kind == b'F');
                    Some(())
                }
                kind @ (b'S' | b'x' | b'F' | b'A') => {
                    // Text has its size before it just as tables and arrays have.
                    self.bytes[place] = if kind == b'x' { kind } else { b'S' };
                    let size = self.number(4)?;
                    self.pass(size)
                }
                _ => None,
            }?;
            while depth > 0 && self.at >= open[depth].0 {
                // Something in it was longer than all of it.
                (self.at == open[depth].0).then_some(())?;
                depth -= 1;
            }
            if depth == 0 {
                return Some(());
            }
            if open[depth].1 {
                self.mend_short()?;
            }
        }
    }

    /// Makes one entry of these bytes of a table, whose name is no name. `None`: no entry is so short.
    fn make_text(&mut self, begin: usize, end: usize) -> Option<()> {
        let entry = &mut self.bytes[begin..end];
        match entry {
            [] => (),
            [_] => return None,
            [name_bytes, name @ .., kind] if name.len() < 5 => {
                (*name_bytes, *kind) = (u8::try_from(name.len()).ok()?, b'V');
                name.fill(SUBSTITUTE);
            }
            [name_bytes, name, kind, size @ ..] => {
                (*name_bytes, *name, *kind) = (1, SUBSTITUTE, b'S');
                let (size, text) = size.split_first_chunk_mut::<4>()?;
                *size = u32::try_from(text.len()).ok()?.to_be_bytes();
            }
            _ => return None,
        }
        Some(())
    }

    /// Where what has its size before it ends.
    fn end(&mut self) -> Option<usize> {
        let size = self.number(4)?;
        self.at.checked_add(size).filter(|end| *end <= self.bytes.len())
    }

    fn number(&mut self, width: usize) -> Option<usize> {
        let begin = self.at;
        self.pass(width)?;
        Some(self.bytes[begin..self.at].iter().fold(0, |number, byte| number << 8 | usize::from(*byte)))
    }

    fn pass(&mut self, count: usize) -> Option<()> {
        self.at = self.at.checked_add(count).filter(|at| *at <= self.bytes.len())?;
        Some(())
    }
}

fn mend_text(text: &mut [u8]) {
    let mut begin = 0;
    while let Err(error) = std::str::from_utf8(&text[begin..]) {
        let bad = begin + error.valid_up_to();
        begin = error.error_len().map_or(text.len(), |bytes| bad + bytes);
        text[bad..begin].fill(SUBSTITUTE);
    }
}
