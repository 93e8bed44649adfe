//! Request targets: never a panic; normalizing is idempotent and leaves no dot segment.

#![no_main]

use libfuzzer_sys::fuzz_target;
use zproxy_fuzz::http::parse::is_host;
use zproxy_fuzz::route::path::normalize;

fuzz_target!(|bytes: &[u8]| {
    let _ = is_host(bytes);
    let Ok(target) = std::str::from_utf8(bytes) else { return };
    let Ok(normal) = normalize(target) else { return };
    let path = normal.split_once('?').map_or(&*normal, |(path, _)| path);
    assert!(path.split('/').all(|segment| segment != "." && segment != ".."), "{path}");
    let again = normalize(&normal).expect("what is normal is valid");
    assert_eq!(again, normal);
});
