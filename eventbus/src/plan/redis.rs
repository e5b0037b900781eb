//! A validated `redis`.

use std::time::Duration;

use evoke_api::events::{OnFull, RedisBus};
use evoke_connect::address::Address;
use evoke_connect::fields::Fields;
use evoke_connect::redis::server::{DIAL_TIMEOUT, Mode, RESPONSE_TIMEOUT, ServerPlan, ServerSpec, Words};

/// How many partitions topics are made with, where the manifest does not say.
const PARTITIONS: u16 = 8;
const PARTITIONS_MOST: u16 = 256;
/// A smaller bus would be full all the time.
const BYTES_LEAST: u64 = 1 << 20;

const WORDS: Words = Words {
    address: "address",
    username: "username",
    password: "password",
    add_password: "add `password` or `passwordFrom`",
    db: "db",
    tls: "`tls: {}`",
    cluster: "cluster: true",
    sentinel: "`sentinelMasterName`",
    wrong_type: "give the bus a database of its own, or delete the key",
    version: "5",
};

/// `redis`, with its defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisPlan {
    /// Where the servers are, and how to log in.
    pub server: ServerPlan,
    /// How many replicas must have an event before it counts as stored.
    pub replicas: u32,
    /// How many partitions topics are made with.
    pub partitions: u16,
    /// How long events are kept that some subscription still needs; for ever when absent.
    pub max_age: Option<Duration>,
    /// How much all streams may hold; as much as the server's memory when absent.
    pub max_bytes: Option<u64>,
    /// What happens when that is reached.
    pub on_full: OnFull,
}

impl RedisPlan {
    /// One server without a password, for tests and benches.
    pub fn at(host: &str, port: u16) -> Self {
        let address = Address { host: host.to_owned(), port };
        let server = ServerPlan {
            addresses: vec![address],
            mode: Mode::Node,
            username: None,
            password: None,
            db: 0,
            tls: None,
            dial_timeout: DIAL_TIMEOUT,
            response_timeout: RESPONSE_TIMEOUT,
            words: &WORDS,
        };
        Self { server, replicas: 0, partitions: PARTITIONS, max_age: None, max_bytes: None, on_full: OnFull::Block }
    }
}

/// Plans `redis`. `None` when an error was found.
pub fn plan(mut fields: Fields<'_>, spec: &RedisBus) -> Option<RedisPlan> {
    let mode = mode(&mut fields, spec);
    let server = ServerSpec {
        words: &WORDS,
        addresses: &spec.address,
        username: (spec.username.as_ref(), spec.username_from.as_ref()),
        password: (spec.password.as_ref(), spec.password_from.as_ref()),
        sasl: spec.sasl.as_ref(),
        tls: spec.tls.as_ref(),
        encrypted: false,
        db: spec.db,
    };
    let server = ServerPlan::plan(&mut fields, server, mode);
    let hint = format!("choose between 1 and {PARTITIONS_MOST}");
    let partitions = super::partitions(&mut fields, spec.partitions, PARTITIONS, PARTITIONS_MOST, &hint);
    let max_age = super::max_age(&mut fields, spec.max_age.as_deref());
    let max_bytes = super::max_bytes(&mut fields, spec.max_bytes.as_deref(), BYTES_LEAST, "at least 1Mi");
    fields.is_sound().then(|| RedisPlan {
        server,
        replicas: spec.replicas.unwrap_or_default(),
        partitions,
        max_age,
        max_bytes,
        on_full: spec.on_full.unwrap_or_default(),
    })
}

fn mode(fields: &mut Fields<'_>, spec: &RedisBus) -> Mode {
    let cluster = spec.cluster == Some(true);
    match spec.sentinel_master_name.as_deref() {
        Some("") => {
            let hint = "write the name that the Sentinels watch the master under";
            fields.error("sentinelMasterName", "`sentinelMasterName` is empty", hint);
            Mode::Node
        }
        Some(_) if cluster => {
            fields.error("cluster", "a cluster has no Sentinels", "keep one of `sentinelMasterName` and `cluster`");
            Mode::Cluster
        }
        Some(master) => Mode::Sentinel { master: master.to_owned() },
        None if cluster => Mode::Cluster,
        None => Mode::Node,
    }
}

#[cfg(test)]
mod tests {
    use evoke_api::credentials::Secret;
    use evoke_connect::tls::TlsPlan;
    use serde_json::{Value, json};

    use super::*;
    use crate::plan::tests;

    fn planned(mut spec: Value) -> (Option<RedisPlan>, Vec<String>) {
        spec.as_object_mut().unwrap().entry("address").or_insert(json!("127.0.0.1"));
        let spec: RedisBus = serde_json::from_value(spec).unwrap();
        tests::planned("redis", |fields| plan(fields, &spec))
    }

    #[test]
    fn an_address_is_enough() {
        assert_eq!(planned(json!({})), (Some(RedisPlan::at("127.0.0.1", 6379)), vec![]));
    }

    #[test]
    fn every_field_has_its_place() {
        let (plan, problems) = planned(json!({
            "address": "s1, s2:1", "sentinelMasterName": "main", "username": "u", "passwordFrom": { "env": "KNOWN" }, "db": 3,
            "tls": {}, "replicas": 1, "partitions": 64, "maxAge": "72h", "maxBytes": "2Gi", "onFull": "dropOldest",
        }));
        assert_eq!(problems, Vec::<String>::new());
        let plan = plan.unwrap();
        assert!(!format!("{plan:?}").contains("hunter2"));
        let addresses: Vec<_> = plan.server.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["s1:26379", "s2:1"]);
        assert_eq!(plan.server.mode, Mode::Sentinel { master: "main".into() });
        assert_eq!((plan.server.db, plan.server.tls), (3, Some(TlsPlan::default())));
        assert_eq!(plan.server.password, Some(Secret::new("hunter2")));
        assert_eq!((plan.replicas, plan.partitions), (1, 64));
        assert_eq!((plan.max_age, plan.max_bytes), (Some(Duration::from_secs(72 * 3600)), Some(2 << 30)));
        assert_eq!(plan.on_full, OnFull::DropOldest);
    }

    #[test]
    fn what_is_wrong_is_said_where_it_is() {
        for (spec, expected) in [
            (json!({ "address": "redis://h:1" }), "address: \"redis://h:1\" is no address; write host:port"),
            (json!({ "address": "" }), "address: no server is named"),
            (json!({ "address": "a:1,b:2" }), "address: several addresses for one server; set `sentinelMasterName`"),
            (json!({ "sentinelMasterName": "" }), "sentinelMasterName: `sentinelMasterName` is empty"),
            (json!({ "sentinelMasterName": "m", "cluster": true }), "cluster: a cluster has no Sentinels"),
            (json!({ "cluster": true, "db": 1 }), "db: a cluster has only database 0"),
            (json!({ "db": -1 }), "db: -1 is no database"),
            (json!({ "username": "u" }), "username: a user needs a password"),
            (json!({ "passwordFrom": { "env": "NO" } }), "passwordFrom: there is no such secret"),
            (json!({ "password": "p", "sasl": { "password": "q" } }), "password: `password` is set here and in `sasl`"),
            (json!({ "partitions": 0 }), "partitions: 0 partitions are out of range; choose between 1 and 256"),
            (json!({ "maxAge": "0s" }), "maxAge: zero would keep nothing"),
            (json!({ "maxBytes": "1Ki" }), "maxBytes: 1024 bytes is too small; at least 1Mi"),
        ] {
            let (plan, problems) = planned(spec);
            assert_eq!(plan, None);
            let expected = format!("spec.redis.{expected}");
            assert!(problems.len() == 1 && problems[0].starts_with(&expected), "{expected}: {problems:?}");
        }
    }
}
