//! What the broker may send again, and what it is to be sent: which message is acknowledged when, and on which connection.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};

use super::wire::{Outgoing, Publish};
use crate::plan::mqtt::Qos;

/// One message of QoS 1 or 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token {
    packet_id: u16,
    serial: u64,
}

/// A message that the broker may send again.
#[derive(Debug)]
struct Known {
    serial: u64,
    /// Of topic and payload: a packet identifier alone may have been given to another message.
    fingerprint: u64,
    qos: Qos,
    is_settled: bool,
    /// The connection that brought it last: on no other may it be acknowledged.
    connection: u64,
}

impl Known {
    fn ack(&self, packet_id: u16) -> Outgoing {
        if self.qos == Qos::ExactlyOnce { Outgoing::PubRec(packet_id) } else { Outgoing::PubAck(packet_id) }
    }
}

/// Messages that are not done with, and packets for the broker. Both are bounded by the 65,535 packet identifiers there are.
#[derive(Debug, Default)]
pub(super) struct Acks {
    known: HashMap<u16, Known>,
    outgoing: VecDeque<Outgoing>,
    serial: u64,
    connection: u64,
    hasher: RandomState,
}

impl Acks {
    /// A connection begins; what is acknowledged on it is what it brings.
    pub(super) fn connected(&mut self, session_present: bool) {
        self.connection += 1;
        self.outgoing.clear();
        if !session_present {
            self.known.clear();
        }
    }

    /// A connection is over. How many acknowledgements could not be sent; they are when the broker sends the messages again.
    pub(super) fn disconnected(&mut self) -> usize {
        self.connection += 1;
        let is_ack = |packet: &Outgoing| matches!(packet, Outgoing::PubAck(_) | Outgoing::PubRec(_));
        self.outgoing.drain(..).filter(is_ack).count()
    }

    /// Takes note of a message of QoS 1 or 2. `None` for one that was taken in before: only one that the broker calls a repeat can
    /// be that, since it may use an identifier again for a message that is equal in everything.
    pub(super) fn arrived(&mut self, message: &Publish) -> Option<Token> {
        let packet_id = message.packet_id;
        let fingerprint = self.hasher.hash_one((&message.topic, &message.payload));
        if message.is_repeat
            && let Some(known) = self.known.get_mut(&packet_id)
            && (known.fingerprint, known.qos) == (fingerprint, message.qos)
        {
            known.connection = self.connection;
            if known.is_settled {
                self.outgoing.push_back(known.ack(packet_id));
            }
            return None;
        }
        self.serial += 1;
        let (serial, connection) = (self.serial, self.connection);
        let known = Known { serial, fingerprint, qos: message.qos, is_settled: false, connection };
        self.known.insert(packet_id, known);
        Some(Token { packet_id, serial })
    }

    /// A message is settled. One that another connection brought is acknowledged when the broker sends it again.
    pub(super) fn settled(&mut self, token: Token) {
        let Some(known) = self.known.get_mut(&token.packet_id) else { return };
        if known.serial != token.serial {
            return;
        }
        known.is_settled = true;
        if known.connection == self.connection {
            self.outgoing.push_back(known.ack(token.packet_id));
        }
    }

    /// The broker gives a QoS 2 message up: it cannot come again. One that is not known is answered all the same, since the broker
    /// asks until it is.
    pub(super) fn released(&mut self, packet_id: u16) {
        self.known.remove(&packet_id);
        self.outgoing.push_back(Outgoing::PubComp(packet_id));
    }

    /// Puts something else in line.
    pub(super) fn send(&mut self, packet: Outgoing) {
        self.outgoing.push_back(packet);
    }

    /// The next packet, which is on its way from here on: the broker may give the identifier of a QoS 1 message to another.
    pub(super) fn next(&mut self) -> Option<Outgoing> {
        let packet = self.outgoing.pop_front()?;
        if let Outgoing::PubAck(packet_id) = packet {
            self.known.remove(&packet_id);
        }
        Some(packet)
    }

    /// True when nothing is to be sent.
    pub(super) fn is_idle(&self) -> bool {
        self.outgoing.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn message(packet_id: u16, qos: Qos, payload: &'static str) -> Publish {
        Publish { topic: "t".into(), qos, packet_id, payload: Bytes::from(payload), ..Publish::default() }
    }

    fn again(packet_id: u16, qos: Qos, payload: &'static str) -> Publish {
        Publish { is_repeat: true, ..message(packet_id, qos, payload) }
    }

    fn sent(acks: &mut Acks) -> Vec<String> {
        std::iter::from_fn(|| acks.next()).map(|packet| format!("{packet:?}")).collect()
    }

    #[test]
    fn nothing_is_acknowledged_before_it_is_settled() {
        let mut acks = Acks::default();
        acks.connected(false);
        let first = acks.arrived(&message(1, Qos::AtLeastOnce, "a")).unwrap();
        let second = acks.arrived(&message(2, Qos::ExactlyOnce, "b")).unwrap();
        assert!(acks.is_idle());
        acks.settled(first);
        acks.settled(second);
        assert_eq!(sent(&mut acks), ["PubAck(1)", "PubRec(2)"]);
        acks.released(2);
        acks.released(9);
        assert_eq!(sent(&mut acks), ["PubComp(2)", "PubComp(9)"]);
        assert!(acks.known.is_empty());
    }

    #[test]
    fn what_comes_again_is_recognised_and_acknowledged_on_its_new_connection() {
        let mut acks = Acks::default();
        acks.connected(false);
        let tokens = [1, 2, 3].map(|id| acks.arrived(&message(id, Qos::AtLeastOnce, "x")).unwrap());
        acks.settled(tokens[0]);
        // Settled, and not sent.
        assert_eq!(acks.disconnected(), 1);
        acks.settled(tokens[1]);
        acks.connected(true);
        assert!(acks.is_idle(), "the broker has not sent them again yet");
        for id in [1, 2, 3] {
            assert_eq!(acks.arrived(&again(id, Qos::AtLeastOnce, "x")), None);
        }
        assert_eq!(sent(&mut acks), ["PubAck(1)", "PubAck(2)"]);
        acks.settled(tokens[2]);
        assert_eq!(sent(&mut acks), ["PubAck(3)"]);
    }

    #[test]
    fn an_identifier_may_be_another_messages() {
        let mut acks = Acks::default();
        acks.connected(false);
        let first = acks.arrived(&message(1, Qos::AtLeastOnce, "a")).unwrap();
        acks.settled(first);
        assert_eq!(sent(&mut acks), ["PubAck(1)"]);
        // The acknowledgement is on its way: the same again may be a new message.
        let second = acks.arrived(&message(1, Qos::AtLeastOnce, "a")).unwrap();
        acks.disconnected();
        acks.connected(true);
        let third = acks.arrived(&again(1, Qos::AtLeastOnce, "b")).unwrap();
        acks.settled(second);
        assert!(acks.is_idle(), "it is no longer there to be acknowledged");
        acks.settled(third);
        assert_eq!(sent(&mut acks), ["PubAck(1)"]);
    }

    #[test]
    fn a_session_that_is_gone_is_forgotten() {
        let mut acks = Acks::default();
        acks.connected(false);
        let old = acks.arrived(&message(1, Qos::ExactlyOnce, "a")).unwrap();
        acks.disconnected();
        acks.connected(false);
        acks.settled(old);
        assert!(acks.is_idle());
        assert!(acks.arrived(&again(1, Qos::ExactlyOnce, "a")).is_some());
    }

    #[test]
    fn a_new_message_that_equals_one_before_is_stored_before_it_is_acknowledged() {
        for (qos, acknowledged) in [(Qos::AtLeastOnce, "PubAck(1)"), (Qos::ExactlyOnce, "PubRec(1)")] {
            let mut acks = Acks::default();
            acks.connected(false);
            let first = acks.arrived(&message(1, qos, "a")).unwrap();
            acks.settled(first);
            acks.disconnected();
            // A broker that went back to an older session gives the identifier to another message.
            acks.connected(true);
            let second = acks.arrived(&message(1, qos, "a")).unwrap();
            assert!(acks.is_idle(), "the second is not settled");
            acks.settled(first);
            assert!(acks.is_idle(), "the first is not the second");
            acks.settled(second);
            assert_eq!(sent(&mut acks), [acknowledged]);
        }
    }

    #[test]
    fn a_qos_2_message_is_known_until_it_is_released() {
        let mut acks = Acks::default();
        acks.connected(false);
        let token = acks.arrived(&message(1, Qos::ExactlyOnce, "a")).unwrap();
        acks.settled(token);
        assert_eq!(sent(&mut acks), ["PubRec(1)"]);
        acks.disconnected();
        acks.connected(true);
        assert_eq!(acks.arrived(&again(1, Qos::ExactlyOnce, "a")), None);
        assert_eq!(sent(&mut acks), ["PubRec(1)"]);
        acks.released(1);
        assert!(acks.arrived(&message(1, Qos::ExactlyOnce, "a")).is_some());
    }
}
