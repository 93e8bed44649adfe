//! A cache as a whole.

use super::*;

const MEBIBYTE: usize = 1024 * 1024;

/// Both clocks at this millisecond.
fn at(ms: u64) -> Now {
    Now { unix_ms: ms, monotonic_us: ms * 1000 }
}

fn response(fields: &[(&str, &str)]) -> Fields {
    let mut made = Fields::default();
    fields.iter().for_each(|(name, value)| made.push(name, value.as_bytes()));
    made
}

fn cache(bytes_max: usize, object_bytes_max: usize) -> Arc<Cache> {
    let cache = Arc::new(Cache::default());
    cache.limit(bytes_max, object_bytes_max);
    cache
}

fn label<'a>(key: &'a [u8], tags: &'a [String]) -> Label<'a> {
    Label {
        key,
        note: b"note",
        ttl_ms: 1000,
        tags,
        body_bytes_max: usize::MAX,
        without: &[],
        since: Cache::begun(),
    }
}

fn keep(cache: &Arc<Cache>, key: &[u8], body: &[u8], tags: &[String]) {
    let fields = response(&[("Connection", "x"), ("A", "1")]);
    let mut capture = cache.capture((200, &fields), label(key, tags), at(0)).unwrap();
    capture.write(body);
    capture.end();
}

#[test]
fn a_response_is_there_when_it_has_ended_and_until_its_time_is_up() {
    let cache = cache(MEBIBYTE, MEBIBYTE);
    let fields = response(&[("Transfer-Encoding", "chunked"), ("A", "1"), ("a", "2")]);
    let mut capture = cache.capture((203, &fields), label(b"k", &[]), at(500)).unwrap();
    capture.write(b"he");
    capture.write(b"llo");
    assert!(cache.lookup(b"k", at(500)).is_none());
    capture.end();

    let stored = cache.lookup(b"k", at(600)).unwrap();
    assert_eq!(
        (stored.status, &**stored.body().unwrap(), &*stored.note),
        (203, &b"hello"[..], &b"note"[..])
    );
    assert_eq!((stored.age_ms(at(600)), stored.ttl_ms(at(600))), (100, 900));
    assert_eq!(stored.fields.joined("a", b", ").unwrap(), &b"1, 2"[..]);
    assert_eq!(stored.fields.len(), 2, "what frames a message belongs to one connection");
    assert!(cache.lookup(b"k", at(1500)).is_none());
    assert_eq!(&**stored.body().unwrap(), b"hello", "who has it keeps it");
    assert_eq!(cache.usage(), (0, 5), "and is charged for it");
    drop(stored);
    assert_eq!(cache.usage(), (0, 0));
}

/// Many large responses on their way must not take more memory than those that have arrived.
#[test]
fn what_is_on_its_way_is_bounded_as_well() {
    let cache = cache(4 * MEBIBYTE, MEBIBYTE);
    let fields = response(&[("content-length", "500000")]);
    let mut captures: Vec<_> = (0..10_u8)
        .map(|key| cache.capture((200, &fields), label(&[key], &[]), at(0)).unwrap())
        .collect();

    for capture in &mut captures {
        capture.write(&[0; 1000]);
        assert!(cache.usage().1 <= MEBIBYTE, "{:?}", cache.usage());
    }
    for mut capture in captures {
        capture.write(&[0; 499_000]);
        capture.end();
    }

    // Two had room, and when they were done others could have had it.
    assert_eq!(cache.usage().0, 2);
    let usage = cache.usage().1;
    assert!((1_000_000..1_010_000).contains(&usage), "{usage}");
    let long = response(&[("content-length", "1048577")]);
    assert!(cache.capture((200, &long), label(b"k", &[]), at(0)).is_none());
    let mut endless = cache.capture((200, &response(&[])), label(b"k", &[]), at(0)).unwrap();
    for _ in 0..20 {
        endless.write(&[0; 100_000]);
    }
    endless.end();
    assert_eq!(cache.usage().0, 2);
}

#[test]
fn a_tag_removes_what_was_stored_with_it_before() {
    let cache = cache(MEBIBYTE, MEBIBYTE);
    let (a, b) = ("a".to_owned(), "b".to_owned());
    keep(&cache, b"1", b"", &[a.clone(), b.clone()]);
    keep(&cache, b"2", b"", std::slice::from_ref(&b));
    keep(&cache, b"3", b"", &[]);
    let fields = response(&[]);
    let tags = [a.clone()];
    let late = cache.capture((200, &fields), label(b"4", &tags), at(0)).unwrap();

    assert_eq!(cache.remove_tagged("a"), 2, "one of them on its way");
    late.end();
    keep(&cache, b"5", b"", &[a]);

    let there = |key: &[u8]| cache.lookup(key, at(0)).is_some();
    let found = [b"1", b"2", b"3", b"4", b"5"].map(|key| there(key));
    assert_eq!(found, [false, true, true, false, true]);
    assert_eq!(cache.remove_tagged("none"), 0);
    assert_eq!(cache.remove_tagged("b"), 1);
}

#[test]
fn a_refresh_takes_fields_over_but_those_about_the_body() {
    let cache = cache(MEBIBYTE, MEBIBYTE);
    let old = response(&[("Content-Encoding", "gzip"), ("A", "1"), ("B", "1")]);
    let mut capture = cache.capture((200, &old), label(b"k", &[]), at(0)).unwrap();
    capture.write(b"body");
    capture.end();
    let new = response(&[("content-encoding", "br"), ("a", "2"), ("a", "3"), ("c", "4")]);

    let found = cache.lookup(b"k", at(900)).unwrap();
    assert!(cache.refresh(b"k", &found, &new, (b"new", 1000), at(900)).unwrap().1);
    assert!(!cache.refresh(b"none", &found, &new, (b"", 1000), at(900)).unwrap().1);

    let stored = cache.lookup(b"k", at(1800)).unwrap();
    let value = |name| {
        let value = stored.fields.joined(name, b",").unwrap_or_default();
        String::from_utf8(value.into_owned()).unwrap()
    };
    assert_eq!(["content-encoding", "a", "b", "c"].map(value), ["gzip", "2,3", "1", "4"]);
    assert_eq!((&**stored.body().unwrap(), &*stored.note), (&b"body"[..], &b"new"[..]));
}

/// Who reads slowly keeps bodies in memory that the store has forgotten.
#[test]
fn what_is_forgotten_and_still_read_is_charged_until_it_is_not() {
    let cache = cache(4_000_000, 1_000_000);
    let body = vec![0; 900_000];
    let mut readers: Vec<_> = (0..8_u8)
        .map(|key| {
            keep(&cache, &[key], &body, &[]);
            cache.lookup(&[key], at(0))
        })
        .collect();

    // Four have room in the store, and one outside; what came then was not kept.
    assert_eq!((cache.usage().0, readers.iter().flatten().count()), (4, 5));
    assert!((4_500_000..4_510_000).contains(&cache.usage().1), "{:?}", cache.usage());
    readers.clear();
    assert!((3_600_000..3_610_000).contains(&cache.usage().1), "{:?}", cache.usage());
    // There is room again for whatever the store likes better, which may be what it has.
    assert!((8..40).any(|key: u8| {
        keep(&cache, &[key], &body, &[]);
        cache.lookup(&[key], at(0)).is_some()
    }));
    cache.limit(0, 0);
    assert_eq!(cache.usage(), (0, 0));
}

/// A response that is on its way when its URL changes says what was true before, under whatever key
/// it will be kept, and whether anybody has said so or not.
#[test]
fn what_was_asked_for_before_a_removal_is_not_kept_after() {
    let cache = cache(MEBIBYTE, MEBIBYTE);
    let fields = response(&[]);
    let tags = ["tag".to_owned()];
    let variant = b"http://h/\nvariant\n";
    let capture = |key: &'static [u8], tags: &[String], since| {
        cache.capture((200, &fields), Label { since, ..label(key, tags) }, at(0))
    };
    let removals: [&dyn Fn() -> bool; 3] = [
        &|| cache.remove(b"http://h/\nother\n", at(0)),
        &|| cache.remove_if(|key| key.starts_with(b"http://h/")) > 0,
        &|| cache.remove_tagged("tag") > 0,
    ];
    for remove in removals {
        let before = Cache::begun();
        let mut coming = capture(variant, &tags, before).unwrap();
        coming.publish();

        assert!(remove());

        coming.end();
        assert!(cache.lookup(variant, at(0)).is_none());
        assert!(capture(variant, &tags, before).is_none());
        capture(variant, &tags, Cache::begun()).unwrap().end();
        assert!(cache.lookup(variant, at(0)).is_some(), "what is asked for now is kept");
    }
    let before = Cache::begun();
    cache.remove(b"http://other/\n", at(0));
    assert!(capture(variant, &[], before).is_some(), "another URL");
}
