use super::*;
use amq_protocol::frame::{AMQPFrame, parse_frame};
use lapin::types::AMQPValue;
use proptest::{collection::vec, prelude::*, sample::select};
use std::task::Waker;

/// Gives so many bytes at a time.
struct Chunks<'a>(&'a [u8], usize);

impl AsyncRead for Chunks<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, out: &mut [u8]) -> Poll<io::Result<usize>> {
        let (given, left) = self.0.split_at(self.1.min(out.len()).min(self.0.len()));
        out[..given.len()].copy_from_slice(given);
        self.0 = left;
        Poll::Ready(Ok(given.len()))
    }
}

/// What the library gets, which asks for so many bytes at a time.
fn read(bytes: &[u8], chunk: usize, asked: usize) -> Vec<u8> {
    let mut readable = Readable::new(Chunks(bytes, chunk));
    let (mut got, mut out) = (Vec::new(), vec![0; asked]);
    loop {
        let read = Pin::new(&mut readable).poll_read(&mut Context::from_waker(Waker::noop()), &mut out);
        let Poll::Ready(Ok(count)) = read else { panic!("{read:?}") };
        if count == 0 {
            return got;
        }
        got.extend(&out[..count]);
    }
}

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    [&[kind, 0, 1][..], &sized(payload), &[0xCE]].concat()
}

fn sized(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat()
}

fn short(text: &[u8]) -> Vec<u8> {
    [&[u8::try_from(text.len()).unwrap()][..], text].concat()
}

fn deliver(routing_key: &[u8]) -> Vec<u8> {
    let arguments = [short(b"tag"), vec![0; 9], short(b"purchase"), short(routing_key)].concat();
    frame(METHOD_FRAME, &[&[0, 60, 0, 60][..], &arguments].concat())
}

fn content_header(flags: u16, properties: &[u8]) -> Vec<u8> {
    let head = [&[0, 60, 0, 0][..], &[0; 8], &flags.to_be_bytes()].concat();
    frame(HEADER_FRAME, &[head, properties.to_vec()].concat())
}

fn text() -> impl Strategy<Value = Vec<u8>> {
    let good = select(vec!["", "a", "ü€", "x-death"]).prop_map(|text| text.as_bytes().to_vec());
    prop_oneof![3 => good, 1 => vec(any::<u8>(), 0..9)]
}

/// A value of a header, with its type.
fn value() -> impl Strategy<Value = Vec<u8>> {
    let leaf = prop_oneof![
        Just(b"V".to_vec()),
        any::<u8>().prop_map(|byte| vec![b't', byte]),
        any::<u64>().prop_map(|number| [&b"l"[..], &number.to_be_bytes()].concat()),
        text().prop_map(|text| [&b"S"[..], &sized(&text)].concat()),
    ];
    leaf.prop_recursive(6, 40, 4, |inner| {
        let array = vec(inner.clone(), 0..4).prop_map(|values| [&b"A"[..], &sized(&values.concat())].concat());
        let table = table(inner).prop_map(|table| [b"F".to_vec(), table].concat());
        prop_oneof![array, table]
    })
}

fn table(value: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let entry = (text(), value).prop_map(|(name, value)| [short(&name), value].concat());
    vec(entry, 0..4).prop_map(|entries| sized(&entries.concat()))
}

/// A message as the broker delivers it: three frames.
fn message() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let properties = (any::<u16>(), vec(text(), PROPERTIES.len()), table(value()));
    (text(), properties, vec(any::<u8>(), 0..99)).prop_map(|(key, (flags, texts, headers), body)| {
        let flags = flags & !0b11;
        let fields = PROPERTIES.iter().zip(texts).enumerate().filter(|(place, _)| flags & (1 << (15 - place)) != 0);
        let values = fields.flat_map(|(_, (field, text))| match field {
            Short => short(&text),
            Table => headers.clone(),
            Other(bytes) => vec![0; *bytes],
        });
        vec![deliver(&key), content_header(flags, &values.collect::<Vec<_>>()), frame(BODY_FRAME, &body)]
    })
}

proptest! {
    #[test]
    fn whatever_is_delivered_can_be_read_and_what_could_be_is_as_it_was(
        messages in vec(message(), 1..4), chunk in 1_usize..300, asked in 1_usize..300,
    ) {
        let frames = messages.concat();
        let read = read(&frames.concat(), chunk, asked);
        let mut left = &read[..];
        for frame in frames {
            let (mended, rest) = left.split_at(frame.len());
            prop_assert!(parse_frame(mended).is_ok(), "{mended:?}");
            prop_assert!(parse_frame(&frame[..]).is_err() || mended == frame);
            left = rest;
        }
        prop_assert!(left.is_empty());
    }

    #[test]
    fn no_bytes_make_it_panic_or_wait_for_ever(kind in 0_u8..10, bytes in vec(any::<u8>(), 0..300)) {
        for bytes in [frame(kind, &bytes), frame(kind, &[&[0, 60, 0, 60], &bytes[..]].concat()), deliver(b"")] {
            prop_assert_eq!(read(&bytes, 7, 300).len(), bytes.len());
        }
    }
}

#[test]
fn a_byte_that_is_not_utf_8_becomes_a_control_character_and_headers_that_are_too_deep_become_text() {
    let headers = (0..24_000).fold(Vec::new(), |inner, _| [&b"A"[..], &sized(&inner)].concat());
    let table = sized(&[short(b"de\xfe\xffp"), headers].concat());
    let sent = content_header(1 << 13 | 1 << 10, &[table, short(b"a\xffb\xe2\x82")].concat());
    let large = frame(BODY_FRAME, &vec![b'\xff'; 3 * BUFFER_BYTES]);
    let read = read(&[&sent[..], &large].concat(), 50_000, 50_000);
    assert!(read[sent.len()..] == large, "bodies are left alone");
    let (_, AMQPFrame::Header(_, header)) = parse_frame(&read[..sent.len()]).unwrap() else { panic!("a header") };
    assert_eq!(header.properties.correlation_id().as_ref().unwrap().as_str(), "a\u{1a}b\u{1a}\u{1a}");
    let mut value = header.properties.headers().as_ref().unwrap().inner().get("de\u{1a}\u{1a}p").unwrap();
    for _ in 1..DEPTH_MAX {
        value = &value.as_array().unwrap().as_slice()[0];
    }
    assert!(matches!(value, AMQPValue::LongString(text) if text.len() > 100_000), "the rest of it");
}

#[test]
fn another_protocol_is_left_to_the_library() {
    assert_eq!(read(b"AMQP\0\0\x09\x01", 3, 9), b"AMQP\0\0\x09\x01");
}
