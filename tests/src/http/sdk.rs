//! A foreign peer: what the CloudEvents SDK puts on the wire.

use bytes::Bytes;
use cloudevents::Event;
use cloudevents::binding::http::{Builder, Serializer};
use cloudevents::message::{BinaryDeserializer, Result};
use http::HeaderValue;

use super::{Response, post};

#[derive(Default)]
struct Request {
    headers: Vec<(String, String)>,
}

impl Builder<(Vec<(String, String)>, Bytes)> for Request {
    fn header(&mut self, key: &str, value: HeaderValue) {
        self.headers.push((key.to_owned(), value.to_str().unwrap().to_owned()));
    }

    fn body(&mut self, bytes: Vec<u8>) -> Result<(Vec<(String, String)>, Bytes)> {
        Ok((std::mem::take(&mut self.headers), bytes.into()))
    }

    fn finish(&mut self) -> Result<(Vec<(String, String)>, Bytes)> {
        self.body(Vec::new())
    }
}

/// Posts an event in binary mode, as the SDK writes it.
///
/// # Panics
/// When there is no answer.
pub async fn post_by_sdk(url: &str, event: Event) -> Response {
    let (headers, body) = BinaryDeserializer::deserialize_binary(event, Serializer::new(Request::default())).unwrap();
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    post(url, &headers, body).await
}
