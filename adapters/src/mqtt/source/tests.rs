use super::*;

#[test]
fn a_subscription_covers_what_its_pattern_says() {
    for (filter, topic) in [
        ("a/b", "a/b"),
        ("a/+/c", "a/b/c"),
        ("a/#", "a"),
        ("a/#", "a/b/c"),
        ("#", "a/b"),
        ("+/+", "/b"),
        ("$share/g/a/+", "a/b"),
        ("$SYS/#", "anything"),
    ] {
        assert!(covers(filter, topic), "{filter} {topic}");
    }
    for (filter, topic) in
        [("a/b", "a"), ("a", "a/b"), ("a/+", "a"), ("a/+", "a/b/c"), ("$share/g/a", "b"), ("é/+", "è/x")]
    {
        assert!(!covers(filter, topic), "{filter} {topic}");
    }
}
