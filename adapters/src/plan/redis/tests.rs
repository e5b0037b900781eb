use evoke_api::credentials::Secret;
use evoke_connect::address::Address;
use evoke_connect::tls::TlsPlan;
use serde_json::{Value, json};

use super::*;
use crate::plan::tests;

fn planned(spec: Value) -> (Option<RedisPlan>, Vec<String>) {
    tests::planned_text("redis", ("es", "orders"), (spec, json!({ "redisHost": "127.0.0.1" })), plan)
}

fn sound(spec: Value) -> RedisPlan {
    tests::sound(planned(spec))
}

#[test]
fn by_default_a_stream_of_the_events_name() {
    let plan = sound(json!({ "redisPassword": "" }));
    assert_eq!(plan.server.addresses, [Address { host: "127.0.0.1".into(), port: 6379 }]);
    assert_eq!(
        (plan.server.mode.clone(), plan.server.db, plan.server.password.clone(), plan.server.tls.clone()),
        (Mode::Node, 0, None, None)
    );
    let claim = Some((Duration::from_secs(60), Duration::from_secs(30)));
    let (key, group) = ("orders".into(), "ns.es.orders".into());
    assert_eq!(plan.read, Read::Stream { key, group, start_at: StartAt::Latest, claim });
}

#[test]
fn openfunctions_fields_mean_what_dapr_makes_of_them() {
    let plan = sound(json!({
        "redisHost": "s1:26379, s2", "failover": true, "sentinelMasterName": "mymaster", "enableTLS": true, "redisDB": 3,
        "redisUsername": "evoke", "redisPasswordFrom": { "env": "KNOWN" },
        "redeliverInterval": "15s", "processingTimeout": "60000",
        "dialTimeout": "1s", "readTimeout": "2s", "redisMinRetryInterval": "1s", "redisMaxRetryInterval": "9000",
    }));
    let addresses: Vec<_> = plan.server.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["s1:26379", "s2:26379"]);
    assert_eq!(plan.server.mode, Mode::Sentinel { master: "mymaster".into() });
    assert_eq!(plan.server.tls, Some(TlsPlan::default()));
    assert_eq!((plan.server.db, plan.server.password.clone()), (3, Some(Secret::new("hunter2"))));
    let Read::Stream { claim, .. } = plan.read else { panic!("{plan:?}") };
    assert_eq!(claim, Some((Duration::from_secs(60), Duration::from_secs(15))));
    assert_eq!(
        (plan.server.dial_timeout, plan.server.response_timeout),
        (Duration::from_secs(1), Duration::from_secs(2))
    );
    assert_eq!((plan.retry_first, plan.retry_longest), (Duration::from_secs(1), Duration::from_secs(9)));
    assert!(!format!("{plan:?}").contains("hunter2"));
}

#[test]
fn the_first_wait_is_no_longer_than_the_longest() {
    let plan = sound(json!({ "redisMinRetryInterval": "1m", "redisMaxRetryInterval": "10s" }));
    assert_eq!((plan.retry_first, plan.retry_longest), (Duration::from_secs(10), Duration::from_secs(10)));
}

#[test]
fn openfunctions_own_intervals_are_taken_as_near_as_can_be() {
    let (plan, _) =
        planned(json!({ "redisMinRetryInterval": "8ms", "redisMaxRetryInterval": "512ms", "readTimeout": "-1" }));
    let plan = plan.unwrap();
    assert_eq!((plan.retry_first, plan.retry_longest), (Duration::from_millis(100), Duration::from_millis(512)));
    assert_eq!(plan.server.response_timeout, RESPONSE_TIMEOUT);
    let (plan, _) = planned(json!({ "redisType": "cluster", "redisDB": 1 }));
    assert_eq!(plan.unwrap().server.db, 0);
    let (plan, _) = planned(json!({ "list": "jobs", "processingTimeout": "0" }));
    let dead_after = PROCESSING_TIMEOUT;
    assert_eq!(plan.unwrap().read, Read::List { key: "jobs".into(), dead_after });
}

#[test]
fn zero_switches_claiming_off() {
    for field in ["processingTimeout", "redeliverInterval"] {
        let plan = sound(json!({ field: "0" }));
        assert!(matches!(plan.read, Read::Stream { claim: None, .. }), "{plan:?}");
    }
}

#[test]
fn channels_patterns_and_lists() {
    let read = |spec| sound(spec).read;
    assert_eq!(read(json!({ "channel": "news" })), Read::Channel { name: "news".into(), is_pattern: false });
    assert_eq!(read(json!({ "channel": "news.*" })), Read::Channel { name: "news.*".into(), is_pattern: true });
    let dead_after = Duration::from_secs(90);
    let spec = json!({ "list": "jobs", "processingTimeout": "90s" });
    assert_eq!(read(spec), Read::List { key: "jobs".into(), dead_after });
}

#[test]
fn what_is_wrong_is_said_where_it_is() {
    for (spec, expected) in [
        (json!({ "redisHost": "redis://h:1" }), "redisHost: \"redis://h:1\" is no address; write host:port"),
        (json!({ "redisHost": " , " }), "redisHost: no server is named"),
        (json!({ "redisHost": "a:1,b:2" }), "redisHost: several addresses for one server; set `failover: true`"),
        (json!({ "redisHost": "h:99999" }), "redisHost: \"h:99999\" is no address"),
        (
            json!({ "redisHost": "redis://:s3c,ret@cache:6379" }),
            "redisHost: a user or a password is no part of an address; write host:port alone, the user as redisUsername \
             and the password as redisPasswordFrom",
        ),
        (json!({ "contentType": "application/json\n" }), "contentType: \"application/json\\n\" is no media type"),
        (json!({ "redisMinRetryInterval": "often" }), "redisMinRetryInterval: \"often\" is no duration"),
        (json!({ "failover": true }), "sentinelMasterName: `failover` needs the master's name"),
        (json!({ "redisType": "ring" }), "redisType: \"ring\" is no kind of Redis; write `node` or `cluster`"),
        (json!({ "redisDB": -1 }), "redisDB: -1 is no database"),
        (json!({ "redisUsername": "u" }), "redisUsername: a user needs a password"),
        (json!({ "redisPasswordFrom": { "env": "NO" } }), "redisPasswordFrom: there is no such secret"),
        (
            json!({ "redisPassword": "p", "sasl": { "password": "q" } }),
            "redisPassword: `redisPassword` is set here and in `sasl`; keep one",
        ),
        (json!({ "stream": "s", "list": "l" }), "list: an event reads one thing, and `stream` is set as well"),
        (json!({ "stream": "" }), "stream: `stream` is empty"),
        (json!({ "consumerGroup": "" }), "consumerGroup: `consumerGroup` is empty"),
        (json!({ "processingTimeout": "soon" }), "processingTimeout: \"soon\" is no duration"),
        (json!({ "dialTimeout": "5" }), "dialTimeout: 5 ms is too short"),
    ] {
        let (plan, problems) = planned(spec);
        assert_eq!(plan, None);
        let expected = format!("spec.redis.orders.{expected}");
        assert!(problems.len() == 1 && problems[0].starts_with(&expected), "{expected}: {problems:?}");
    }
}

#[test]
fn what_has_no_effect_is_named() {
    for (spec, expected) in [
        (json!({ "poolSize": 20 }), "poolSize: not acted on: a source has two connections and no pool"),
        (json!({ "poolTimeout": "5s" }), "poolTimeout: not acted on: a source has two connections and no pool"),
        (json!({ "maxConnAge": "1h" }), "maxConnAge: not acted on: a source has two connections and no pool"),
        (json!({ "minIdleConns": 2 }), "minIdleConns: not acted on: a source has two connections and no pool"),
        (
            json!({ "idleCheckFrequency": "1m" }),
            "idleCheckFrequency: not acted on: a source has two connections and no pool",
        ),
        (json!({ "idleTimeout": "5m" }), "idleTimeout: not acted on: a source has two connections and no pool"),
        (json!({ "writeTimeout": "3s" }), "writeTimeout: not acted on: readTimeout limits the whole exchange"),
        (json!({ "redisMaxRetries": 3 }), "redisMaxRetries: not acted on: evoke tries for ever"),
        (json!({ "redisType": "cluster", "redisDB": 1 }), "redisDB: 1 is ignored: a cluster has only database 0"),
        (
            json!({ "list": "l", "processingTimeout": "0" }),
            "processingTimeout: a list cannot do without it: 60s is taken; write a time",
        ),
        (json!({ "redisMinRetryInterval": "10ms" }), "redisMinRetryInterval: 10ms is too short: 100ms is taken"),
        (json!({ "redisMinRetryInterval": "-1" }), "redisMinRetryInterval: -1 cannot be had here: 200ms is taken"),
        (json!({ "redisMaxRetryInterval": "-1" }), "redisMaxRetryInterval: -1 cannot be had here: 30s is taken"),
        (json!({ "readTimeout": "-1" }), "readTimeout: -1 cannot be had here: 5s is taken; write a time"),
        (json!({ "readTimeout": "0" }), "readTimeout: evoke does not wait for ever: 5s is taken; write a time"),
        (json!({ "sentinelMasterName": "m" }), "sentinelMasterName: ignored, since `failover` is not true"),
        (json!({ "channel": "c", "startAt": "earliest" }), "startAt: `startAt` has no effect on a channel"),
        (json!({ "list": "l", "consumerGroup": "g" }), "consumerGroup: `consumerGroup` has no effect on a list"),
        (
            json!({ "sasl": { "mechanism": "SCRAM-SHA-256", "username": "u", "password": "p" } }),
            "sasl: Redis has no SASL: only the user and the password are used",
        ),
    ] {
        let (plan, problems) = planned(spec);
        assert!(plan.is_some());
        let expected = format!("spec.redis.orders.{expected}");
        assert!(problems.len() == 1 && problems[0].starts_with(&expected), "{expected}: {problems:?}");
    }
}
