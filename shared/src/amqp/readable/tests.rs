use super::fields::*;
use super::*;
use crate::amqp::properties::COUNT_HEADERS;
use amq_protocol::frame::{AMQPFrame, parse_frame};
use lapin::BasicProperties;
use lapin::types::{AMQPValue, ShortString};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use std::collections::BTreeMap;
use std::task::Waker;

/// Gives so many bytes at a time.
struct Chunks<'a>(&'a [u8], usize);

impl AsyncRead for Chunks<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let (given, left) = self.0.split_at(self.1.min(out.remaining()).min(self.0.len()));
        out.put_slice(given);
        self.0 = left;
        Poll::Ready(Ok(()))
    }
}

/// What the library gets, which asks for so many bytes at a time.
fn read(bytes: &[u8], chunk: usize, asked: usize) -> Vec<u8> {
    let mut readable = Readable::new(Chunks(bytes, chunk));
    let (mut got, mut out) = (Vec::new(), vec![0; asked]);
    loop {
        let read = futures_io::AsyncRead::poll_read(
            Pin::new(&mut readable),
            &mut Context::from_waker(Waker::noop()),
            &mut out,
        );
        let Poll::Ready(Ok(count)) = read else { panic!("{read:?}") };
        if count == 0 {
            return got;
        }
        got.extend(&out[..count]);
    }
}

/// Keeps what is written until it is flushed, which succeeds every other time: as TLS does whose socket is full.
#[derive(Default)]
struct Keeping {
    kept: Vec<u8>,
    sent: Vec<u8>,
    is_full: bool,
}

impl AsyncWrite for Keeping {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.kept.extend(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.is_full = !self.is_full;
        if self.is_full {
            return Poll::Pending;
        }
        let kept = mem::take(&mut self.kept);
        self.sent.extend(kept);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[test]
fn what_is_written_has_left_us_and_goes_out_though_the_connection_is_cut_then() {
    let (mut readable, mut context) = (Readable::new(Keeping::default()), Context::from_waker(Waker::noop()));
    for acknowledgement in [b"one", b"two"] {
        let mut write = || futures_io::AsyncWrite::poll_write(Pin::new(&mut readable), &mut context, acknowledgement);
        assert!(write().is_pending());
        assert!(matches!(write(), Poll::Ready(Ok(3))));
    }
    assert_eq!(readable.stream.sent, b"onetwo");
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

#[test]
fn headers_that_are_larger_than_a_frame_may_be_are_left_out_and_all_else_of_their_message_stays() {
    let tune = frame(METHOD_FRAME, &[&[0, 10, 0, 30, 7, 255][..], &4_096_u32.to_be_bytes(), &[0, 20]].concat());
    for pad in 4_020..4_070 {
        // Content type, headers, correlation id.
        let headers = sized(&[&short(b"pad")[..], b"S", &sized(&vec![b'x'; pad])].concat());
        let properties = [short(b"json"), headers, short(b"id")].concat();
        let header = content_header(1 << 15 | 1 << 13 | 1 << 10, &properties);
        let message = [deliver(b"key"), header.clone(), frame(BODY_FRAME, b"{}")].concat();
        let read = read(&[tune.clone(), message.clone()].concat(), 7, 1_000);
        assert_eq!(read.len(), tune.len() + message.len());
        let (mut left, mut frames) = (&read[tune.len()..], Vec::new());
        while !left.is_empty() {
            let (rest, frame) = parse_frame(left).unwrap();
            assert!(left.len() - rest.len() <= 4_096, "{pad}");
            frames.push(frame);
            left = rest;
        }
        frames.retain(|frame| !matches!(frame, AMQPFrame::Heartbeat));
        let [AMQPFrame::Method(..), AMQPFrame::Header(_, header_read), AMQPFrame::Body(_, body)] = &frames[..] else {
            panic!("{frames:?}");
        };
        let properties = &header_read.properties;
        let is_kept = properties.headers().as_ref().unwrap().inner().contains_key("pad");
        assert_eq!(is_kept, header.len() <= 4_096, "{pad}");
        assert_eq!(properties.content_type(), &Some("json".into()));
        assert_eq!(properties.correlation_id(), &Some("id".into()));
        assert_eq!(body, b"{}");
    }
}

fn text() -> impl Strategy<Value = Vec<u8>> {
    let good = select(vec!["", "a", "ü€", "x-death"]).prop_map(|text| text.as_bytes().to_vec());
    prop_oneof![3 => good, 1 => vec(any::<u8>(), 0..9)]
}

/// A value of a header, with its type.
fn value() -> impl Strategy<Value = Vec<u8>> {
    let numbers = "t1 b1 B1 s2 U2 u2 I4 i4 f4 D5 L8 l8 d8 T8 V0".split(' ').collect::<Vec<_>>();
    let number = (select(numbers), vec(any::<u8>(), 8)).prop_map(|(kind, bytes)| {
        let [kind, size] = *kind.as_bytes() else { panic!("a kind and its size") };
        [&[kind], &bytes[..usize::from(size - b'0')]].concat()
    });
    let texts = (select(vec![b'S', b'x']), text()).prop_map(|(kind, text)| [&[kind][..], &sized(&text)].concat());
    // At most 120 values in a message: fewer than is too much.
    prop_oneof![number, texts].prop_recursive(3, 12, 3, |inner| {
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
        // The two lowest say nothing to the library, nor to us.
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
    fn headers_that_make_no_sense_are_cleared_and_what_stands_beside_them_is_read(
        bytes in prop_oneof![vec(any::<u8>(), 0..60), vec(select(b"AFSVx\0\x01\x02\x05".to_vec()), 0..60)],
        cut in any::<usize>(), whole in table(value()), flags in any::<u16>(),
    ) {
        let id = short(b"c");
        for table in [sized(&bytes), whole[..cut % (whole.len() + 1)].to_vec(), [&sized(&bytes[..bytes.len() / 2]), &bytes[..]].concat()] {
            let sent = content_header(flags | 1 << 13 | 1 << 10, &[&table[..], &id[..]].concat());
            let read = read(&sent, 70, 70);
            // It is read, or the library says that it cannot be; it never waits for more of it.
            let read = parse_frame(&read[..]).map_err(|error| format!("{error:?}"));
            prop_assert!(!matches!(&read, Err(error) if error.starts_with("Incomplete")), "{sent:?}");
        }
        let sent = content_header(1 << 13 | 1 << 10, &[sized(&bytes), id].concat());
        // Of one byte, no table can be made.
        prop_assert!(bytes.len() == 1 || header_of(&read(&sent, 70, 70)).correlation_id().is_some());
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
    let properties = header_of(&read[..sent.len()]);
    assert_eq!(properties.correlation_id().as_ref().unwrap().as_str(), "a\u{1a}b\u{1a}\u{1a}");
    let mut value = properties.headers().as_ref().unwrap().inner().get("de\u{1a}\u{1a}p").unwrap();
    for _ in 1..DEPTH_MAX {
        value = &value.as_array().unwrap().as_slice()[0];
    }
    assert!(matches!(value, AMQPValue::LongString(text) if text.len() > 100_000), "the rest of it");
}

/// What the library makes of a content header.
fn header_of(frame: &[u8]) -> BasicProperties {
    let (_, AMQPFrame::Header(_, header)) = parse_frame(frame).unwrap() else { panic!("a header") };
    header.properties
}

/// The headers of a message with these entries, as the library reads them.
fn headers_of(entries: &[Vec<u8>]) -> BTreeMap<ShortString, AMQPValue> {
    let sent = content_header(1 << 13, &sized(&entries.concat()));
    header_of(&read(&sent, 50_000, 50_000)).headers().as_ref().unwrap().inner().clone()
}

fn count(name: &str, deliveries: u64) -> Vec<u8> {
    [short(name.as_bytes()), b"l".to_vec(), deliveries.to_be_bytes().to_vec()].concat()
}

#[test]
fn of_a_delivery_count_the_first_is_read_which_the_broker_writes() {
    for name in COUNT_HEADERS {
        let headers = headers_of(&[count(name, 1), count("n", 7), count(name, 99), count(name, 98)]);
        assert_eq!(headers[name], AMQPValue::LongLongInt(1));
        assert_eq!(headers["n"], AMQPValue::LongLongInt(7));
        assert_eq!(headers.len(), 3, "and the others are there by another name: {headers:?}");
    }
}

#[test]
fn of_more_values_than_a_message_may_have_the_library_makes_text() {
    let void = |name: usize| [short(name.to_string().as_bytes()), b"V".to_vec()].concat();
    let array = [short(b"bomb"), [&b"A"[..], &sized(&[b'V'; 130_000])].concat()].concat();
    let in_tables = (0..7).fold(vec![b'V'; 129_000], |inner, _| [&b"A"[..], &sized(&inner)].concat());
    let deep = [short(b"deep"), in_tables].concat();
    for bomb in [array, deep] {
        let headers = headers_of(&[count("before", 1), bomb, count("after", 2)]);
        let text = headers.values().find_map(AMQPValue::as_long_string).unwrap();
        assert!(headers.len() == 3 && text.len() >= 129_000 && headers["after"] == AMQPValue::LongLongInt(2));
    }
    for many in [15_000, VALUES_MAX + 3] {
        let mut entries: Vec<_> = (0..many).map(void).collect();
        entries.insert(many - 2, count("x-delivery-count", 3));
        let headers = headers_of(&entries);
        assert_eq!(headers["x-delivery-count"], AMQPValue::LongLongInt(3), "what the broker wrote is read");
        assert!(headers.len() <= VALUES_MAX + 3, "{}", headers.len());
    }
    assert_eq!(headers_of(&(0..VALUES_MAX).map(void).collect::<Vec<_>>()).len(), VALUES_MAX);
}

#[test]
fn another_protocol_is_left_to_the_library() {
    assert_eq!(read(b"AMQP\0\0\x09\x01", 3, 9), b"AMQP\0\0\x09\x01");
}
