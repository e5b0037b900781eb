//! What becomes of a request that is taken.

use super::*;

#[tokio::test]
async fn binary_content() {
    let site = Site::new().await;
    let headers = [
        ("ce-specversion", "1.0"),
        ("ce-id", "17"),
        ("ce-source", "/shop"),
        ("ce-type", "order.created"),
        ("ce-subject", "a%20b"),
        ("content-type", "application/json"),
        ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
    ];
    let reply = site.post(&headers, r#"{ "b":1, "a":2 }"#).await;
    assert_eq!((reply.status, reply.body.as_str()), (StatusCode::ACCEPTED, ""));
    let [event] = site.outlet.events().try_into().unwrap();
    assert_eq!((event.id(), event.source(), event.ty()), ("17", "/shop", "order.created"));
    assert_eq!(event.attribute("subject"), Some("a b"));
    assert_eq!(event.content_type(), Some("application/json"));
    assert_eq!(event.attribute("traceparent"), Some(headers[6].1));
    assert_eq!(event.data_slice(), br#"{ "b":1, "a":2 }"#);
}

#[tokio::test]
async fn structured_content_and_batches() {
    let site = Site::new().await;
    assert_eq!(site.post(&[STRUCTURED], structured("1")).await.status, StatusCode::ACCEPTED);
    let batch = format!("[{},{}]", structured("2"), structured("3"));
    assert_eq!(site.post(&[BATCH], batch).await.status, StatusCode::ACCEPTED);
    assert_eq!(site.post(&[BATCH], "[]").await.status, StatusCode::ACCEPTED);
    let batches = site.outlet.batches.lock().clone();
    let ids: Vec<Vec<&str>> = batches.iter().map(|batch| batch.iter().map(Event::id).collect()).collect();
    assert_eq!(ids, [vec!["1"], vec!["2", "3"]]);
    assert_eq!(batches[0][0].data_slice(), br#"{"n": 1.0}"#);
}

#[tokio::test]
async fn any_other_body_becomes_the_data_of_an_event() {
    let site = Site::new().await;
    assert_eq!(site.post(&[("content-type", "text/csv")], "a;b").await.status, StatusCode::ACCEPTED);
    assert_eq!(
        site.post(&[("traceparent", "00-1-2-01")], Bytes::from_static(b"\x00\xff")).await.status,
        StatusCode::ACCEPTED
    );
    let [csv, raw] = site.outlet.events().try_into().unwrap();
    assert_eq!((csv.source(), csv.ty()), ("/namespaces/ns/eventsources/shop/orders", "io.evoke.webhook"));
    assert_eq!((csv.content_type(), csv.data_slice()), (Some("text/csv"), &b"a;b"[..]));
    assert_eq!(uuid::Uuid::parse_str(csv.id()).unwrap().get_version_num(), 7);
    assert_ne!(csv.id(), raw.id());
    assert!(chrono::DateTime::parse_from_rfc3339(csv.attribute("time").unwrap()).is_ok());
    assert_eq!((raw.content_type(), raw.data_slice()), (None, &b"\x00\xff"[..]));
    assert_eq!(raw.attribute("traceparent"), Some("00-1-2-01"));
}

#[tokio::test]
async fn the_manifest_has_the_last_word_on_attributes_and_a_word_on_content_types() {
    let mut plan = plan("orders");
    let attributes =
        [("source", "/mine"), ("type", "mine"), ("dataschema", "https://example.org/mine"), ("region", "eu")];
    plan.origin.attributes.extend(attributes.map(|(name, value)| (name.to_owned(), value.to_owned())));
    plan.content_type = Some(http::HeaderValue::from_static("application/cloudevents+json"));
    let site = Site::with(plan, Limits::default(), 4096).await;
    site.post(&[], structured("1")).await;
    site.post(&[("content-type", "text/plain")], "x").await;
    let [event, plain] = site.outlet.events().try_into().unwrap();
    for (name, value) in attributes {
        assert_eq!([event.attribute(name), plain.attribute(name)], [Some(value); 2], "{name}");
    }
    assert_eq!(event.id(), "1");
    assert_eq!((plain.content_type(), plain.data_slice()), (Some("text/plain"), &b"x"[..]));
}

#[tokio::test]
async fn the_answer_waits_until_all_is_settled() {
    let site = Site::new().await;
    site.outlet.fate.send_replace(Fate::Hold);
    let mut sending = site.start(&[STRUCTURED], structured("1"));
    site.outlet.taken(1).await;
    tokio::task::yield_now().await;
    assert!(sending.try_join_next().is_none());
    site.outlet.fate.send_replace(Fate::Settle);
    assert_eq!(finish(sending).await.status, StatusCode::ACCEPTED);
    assert_eq!(*site.outlet.settled.borrow(), 1);
}

#[tokio::test]
async fn bodies_arrive_in_pieces() {
    let site = Site::new().await;
    let pieces: Vec<Result<_, std::io::Error>> =
        (0..10).map(|n| Ok(hyper::body::Frame::data(Bytes::from(format!("{n};"))))).collect();
    let body = http_body_util::StreamBody::new(futures_util::stream::iter(pieces));
    let client: Client<_, _> = Client::builder(TokioExecutor::new()).build_http();
    let request = Request::post(format!("http://{}/ns/shop/orders?query=is-ignored", site.address)).body(body).unwrap();
    assert_eq!(client.request(request).await.unwrap().status(), StatusCode::ACCEPTED);
    assert_eq!(site.outlet.events()[0].data_slice(), b"0;1;2;3;4;5;6;7;8;9;");
}

/// Sends with so many clients so many requests each, all of which are under way before the first is settled.
async fn many(site: &Site, http2: bool, clients: usize, each: usize) {
    site.outlet.fate.send_replace(Fate::Hold);
    let before = *site.outlet.taken.borrow();
    let mut sending = JoinSet::new();
    for client in 0..clients {
        let http: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).http2_only(http2).build_http();
        for n in 0..each {
            let sent = http.request(site.request(
                "POST",
                "/ns/shop/orders",
                &[STRUCTURED],
                structured(&format!("{client}-{n}")),
            ));
            sending.spawn(async move { sent.await.unwrap().status() });
        }
    }
    site.outlet.taken(before + clients * each).await;
    assert!(sending.try_join_next().is_none());
    site.outlet.fate.send_replace(Fate::Settle);
    assert!(sending.join_all().await.into_iter().all(|status| status == StatusCode::ACCEPTED));
    let mut ids: Vec<_> = site.outlet.events().iter().map(|event| event.id().to_owned()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), clients * each);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_requests_at_once_wait_for_each_other_in_nothing() {
    many(&Site::new().await, true, 5, 200).await;
    many(&Site::new().await, false, 1, 300).await;
}
