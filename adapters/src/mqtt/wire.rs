//! Packets of MQTT 3.1.1 and 5, as one kind of packet: what a client that only subscribes gets and sends. The bytes are rumqttc's
//! matter.

use bytes::{Bytes, BytesMut};
use evoke_api::credentials::Secret;
use evoke_api::events::MqttVersion;
use rumqttc::mqttbytes::{Protocol, QoS as QoS3, v4};
use rumqttc::v5::mqttbytes::{QoS as QoS5, v5};
use tokio_util::codec::{Decoder, Encoder};

use crate::plan::mqtt::Qos;

/// The most that MQTT can frame. What a bus does not take is dead-lettered, which a connection that breaks at it would never do.
const PACKET_BYTES: usize = 256 * 1024 * 1024 + 5;
/// The one packet identifier that this client ever needs of its own.
pub(super) const SUBSCRIBE_ID: u16 = 1;

impl Qos {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::AtMostOnce => "0",
            Self::AtLeastOnce => "1",
            Self::ExactlyOnce => "2",
        }
    }
}

impl From<QoS3> for Qos {
    fn from(qos: QoS3) -> Self {
        match qos {
            QoS3::AtMostOnce => Self::AtMostOnce,
            QoS3::AtLeastOnce => Self::AtLeastOnce,
            QoS3::ExactlyOnce => Self::ExactlyOnce,
        }
    }
}

impl From<QoS5> for Qos {
    fn from(qos: QoS5) -> Self {
        match qos {
            QoS5::AtMostOnce => Self::AtMostOnce,
            QoS5::AtLeastOnce => Self::AtLeastOnce,
            QoS5::ExactlyOnce => Self::ExactlyOnce,
        }
    }
}

/// What the broker sends.
#[derive(Debug)]
pub(super) enum Incoming {
    Accepted(Accepted),
    /// The connection is refused, with what the broker calls its reason.
    Refused(Refusal),
    Publish(Publish),
    /// The sender of a QoS 2 message has given it up.
    Release(u16),
    /// What was granted, or why nothing was.
    Subscribed(Result<Qos, String>),
    Pong,
    /// The broker ends the connection.
    Goodbye(Goodbye),
    /// What a broker has no reason to send to this client.
    Other,
}

/// A connection that the broker took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Accepted {
    /// The broker knew the session.
    pub(super) session_present: bool,
    /// Seconds that it keeps the session, where it says so.
    pub(super) session_expiry: Option<u32>,
    /// Seconds between signs of life, where it insists on its own.
    pub(super) keep_alive: Option<u16>,
}

/// Why a broker refuses a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    Version,
    ClientId,
    Credentials,
    NotAuthorized,
    Other(String),
}

/// Why a broker ends a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Goodbye {
    TakenOver,
    Other(String),
}

/// A message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Publish {
    pub(super) topic: String,
    pub(super) qos: Qos,
    pub(super) retained: bool,
    /// Whether the broker may have sent it before.
    pub(super) is_repeat: bool,
    /// 0 at QoS 0.
    pub(super) packet_id: u16,
    pub(super) payload: Bytes,
    pub(super) properties: Properties,
}

/// What MQTT 5 puts beside a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Properties {
    pub(super) content_type: Option<String>,
    pub(super) response_topic: Option<String>,
    pub(super) correlation_data: Option<Bytes>,
    pub(super) user: Vec<(String, String)>,
}

/// What this client sends.
#[derive(Clone, Debug)]
pub(super) enum Outgoing {
    Connect(Connect),
    Subscribe { filter: String, qos: Qos },
    PubAck(u16),
    PubRec(u16),
    PubComp(u16),
    Ping,
    Disconnect,
}

/// How this client introduces itself.
#[derive(Clone, Debug)]
pub(super) struct Connect {
    pub(super) client_id: String,
    pub(super) clean: bool,
    /// Seconds.
    pub(super) keep_alive: u16,
    /// QoS 1 and 2 messages that may be on their way at once; MQTT 5 only.
    pub(super) receive_maximum: u16,
    pub(super) username: Option<Secret>,
    pub(super) password: Option<Secret>,
}

/// Bytes that are no packet.
#[derive(Debug, thiserror::Error)]
pub(super) enum WireError {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("it sent what is no MQTT: {0}")]
    Malformed(String),
}

/// Frames and packets of one version.
#[derive(Debug)]
pub(super) enum Codec {
    V3(v4::Codec),
    V5(v5::Codec),
}

impl Codec {
    pub(super) fn new(version: MqttVersion) -> Self {
        match version {
            MqttVersion::V3 => Self::V3(v4::Codec { max_incoming_size: PACKET_BYTES, max_outgoing_size: PACKET_BYTES }),
            MqttVersion::V5 => Self::V5(v5::Codec { max_incoming_size: None, max_outgoing_size: None }),
        }
    }
}

impl Decoder for Codec {
    type Item = Incoming;
    type Error = WireError;

    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Incoming>, WireError> {
        match self {
            Self::V3(codec) => match codec.decode(src) {
                Ok(packet) => Ok(packet.map(incoming_3)),
                Err(rumqttc::mqttbytes::Error::Io(error)) => Err(error.into()),
                Err(error) => Err(WireError::Malformed(error.to_string())),
            },
            Self::V5(codec) => match codec.decode(src) {
                Ok(packet) => packet.map(incoming_5).transpose(),
                Err(rumqttc::v5::mqttbytes::Error::Io(error)) => Err(error.into()),
                Err(error) => Err(WireError::Malformed(error.to_string())),
            },
        }
    }
}

impl Encoder<Outgoing> for Codec {
    type Error = WireError;

    fn encode(&mut self, packet: Outgoing, dst: &mut BytesMut) -> Result<(), WireError> {
        let malformed = |error: &dyn std::fmt::Display| WireError::Malformed(error.to_string());
        match self {
            Self::V3(codec) => codec.encode(outgoing_3(packet), dst).map_err(|e| malformed(&e)),
            Self::V5(codec) => codec.encode(outgoing_5(packet), dst).map_err(|e| malformed(&e)),
        }
    }
}

fn incoming_3(packet: v4::Packet) -> Incoming {
    match packet {
        v4::Packet::ConnAck(ack) => match ack.code {
            v4::ConnectReturnCode::Success => {
                Incoming::Accepted(Accepted { session_present: ack.session_present, ..Accepted::default() })
            }
            v4::ConnectReturnCode::RefusedProtocolVersion => Incoming::Refused(Refusal::Version),
            v4::ConnectReturnCode::BadClientId => Incoming::Refused(Refusal::ClientId),
            v4::ConnectReturnCode::BadUserNamePassword => Incoming::Refused(Refusal::Credentials),
            v4::ConnectReturnCode::NotAuthorized => Incoming::Refused(Refusal::NotAuthorized),
            other @ v4::ConnectReturnCode::ServiceUnavailable => Incoming::Refused(Refusal::Other(words(&other))),
        },
        v4::Packet::Publish(publish) => Incoming::Publish(Publish {
            topic: publish.topic,
            qos: publish.qos.into(),
            retained: publish.retain,
            is_repeat: publish.dup,
            packet_id: publish.pkid,
            payload: publish.payload,
            properties: Properties::default(),
        }),
        v4::Packet::PubRel(release) => Incoming::Release(release.pkid),
        v4::Packet::SubAck(ack) => Incoming::Subscribed(match ack.return_codes.first() {
            Some(v4::SubscribeReasonCode::Success(qos)) => Ok((*qos).into()),
            Some(v4::SubscribeReasonCode::Failure) | None => Err("failure".to_owned()),
        }),
        v4::Packet::PingResp => Incoming::Pong,
        v4::Packet::Disconnect => Incoming::Goodbye(Goodbye::Other("without a reason".to_owned())),
        _ => Incoming::Other,
    }
}

fn incoming_5(packet: v5::Packet) -> Result<Incoming, WireError> {
    use v5::ConnectReturnCode as Code;

    Ok(match packet {
        v5::Packet::ConnAck(ack) => {
            let reason = ack.properties.as_ref().and_then(|properties| properties.reason_string.clone());
            match ack.code {
                Code::Success => Incoming::Accepted(Accepted {
                    session_present: ack.session_present,
                    session_expiry: ack.properties.as_ref().and_then(|properties| properties.session_expiry_interval),
                    keep_alive: ack.properties.as_ref().and_then(|properties| properties.server_keep_alive),
                }),
                Code::RefusedProtocolVersion | Code::UnsupportedProtocolVersion => Incoming::Refused(Refusal::Version),
                Code::BadClientId | Code::ClientIdentifierNotValid => Incoming::Refused(Refusal::ClientId),
                Code::BadUserNamePassword => Incoming::Refused(Refusal::Credentials),
                Code::NotAuthorized => Incoming::Refused(Refusal::NotAuthorized),
                other => Incoming::Refused(Refusal::Other(reason.unwrap_or_else(|| words(&other)))),
            }
        }
        v5::Packet::Publish(publish) => {
            let topic = String::from_utf8(publish.topic.into())
                .map_err(|_| WireError::Malformed("a topic that is not UTF-8".to_owned()))?;
            let properties = publish.properties.unwrap_or_default();
            Incoming::Publish(Publish {
                topic,
                qos: publish.qos.into(),
                retained: publish.retain,
                is_repeat: publish.dup,
                packet_id: publish.pkid,
                payload: publish.payload,
                properties: Properties {
                    content_type: properties.content_type,
                    response_topic: properties.response_topic,
                    correlation_data: properties.correlation_data,
                    user: properties.user_properties,
                },
            })
        }
        v5::Packet::PubRel(release) => Incoming::Release(release.pkid),
        v5::Packet::SubAck(ack) => {
            let reason = ack.properties.as_ref().and_then(|properties| properties.reason_string.clone());
            Incoming::Subscribed(match ack.return_codes.first() {
                Some(v5::SubscribeReasonCode::Success(qos)) => Ok((*qos).into()),
                Some(other) => Err(reason.unwrap_or_else(|| words(other))),
                None => Err("failure".to_owned()),
            })
        }
        v5::Packet::PingResp(_) => Incoming::Pong,
        v5::Packet::Disconnect(goodbye) => Incoming::Goodbye(match goodbye.reason_code {
            v5::DisconnectReasonCode::SessionTakenOver => Goodbye::TakenOver,
            other => Goodbye::Other(
                goodbye.properties.and_then(|properties| properties.reason_string).unwrap_or_else(|| words(&other)),
            ),
        }),
        _ => Incoming::Other,
    })
}

/// A reason's name, in words.
fn words(reason: &impl std::fmt::Debug) -> String {
    let mut words = String::new();
    for c in format!("{reason:?}").chars() {
        if c.is_ascii_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.push(c.to_ascii_lowercase());
    }
    words
}

fn outgoing_3(packet: Outgoing) -> v4::Packet {
    match packet {
        Outgoing::Connect(connect) => v4::Packet::Connect(v4::Connect {
            protocol: Protocol::V4,
            keep_alive: connect.keep_alive,
            client_id: connect.client_id,
            clean_session: connect.clean,
            last_will: None,
            login: login(connect.username.as_ref(), connect.password.as_ref())
                .map(|(username, password)| v4::Login { username, password }),
        }),
        Outgoing::Subscribe { filter, qos } => {
            let qos = match qos {
                Qos::AtMostOnce => QoS3::AtMostOnce,
                Qos::AtLeastOnce => QoS3::AtLeastOnce,
                Qos::ExactlyOnce => QoS3::ExactlyOnce,
            };
            let mut subscribe = v4::Subscribe::new(filter, qos);
            subscribe.pkid = SUBSCRIBE_ID;
            v4::Packet::Subscribe(subscribe)
        }
        Outgoing::PubAck(id) => v4::Packet::PubAck(v4::PubAck::new(id)),
        Outgoing::PubRec(id) => v4::Packet::PubRec(v4::PubRec::new(id)),
        Outgoing::PubComp(id) => v4::Packet::PubComp(v4::PubComp::new(id)),
        Outgoing::Ping => v4::Packet::PingReq,
        Outgoing::Disconnect => v4::Packet::Disconnect,
    }
}

fn outgoing_5(packet: Outgoing) -> v5::Packet {
    match packet {
        Outgoing::Connect(connect) => {
            let properties = v5::ConnectProperties {
                // For ever, as MQTT 3.1.1 has it.
                session_expiry_interval: (!connect.clean).then_some(u32::MAX),
                receive_maximum: Some(connect.receive_maximum),
                ..v5::ConnectProperties::new()
            };
            let login = login(connect.username.as_ref(), connect.password.as_ref())
                .map(|(username, password)| v5::Login { username, password });
            let connect = v5::Connect {
                keep_alive: connect.keep_alive,
                client_id: connect.client_id,
                clean_start: connect.clean,
                properties: Some(properties),
            };
            v5::Packet::Connect(connect, None, login)
        }
        Outgoing::Subscribe { filter, qos } => {
            let qos = match qos {
                Qos::AtMostOnce => QoS5::AtMostOnce,
                Qos::AtLeastOnce => QoS5::AtLeastOnce,
                Qos::ExactlyOnce => QoS5::ExactlyOnce,
            };
            let mut filter = v5::Filter::new(filter, qos);
            filter.retain_forward_rule = v5::RetainForwardRule::OnNewSubscribe;
            let mut subscribe = v5::Subscribe::new(filter, None);
            subscribe.pkid = SUBSCRIBE_ID;
            v5::Packet::Subscribe(subscribe)
        }
        Outgoing::PubAck(id) => v5::Packet::PubAck(v5::PubAck::new(id, None)),
        Outgoing::PubRec(id) => v5::Packet::PubRec(v5::PubRec::new(id, None)),
        Outgoing::PubComp(id) => v5::Packet::PubComp(v5::PubComp::new(id, None)),
        Outgoing::Ping => v5::Packet::PingReq(v5::PingReq),
        Outgoing::Disconnect => {
            v5::Packet::Disconnect(v5::Disconnect::new(v5::DisconnectReasonCode::NormalDisconnection))
        }
    }
}

fn login(username: Option<&Secret>, password: Option<&Secret>) -> Option<(String, String)> {
    let text = |secret: Option<&Secret>| secret.map(|secret| secret.expose().to_owned()).unwrap_or_default();
    (username.is_some() || password.is_some()).then(|| (text(username), text(password)))
}
