use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn minimal() -> EventBuilder<'static> {
    Event::builder("1", "/s", "t")
}

#[test]
fn required_attributes_come_first_and_data_is_untouched() {
    let event = minimal().attribute("subject", "s").data(&b"\x00\xff{"[..]).build().unwrap();
    let attributes: Vec<_> = event.attributes().collect();
    assert_eq!(attributes, [("id", "1"), ("source", "/s"), ("type", "t"), ("subject", "s")]);
    assert_eq!((event.id(), event.source(), event.ty()), ("1", "/s", "t"));
    assert_eq!(event.data_slice(), b"\x00\xff{");
    assert_eq!(event.data(), event.data_slice());
    assert_eq!(event.encoded_len(), event.frame().len());
}

#[test]
fn the_frame_is_as_documented() {
    let event = minimal().data("d").build().unwrap();
    let mut expected = vec![29, 0, 0, 0, 3, 0];
    expected.extend_from_slice(b"\x02\x01\x00id1\x06\x02\x00source/s\x04\x01\x00typet");
    expected[0] = u8::try_from(expected.len()).unwrap();
    expected.push(b'd');
    assert_eq!(event.frame()[..], expected);
}

#[test]
fn setting_twice_replaces_and_required_ones_stay() {
    let builder =
        minimal().attribute("a", "1").attribute("a", "2").attribute("id", "9").attribute_if("b", None::<&str>);
    let event = builder.without("id").without("missing").build().unwrap();
    assert_eq!((event.id(), event.attribute("a"), event.attribute("b")), ("9", Some("2"), None));
    let without = event.to_builder().without("a").build().unwrap();
    assert_eq!(without.attribute("a"), None);
    assert_eq!(event.attribute("a"), Some("2"), "events do not change");
}

#[test]
fn well_known_attributes_are_found() {
    let builder = minimal().attribute("datacontenttype", "text/plain").attribute("partitionkey", "k");
    let event = builder.attribute("specversion", "1.0").build().unwrap();
    assert_eq!((event.content_type(), event.partition_key()), (Some("text/plain"), Some("k")));
    assert_eq!(event.attribute("specversion"), None, "it is always the same and not kept");
}

#[test]
fn what_is_no_event_is_refused_with_its_reason() {
    let long = "v".repeat(limits::ATTRIBUTE_VALUE_BYTES);
    let of = |name: &str, value: &str| minimal().attribute(name, value).build().map(|_| ());
    assert_eq!(Event::builder("", "s", "t").build().unwrap_err(), InvalidEvent::Missing("id"));
    assert_eq!(Event::builder("i", "", "t").build().unwrap_err(), InvalidEvent::Missing("source"));
    assert_eq!(minimal().attribute("type", "").build().unwrap_err(), InvalidEvent::Missing("type"));
    for name in ["", "data", "Upper", "with-dash", "\u{e9}", &"n".repeat(65)] {
        assert_eq!(of(name, "v"), Err(InvalidEvent::Name(name.into())));
    }
    assert_eq!(of(&"n".repeat(64), "v"), Ok(()));
    assert_eq!(of("a", &long), Ok(()));
    assert_eq!(of("a", &format!("{long}v")), Err(InvalidEvent::Value("a".into())));
    assert_eq!(of("a", "line\nbreak"), Err(InvalidEvent::Value("a".into())));
    assert_eq!(of("specversion", "0.3"), Err(InvalidEvent::SpecVersion("0.3".into())));
    for time in ["2026-05-04T03:02:01Z", "2026-02-28t23:59:60.123456789012+01:00", "0000-01-01T00:00:00-23:59"] {
        assert_eq!(of("time", time), Ok(()), "{time}");
    }
    for none in ["", "yesterday", "2026-05-04", "2026-05-04T03:02:01", "2026-02-29T03:02:01Z", "2026-05-04T24:00:00Z"] {
        assert_eq!(of("time", none), Err(InvalidEvent::Time(none.into())));
    }
    assert_eq!(of("time", &long), Err(InvalidEvent::Time("v".repeat(64))));
    assert_eq!(of("xtime", "yesterday"), Ok(()));
    let many = |n: usize| (0..n).fold(minimal(), |b, i| b.attribute(format!("a{i}"), "v")).build().map(|_| ());
    assert_eq!(many(limits::ATTRIBUTES - 3), Ok(()));
    assert_eq!(many(limits::ATTRIBUTES - 2), Err(InvalidEvent::TooMany));
}

#[test]
fn frames_that_are_none_are_refused() {
    let good = minimal().attribute("a", "\u{e9}").data("data").build().unwrap().frame().to_vec();
    assert!(Event::from_frame(good.clone().into()).is_ok());
    let head = usize::from(good[0]);
    for cut in 0..head {
        assert_eq!(Event::from_frame(good[..cut].to_vec().into()).unwrap_err(), InvalidEvent::Frame);
    }
    let mut not_text = good.clone();
    not_text[head - 1] = 0xff;
    let mut other_order = good.clone();
    other_order[9] = b'x';
    let mut fewer = good;
    fewer[4] = 2;
    for bad in [not_text, other_order, fewer, vec![0xff; 100], vec![6, 0, 0, 0, 0, 0]] {
        assert_eq!(Event::from_frame(bad.into()).unwrap_err(), InvalidEvent::Frame);
    }
}

#[test]
fn debug_shows_no_data() {
    let text = format!("{:?}", minimal().data("secret").build().unwrap());
    assert!(text.contains("/s") && !text.contains("secret"), "{text}");
}

fn names() -> impl Strategy<Value = String> {
    "[a-z0-9]{1,64}".prop_filter("reserved", |n| !["data", "specversion", "time"].contains(&n.as_str()))
}

proptest! {
    #[test]
    fn what_is_built_is_read_back(
        id in "[^\\p{Cc}]{1,40}",
        attributes in vec((names(), "[^\\p{Cc}]{0,200}"), 0..20),
        data in vec(any::<u8>(), 0..2000),
    ) {
        let mut expected = vec![("id".to_owned(), id.clone()), ("source".into(), "/s".into()), ("type".into(), "t".into())];
        let mut builder = Event::builder(id, "/s", "t").data(data.clone());
        for (name, value) in attributes {
            let required = ["id", "source", "type"].contains(&name.as_str());
            let value = if required && value.is_empty() { "x".to_owned() } else { value };
            match expected.iter_mut().find(|(n, _)| *n == name) {
                Some((_, old)) => old.clone_from(&value),
                None => expected.push((name.clone(), value.clone())),
            }
            builder = builder.attribute(name, value);
        }
        let event = builder.build().unwrap();
        let read = Event::from_frame(event.frame().clone()).unwrap();
        prop_assert_eq!(&read, &event);
        let attributes: Vec<_> = read.attributes().map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
        prop_assert_eq!(attributes, expected);
        prop_assert_eq!(read.data_slice(), &data[..]);
        prop_assert_eq!(&read.to_builder().build().unwrap(), &event);
    }

    #[test]
    fn any_bytes_are_an_event_or_refused(mut bytes in vec(any::<u8>(), 0..300), head in any::<u8>()) {
        if let Some(first) = bytes.first_chunk_mut::<4>() {
            *first = u32::from(head).to_le_bytes();
        }
        if let Ok(event) = Event::from_frame(bytes.into()) {
            prop_assert!(event.attributes().count() >= 3);
            prop_assert!(event.encoded_len() >= event.data_slice().len());
        }
    }

    #[test]
    fn a_changed_frame_never_panics(at in 0usize..60, to in any::<u8>()) {
        let mut frame = minimal().attribute("abc", "def").data("data").build().unwrap().frame().to_vec();
        let at = at % frame.len();
        frame[at] = to;
        if let Ok(event) = Event::from_frame(frame.into()) {
            prop_assert_eq!(event.attributes().count(), 4);
        }
    }
}
