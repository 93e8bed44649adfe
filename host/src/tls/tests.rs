//! What is not seen from outside: which certificate a name finds, and what a load takes over.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use tempfile::TempDir;

use super::*;
use crate::config::{HostPattern, Settings, System};

fn issue(dir: &Path, stem: &str, names: &[&str]) {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let (mut params, key) = (CertificateParams::new(names).unwrap(), KeyPair::generate().unwrap());
    params.not_after = date_time_ymd(2120, 1, 1);
    let pem = params.self_signed(&key).unwrap().pem();
    std::fs::write(dir.join(format!("{stem}.pem")), pem).unwrap();
    std::fs::write(dir.join(format!("{stem}-key.pem")), key.serialize_pem()).unwrap();
}

fn settings(config: &str) -> Settings {
    crate::config::load(config.as_bytes(), "test", &Default::default(), &System, &[]).unwrap().1
}

fn listener(dir: &Path, more: &str) -> String {
    let dir = dir.display();
    format!(
        r#"{{ "address": "127.0.0.1:0", "tls": {{ "certificates": [
            {{ "cert_path": "{dir}/a.pem", "key_path": "{dir}/a-key.pem" }}
        ] {more} }} }}"#
    )
}

#[test]
fn what_has_not_changed_is_taken_over() {
    let dir = TempDir::new().unwrap();
    issue(dir.path(), "a", &["a.test"]);
    issue(dir.path(), "ca", &["ca.test"]);
    let ca = format!(
        r#", "client_auth": "required", "client_ca_path": "{}/ca.pem""#,
        dir.path().display()
    );
    let (plain, strict) = (listener(dir.path(), ""), listener(dir.path(), &ca));
    let settings = settings(&format!(
        r#"{{ "listeners": [{plain}, {strict}, {plain}],
              "upstreams": {{ "u": {{ "servers": ["h:1"], "tls": {{ "ca_path": "{}/ca.pem" }} }} }} }}"#,
        dir.path().display()
    ));
    let load = |former| load(&settings, former, &System, SystemTime::now()).unwrap();
    let listener = |set: &TlsSet, index: usize| Arc::clone(set.listeners[index].as_ref().unwrap());
    let upstream = |set: &TlsSet| Arc::clone(set.upstreams[0].as_ref().unwrap());
    let tickets = |one: &ListenerTls| Arc::as_ptr(&one.config.ticketer).cast::<()>();

    let first = load(None);
    let same = load(Some(&first));

    assert!(same.is_of_the_same_files(&first));
    assert!(Arc::ptr_eq(&listener(&first, 0), &listener(&same, 0)));
    assert!(Arc::ptr_eq(&upstream(&first), &upstream(&same)));
    let keys = [0, 1, 2].map(|index| tickets(&listener(&first, index)));
    assert_eq!(keys[0], keys[2], "of listeners that ask the same of clients");
    assert_ne!(keys[0], keys[1], "of one that asks more");

    issue(dir.path(), "a", &["b.test"]);
    let renewed = load(Some(&same));

    assert!(!renewed.is_of_the_same_files(&same));
    assert!(!Arc::ptr_eq(&listener(&renewed, 0), &listener(&same, 0)));
    assert_eq!(tickets(&listener(&renewed, 0)), keys[0], "sessions go on");
    assert!(Arc::ptr_eq(&upstream(&renewed), &upstream(&same)));
    issue(dir.path(), "ca", &["other.test"]);
    let stricter = load(Some(&renewed));
    assert_ne!(tickets(&listener(&stricter, 1)), keys[1], "sessions of other roots do not");
    assert!(!Arc::ptr_eq(&upstream(&stricter), &upstream(&renewed)));
}

#[test]
fn a_request_is_misdirected_only_where_another_certificate_is_named() {
    let dir = TempDir::new().unwrap();
    issue(dir.path(), "a", &["a.test"]);
    let settings = settings(&format!(r#"{{ "listeners": [{}] }}"#, listener(dir.path(), "")));
    let set = load(&settings, None, &System, SystemTime::now()).unwrap();
    let made = set.listeners[0].as_ref().unwrap();
    assert_eq!(made.facts[0].sni, ["a.test"]);
    let exact = |name: &str| HostPattern::Exact(name.into());
    let key = {
        let mut files = certificate::Files { environment: &System, digests: BTreeMap::new() };
        let written = &settings.listeners[0].tls.as_ref().unwrap().certificates[0];
        certificate::load(written, &mut files, 0, &mut Vec::new()).unwrap().0
    };
    let of = |names: &[HostPattern]| (Arc::clone(&key), names.to_vec());
    let certificates = Certificates::new(vec![
        of(&[exact("a.test")]),
        of(&[exact("b.test"), HostPattern::Suffix(".b.test".into())]),
        // Of another kind, for the same name.
        of(&[exact("a.test")]),
    ]);

    for (asked, host, expected) in [
        ("a.test", "a.test", false),
        ("a.test", "A.Test", false),
        ("a.test", "c.test", false),
        ("a.test", "b.test", true),
        ("a.test", "x.b.test", true),
        ("a.test", "x.B.test.", true),
        ("a.test", "x.y.b.test", false),
        ("x.b.test", "b.test", false),
        ("x.b.test", "a.test", true),
        // It was shown the usual one, which is the one for this host.
        ("unknown.test", "a.test", false),
        ("unknown.test", "b.test", true),
    ] {
        assert_eq!(certificates.misdirects(asked, host), expected, "{host} at {asked}");
    }
}
