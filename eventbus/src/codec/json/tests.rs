use proptest::prelude::*;

use super::*;

fn event(members: &str) -> Result<Event, DecodeError> {
    let text = format!(r#"{{"specversion":"1.0","id":"1","source":"/s","type":"t"{members}}}"#);
    Ok(decode(text.as_bytes())?.build()?)
}

fn fault(members: &str) -> String {
    event(members).unwrap_err().to_string()
}

#[test]
fn json_data_keeps_its_text() {
    let data = r#"{ "z":1.10, "a" : 12345678901234567890123456789, "dup":1,"dup":2, "s":"\u00e9\/" }"#;
    let read = event(&format!(r#","data":  {data}  "#)).unwrap();
    assert_eq!(read.data_slice(), data.as_bytes());
    assert_eq!(read.content_type(), Some("application/json"));
    let written = encode(&read);
    assert!(written.ends_with(format!(r#","datacontenttype":"application/json","data":{data}}}"#).as_bytes()));
    assert_eq!(decode(&written).unwrap().build().unwrap(), read);
}

#[test]
fn json_data_shares_the_text() {
    let text = br#"{"specversion":"1.0","id":"1","source":"/s","type":"t","data":{"a":1}}"#;
    let (_, data) = read(text).unwrap();
    assert!(matches!(data, Data::Lent(data) if text.as_ptr_range().contains(&data.as_ptr())));
}

#[test]
fn data_is_what_its_content_type_says() {
    let data = |members: &str| event(members).unwrap().data_slice().to_vec();
    assert_eq!(data(r#","data":null"#), b"null");
    assert_eq!(data(r#","data":"text""#), br#""text""#);
    assert_eq!(data(r#","data":"a\n\"\u20ac","datacontenttype":"text/plain""#), "a\n\"\u{20ac}".as_bytes());
    assert_eq!(data(r#","data":"<a/>","datacontenttype":"application/xml""#), b"<a/>");
    assert_eq!(data(r#","datacontenttype":"text/plain","data":null"#), b"");
    assert_eq!(data(r#","data_base64":"AAH\/""#), [0, 1, 255]);
    assert_eq!(data(r#","data_base64":"AAE","data_base64":null"#), [0, 1]);
    assert_eq!(event(r#","data_base64":"AAE=""#).unwrap().content_type(), None);
    assert_eq!(event("").unwrap().content_type(), None);
}

#[test]
fn attributes_become_text() {
    let read = event(
        r#","n":-12,"zero":-0,"yes":true,"no":false,"gone":null,"subject":null,"time":"2026-01-02T03:04:05.6+01:00""#,
    )
    .unwrap();
    let got: Vec<_> = read.attributes().skip(3).collect();
    let expected =
        [("n", "-12"), ("zero", "0"), ("yes", "true"), ("no", "false"), ("time", "2026-01-02T03:04:05.6+01:00")];
    assert_eq!(got, expected);
}

#[test]
fn says_what_is_wrong() {
    assert_eq!(
        fault(r#","nested":{"a":1}"#),
        "attribute \"nested\" is an object: attributes are text, whole numbers or booleans"
    );
    assert_eq!(
        fault(r#","list":[1]"#),
        "attribute \"list\" is an array: attributes are text, whole numbers or booleans"
    );
    for number in ["1.5", "1e3", "2147483648"] {
        let text = fault(&format!(r#","n":{number}"#));
        assert!(
            text.starts_with("attribute \"n\" is a number that is not whole")
                && text.ends_with(&format!("\"{number}\""))
        );
    }
    assert_eq!(fault(r#","subject":1"#), "attribute \"subject\" is no text, and has to be");
    assert_eq!(fault(r#","id":"2""#), "attribute \"id\" is given twice");
    assert_eq!(fault(r#","data":1,"data":2"#), "attribute \"data\" is given twice");
    assert_eq!(
        fault(r#","data":1,"data_base64":"AA==""#),
        "attribute \"data_base64\" is given beside data: send one of the two"
    );
    assert!(fault(r#","data_base64":"*""#).starts_with("attribute \"data_base64\" is not base64"));
    assert!(fault(r#","data_base64":1"#).starts_with("attribute \"data_base64\" cannot be read"));
    assert_eq!(
        fault(r#","data":1,"datacontenttype":"text/plain""#),
        "attribute \"data\" is no string, and datacontenttype \"text/plain\" is not JSON"
    );
    assert!(fault(r#","subject":"\ud800""#).starts_with("attribute \"subject\" cannot be read"));
    assert!(fault(r#","A":"x""#).starts_with("attribute \"A\" is no attribute name"));
    assert!(fault(&format!(r#","{}":"x""#, "a".repeat(100_000))).len() < 300);
    assert!(
        fault(&(0..400).map(|n| format!(r#","x{n}":null"#)).collect::<String>()).contains("more than 128 attributes")
    );
    assert!(fault(&(0..126).map(|n| format!(r#","x{n}":1"#)).collect::<String>()).contains("more than 128 attributes"));

    let content = |text: &'static str| decode(text.as_bytes()).unwrap_err().to_string();
    assert!(content("").starts_with("the content cannot be read as a JSON event: EOF"));
    assert!(content("[]").contains("expected a JSON object"));
    assert!(content("{\"id\":").contains("line 1 column 6"));
    assert!(content("{} x").contains("trailing characters"));
    let missing = decode(br#"{"specversion":"1.0","id":"1","source":""}"#).unwrap_err();
    assert_eq!(missing.to_string(), "attribute \"source\" is missing or empty");
    assert!(decode(b"{\"id\":\"\xff\"}").is_err());
}

#[test]
fn a_batch_is_all_or_nothing() {
    let good = r#"{"specversion":"1.0","id":"1","source":"/s","type":"t","data":{"k": 1}}"#;
    let batch = |text: String| {
        decode_batch(text.as_bytes()).map(|events| events.into_iter().map(EventBuilder::into_owned).collect::<Vec<_>>())
    };
    assert_eq!(batch("[]".into()).unwrap().len(), 0);
    let two = batch(format!("[{good} ,\n{good}]")).unwrap();
    let two: Vec<Event> = two.into_iter().map(|e| e.build().unwrap()).collect();
    assert!(two.iter().all(|e| e.data_slice() == br#"{"k": 1}"#));
    assert_eq!(batch(String::from_utf8(encode_batch(&two).to_vec()).unwrap()).unwrap().len(), 2);
    assert_eq!(encode_batch(&[]).as_ref(), b"[]");
    let wrong = batch(format!(r#"[{good},{{"specversion":"1.0","id":"2","source":"/s"}}]"#)).unwrap_err();
    assert_eq!(wrong.to_string(), "event 1 of the batch: attribute \"type\" is missing or empty");
    assert_eq!(wrong.attribute_name(), Some("type"));
    assert!(batch(format!("[{good},7]")).unwrap_err().to_string().contains("expected a JSON object"));
    assert!(batch(good.into()).unwrap_err().to_string().contains("cannot be read as a JSON batch"));
    assert_eq!(batch(format!("[{}1]", "1,".repeat(BATCH_EVENTS))).unwrap_err(), DecodeError::BatchTooLarge);
}

#[test]
fn data_is_inlined_only_where_a_reader_gets_the_same_back() {
    let with = |content_type: &str, data: &'static [u8]| {
        let event =
            Event::builder("1", "/s", "t").attribute("datacontenttype", content_type).data(data).build().unwrap();
        let text = encode(&event);
        assert_eq!(decode(&text).unwrap().build().unwrap(), event);
        let at = text.windows(5).position(|w| w == b"\"data").unwrap() + 1;
        let rest = text.slice(at..).to_vec();
        let next = rest.windows(5).position(|w| w == b"\"data").map_or(0, |at| at);
        String::from_utf8(rest[next..].to_vec()).unwrap()
    };
    assert_eq!(with("application/json", b"[1,2]"), r#""data":[1,2]}"#);
    assert_eq!(with("application/json", b"{broken"), r#""data_base64":"e2Jyb2tlbg=="}"#);
    assert_eq!(with("text/plain", b"a\"\\\n\x01"), r#""data":"a\"\\\n\u0001"}"#);
    assert_eq!(with("text/plain", b"\xff"), r#""data_base64":"/w=="}"#);
    assert_eq!(with("text/plain; charset=iso-8859-1", b"a"), r#""data_base64":"YQ=="}"#);
    assert_eq!(with("application/octet-stream", b"a"), r#""data_base64":"YQ=="}"#);
}

#[test]
fn deep_data_does_not_exhaust_the_stack() {
    let deep = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
    assert_eq!(event(&format!(r#","data":{deep}"#)).unwrap().data_slice(), deep.as_bytes());
}

fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        any::<String>().prop_map(Into::into),
    ];
    leaf.prop_recursive(3, 20, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
            prop::collection::btree_map(any::<String>(), inner, 0..4)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn structured_content_round_trips(
        id in "[^\\p{Cc}]{1,40}",
        extensions in prop::collection::btree_map("x[a-z0-9]{1,20}", "[^\\p{Cc}]{0,40}", 0..6),
        content_type in prop::option::of(prop::sample::select(
            &["application/json", "a/b+json", "text/plain", "text/csv; charset=UTF-8", "text/html; charset=latin1", "a/b"][..],
        )),
        data in prop_oneof![
            json().prop_map(|v| serde_json::to_vec_pretty(&v).unwrap()),
            prop::collection::vec(any::<u8>(), 0..64),
            any::<String>().prop_map(String::into_bytes),
        ],
    ) {
        // White space around a JSON document is no part of its value.
        let data = if content_type.is_some_and(is_json) { data.trim_ascii().to_vec() } else { data };
        let builder = Event::builder(id, "/s", "t").attribute_if("datacontenttype", content_type).data(data);
        let event = extensions.into_iter().fold(builder, |e, (n, v)| e.attribute(n, v)).build().unwrap();
        let text = encode(&event);
        serde_json::from_slice::<serde_json::Value>(&text).unwrap();
        prop_assert_eq!(decode(&text).unwrap().build().unwrap(), event);
    }

    #[test]
    fn any_text_is_read_or_refused(text in prop::collection::vec(any::<u8>(), 0..200)) {
        let text = Bytes::from(text);
        prop_assert!(decode(&text).is_err());
        if let Ok(events) = decode_batch(&text) {
            prop_assert!(events.is_empty());
        }
    }

    #[test]
    fn any_members_are_read_or_refused(members in prop::collection::vec(("[a-zA-Z_0-9]{0,12}|data|data_base64|time|id", json()), 0..8)) {
        let members: String = members.iter().map(|(n, v)| format!(",{}:{v}", serde_json::json!(n))).collect();
        if let Ok(event) = event(&members) {
            prop_assert_eq!(event.id(), "1");
        }
    }
}
