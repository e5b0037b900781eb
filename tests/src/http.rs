//! A sink that records every request and answers by script, and a client for webhooks.

mod client;
mod garbage;
mod sdk;
mod sink;

pub use self::client::{Response, get, post, request};
pub use self::garbage::Garbage;
pub use self::sdk::post_by_sdk;
pub use self::sink::{Answer, Received, Sink};
