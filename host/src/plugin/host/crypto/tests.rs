//! Keys of every kind: what they accept, and what becomes no key.

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa;
use aws_lc_rs::signature::KeyPair;
use aws_lc_rs::signature::RsaEncoding;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
    RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384,
    RSA_PSS_SHA512, RsaKeyPair,
};
use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::*;

/// Self-signed, on P-256, and the signature of `signed` under its key, both made by `openssl`.
const CERTIFICATE: &str = "\
-----BEGIN CERTIFICATE-----
MIIBdDCCARugAwIBAgIUR4Mh7ZsHyM+k1e1qnxfkFag2higwCgYIKoZIzj0EAwIw
DzENMAsGA1UEAwwEdGVzdDAgFw0yNjExMjExMzM4NDhaGA8yMTI2MTAyODEzMzg0
OFowDzENMAsGA1UEAwwEdGVzdDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABCjS
q4luSSAasxgS96wHz6kAp4RgMN3KEb99E920NDTperpwJwIa6sRa6Lzyl0PR9gq6
QG0VP6KEsIgs8CcDt0qjUzBRMB0GA1UdDgQWBBQsl2fCs2iEe5MTTT8fYYbVFbQC
lTAfBgNVHSMEGDAWgBQsl2fCs2iEe5MTTT8fYYbVFbQClTAPBgNVHRMBAf8EBTAD
AQH/MAoGCCqGSM49BAMCA0cAMEQCIA89r9FjY7AWxNleSaMtZdf8gUEj0d5oatws
F/WKA2EFAiA6lLzYCKc311S90Vcn6kd9p1Da1Lb0NjtJJV/YONqJow==
-----END CERTIFICATE-----
";
const CERTIFIED: &str = "3e8aa3bee24bf811161e35bac7d9e77cf2930577e9afc77c397de97bb301543bfe79cf15c59bcde7fd18e10f8b6ccb23813015cc7b8a42b0f1e3ab3b69a4cd44";

/// RSA, 1024 bits.
const SHORT: &str = "\
-----BEGIN PUBLIC KEY-----
MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDVPjIgwUqVMtPmPu/QNljAV803
ax9g25V51L0p5oDDB/pnqY8ybQe63VnVrGIqDj+ZyYXtQM3nhsYYLPoZfB6Vv18G
SMB/MNOtyVA3Mzu7Zond5rdRRhefH4pqv2SgLh21InjlNL6wjcL8H2MedStMmJqS
/HbBICONFWSXknBGzQIDAQAB
-----END PUBLIC KEY-----
";

const DATA: &[u8] = b"header.payload";

/// A key pair as others see it: a signature of [`DATA`], and the public key in its formats.
struct Other {
    algorithm: &'static str,
    signature: Vec<u8>,
    pem: String,
    jwk: Value,
}

fn base64url(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = BASE64_STANDARD.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

fn others() -> Vec<Other> {
    let random = SystemRandom::new();
    let rsa = RsaKeyPair::generate(rsa::KeySize::Rsa2048).unwrap();
    let public = rsa.public_key();
    let encodings: [(_, &'static dyn RsaEncoding); 6] = [
        ("RS256", &RSA_PKCS1_SHA256),
        ("RS384", &RSA_PKCS1_SHA384),
        ("RS512", &RSA_PKCS1_SHA512),
        ("PS256", &RSA_PSS_SHA256),
        ("PS384", &RSA_PSS_SHA384),
        ("PS512", &RSA_PSS_SHA512),
    ];
    let mut others: Vec<_> = encodings
        .into_iter()
        .map(|(algorithm, encoding)| {
            let mut signature = vec![0; rsa.public_modulus_len()];
            rsa.sign(encoding, &random, DATA, &mut signature).unwrap();
            let (n, e) = (public.modulus(), public.exponent());
            Other {
                algorithm,
                signature,
                pem: pem("PUBLIC KEY", public.as_der().unwrap().as_ref()),
                jwk: json!({
                    "kty": "RSA",
                    "n": base64url(n.big_endian_without_leading_zero()),
                    "e": base64url(e.big_endian_without_leading_zero()),
                }),
            }
        })
        .collect();
    // The encoding of RSA alone, without a word about the algorithm.
    others[0].pem = pem("RSA PUBLIC KEY", public.as_ref());
    for (algorithm, curve, signing) in [
        ("ES256", "P-256", &ECDSA_P256_SHA256_FIXED_SIGNING),
        ("ES384", "P-384", &ECDSA_P384_SHA384_FIXED_SIGNING),
    ] {
        let pair = EcdsaKeyPair::generate(signing).unwrap();
        let point = pair.public_key().as_ref();
        let (x, y) = point[1..].split_at(point.len() / 2);
        others.push(Other {
            algorithm,
            signature: pair.sign(&random, DATA).unwrap().as_ref().to_vec(),
            pem: pem("PUBLIC KEY", pair.public_key().as_der().unwrap().as_ref()),
            jwk: json!({ "kty": "EC", "crv": curve, "x": base64url(x), "y": base64url(y) }),
        });
    }
    let pair = Ed25519KeyPair::generate().unwrap();
    others.push(Other {
        algorithm: "EdDSA",
        signature: pair.sign(DATA).as_ref().to_vec(),
        pem: pem("PUBLIC KEY", pair.public_key().as_der().unwrap().as_ref()),
        jwk: json!({ "kty": "OKP", "crv": "Ed25519", "x": base64url(pair.public_key()) }),
    });
    others
}

/// Whatever a public key is given as, it accepts its own signatures under its own algorithm alone.
#[test]
fn a_public_key_verifies_what_its_owner_signed_under_its_algorithm_only() {
    let others = others();
    let mut keys = Keys::default();
    for other in &others {
        let jwk = other.jwk.to_string();
        for (format, material) in [("pem", &other.pem), ("jwk", &jwk)] {
            let key = keys.add(other.algorithm, format, material.as_bytes());
            let key = key.unwrap_or_else(|error| panic!("{} {format}: {error}", other.algorithm));
            let verify =
                |data: &[u8], signature: &[u8]| keys.find(key).unwrap().verify(data, signature);

            assert!(verify(DATA, &other.signature), "{} {format}", other.algorithm);
            assert!(!verify(b"other", &other.signature));
            assert!(!verify(DATA, &other.signature[1..]));
            assert!(!verify(DATA, b""));
            for stranger in others.iter().filter(|one| one.algorithm != other.algorithm) {
                assert!(!verify(DATA, &stranger.signature), "{}", other.algorithm);
            }
            assert_eq!(keys.find(key).unwrap().sign(DATA), None);
        }
    }
}

/// RFC 8725 §2.1: with the public key as an HMAC secret, everybody could sign.
#[test]
fn a_public_key_never_becomes_a_secret() {
    let mut keys = Keys::default();
    for other in others() {
        for hs in ["HS256", "HS384", "HS512"] {
            let jwk = other.jwk.to_string();
            for (format, material) in [("secret", &other.pem), ("pem", &other.pem), ("jwk", &jwk)] {
                assert!(keys.add(hs, format, material.as_bytes()).is_err(), "{hs} {format}");
            }
        }
        assert!(keys.add(other.algorithm, "secret", b"secret").is_err());
    }
}

#[test]
fn a_certificate_stands_for_its_key() {
    let mut keys = Keys::default();
    let key = keys.add("ES256", "pem", CERTIFICATE.as_bytes()).unwrap();
    let signature: Vec<u8> = (0..CERTIFIED.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&CERTIFIED[at..at + 2], 16).unwrap())
        .collect();

    assert!(keys.find(key).unwrap().verify(b"signed", &signature));
    assert!(!keys.find(key).unwrap().verify(b"forged", &signature));
    for algorithm in ["ES384", "RS256", "EdDSA"] {
        assert!(keys.add(algorithm, "pem", CERTIFICATE.as_bytes()).is_err(), "{algorithm}");
    }
    let cut = CERTIFICATE.replacen("MIIB", "MIIA", 1);
    assert!(keys.add("ES256", "pem", cut.as_bytes()).is_err());
}

/// RFC 4231 §4.3, test case 2.
#[test]
fn a_shared_secret_signs_and_verifies() {
    let mut keys = Keys::default();
    let data = b"what do ya want for nothing?";
    let key = keys.add("HS256", "secret", b"Jefe").unwrap();
    let jwk = json!({ "kty": "oct", "k": base64url("Jefe"), "use": "sig" }).to_string();
    let same = keys.add("HS256", "jwk", jwk.as_bytes()).unwrap();
    let other = keys.add("HS512", "secret", b"Jefe").unwrap();

    let signature = keys.find(key).unwrap().sign(data).unwrap();
    let text: String = signature.iter().map(|byte| format!("{byte:02x}")).collect();

    assert_eq!(text, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    assert!(keys.find(same).unwrap().verify(data, &signature));
    assert!(!keys.find(other).unwrap().verify(data, &signature), "bound to its algorithm");
    assert!(keys.find(other + 1).is_none(), "no such key");
}

#[test]
fn refusals_say_what_is_wrong_and_never_the_key() {
    let mut keys = Keys::default();
    let mut refusal = |algorithm: &str, format: &str, material: &str| {
        keys.add(algorithm, format, material.as_bytes()).unwrap_err()
    };

    assert_eq!(
        refusal("none", "secret", "hidden"),
        "algorithm `none` is not known; known are HS256, HS384, HS512, RS256, RS384, RS512, PS256, \
         PS384, PS512, ES256, ES384, EdDSA"
    );
    assert_eq!(
        refusal("HS256", "pem", "hidden"),
        "format `pem` does not go with HS256, which takes a shared secret; `secret` and `jwk` do"
    );
    assert_eq!(
        refusal("ES256", "secret", "hidden"),
        "format `secret` does not go with ES256, which takes a public key on the curve P-256; \
         `pem` and `jwk` do"
    );
    assert_eq!(
        refusal("ES256", "der", "hidden"),
        "format `der` is not known; known are secret, pem, jwk"
    );
    assert_eq!(refusal("HS256", "secret", ""), "the secret is empty");
    assert_eq!(
        refusal("RS256", "pem", "hidden"),
        "this is no PEM file: it has no whole block `-----BEGIN …`"
    );
    assert_eq!(
        refusal("RS256", "pem", &pem("EC PRIVATE KEY", b"hidden")),
        "this is a private key; give the public one"
    );
    assert_eq!(refusal("RS256", "pem", SHORT), "this is no RSA public key of 2048 to 8192 bits");
    assert_eq!(
        refusal("RS256", "jwk", "{\"kty\": hidden"),
        "this is no JWK: it is not JSON in line 1, column 9"
    );
    assert_eq!(
        refusal("RS256", "jwk", "{}"),
        "this is no JWK: a key is missing or of the wrong type"
    );
    for (jwk, wanted) in [
        (json!({ "kty": "oct" }), "RS256 takes a key with `kty` `RSA`, not `oct`"),
        (
            json!({ "kty": "RSA", "alg": "RS512" }),
            "the key says that it is for `RS512`, not for RS256",
        ),
        (json!({ "kty": "RSA", "use": "enc" }), "the key says that it is not for signatures"),
        (
            json!({ "kty": "RSA", "key_ops": ["encrypt"] }),
            "the key says that it is not for signatures",
        ),
        (json!({ "kty": "RSA", "d": "x" }), "this is a private key; give the public one"),
        (json!({ "kty": "RSA" }), "the key has no `n`"),
        (
            json!({ "kty": "RSA", "n": "a+b", "e": "AQAB" }),
            "`n` of the key is not base64url without padding",
        ),
        (
            json!({ "kty": "RSA", "n": "AQAB", "e": "AQAB" }),
            "this is no RSA public key of 2048 to 8192 bits",
        ),
    ] {
        assert_eq!(refusal("RS256", "jwk", &jwk.to_string()), wanted);
    }
    assert_eq!(
        refusal("ES256", "jwk", r#"{"kty": "EC", "crv": "P-384"}"#),
        "the key is on the curve `P-384`, not on P-256"
    );
    let nowhere =
        json!({ "kty": "EC", "crv": "P-256", "x": base64url([1; 32]), "y": base64url([2; 32]) });
    assert_eq!(
        refusal("ES256", "jwk", &nowhere.to_string()),
        "this is no public key on the curve P-256"
    );
}

/// Identity providers publish keys for encryption, of kinds to come and with private extensions beside
/// those that count.
#[test]
fn a_set_gives_those_keys_that_can_check_signatures() {
    let others = others();
    let mut published: Vec<Value> = others.iter().map(|other| other.jwk.clone()).collect();
    for (index, (key, other)) in published.iter_mut().zip(&others).enumerate() {
        key["kid"] = json!(format!("key-{index}"));
        // Of RSA keys that do not say, RS256 is what is meant.
        if index > 0 {
            key["alg"] = json!(other.algorithm);
        }
        key["x5c"] = json!(["MII"]);
    }
    published[7].as_object_mut().unwrap().remove("alg");
    published.extend([
        json!({ "kty": "RSA", "use": "enc", "n": "AQAB", "e": "AQAB" }),
        json!({ "kty": "AKP", "alg": "ML-DSA-44", "pub": "x" }),
        json!({ "kty": "oct", "k": "c2VjcmV0" }),
        json!("no key"),
    ]);
    let mut keys = Keys::default();

    let taken = keys.add_set(json!({ "keys": published }).to_string().as_bytes()).unwrap();

    assert_eq!(taken.len(), others.len());
    for ((index, key), other) in taken.iter().enumerate().zip(&others) {
        assert_eq!(key.id.as_deref(), Some(&*format!("key-{index}")));
        assert_eq!(key.algorithm, other.algorithm);
        assert!(keys.find(key.key).unwrap().verify(DATA, &other.signature), "{}", key.algorithm);
    }
    assert!(keys.add_set(b"[]").is_err());
    assert!(keys.add_set(b"{\"keys\": 5}").is_err());
    assert!(keys.add_set(b"{\"keys\": []}").unwrap().is_empty());
}

#[test]
fn keys_are_bounded() {
    let mut keys = Keys::default();
    let taken = (0..1000).take_while(|_| keys.add("HS256", "secret", b"k").is_ok()).count();

    assert_eq!(taken, KEYS_MAX);
    let set = br#"{"keys": [{"kty": "oct", "alg": "HS256", "k": "a2V5"}]}"#;
    assert_eq!(keys.add_set(set).err().unwrap(), "an instance has at most 256 keys");
}

/// A handle that was forgotten stays forgotten, or a plugin that mixes them up would accept what
/// another key has signed.
#[test]
fn handles_are_never_given_out_again() {
    let mut keys = Keys::default();
    let mut last = None;
    for _ in 0..1000 {
        let handle = keys.add("HS256", "secret", b"k").unwrap();
        assert!(last < Some(handle));
        last = Some(handle);
        keys.forget(handle);
        assert!(keys.find(handle).is_none());
    }
    keys.forget(5);
    assert!(keys.keys.is_empty());
}

#[test]
fn long_material_is_refused_before_it_is_read() {
    let mut keys = Keys::default();

    let refusal = keys.add("HS256", "secret", &[0; MATERIAL_BYTES_MAX + 1]).unwrap_err();
    assert_eq!(refusal, "the key is longer than 16384 bytes");
    let refusal = keys.add_set(&[b' '; SET_BYTES_MAX + 1]).err().unwrap();
    assert_eq!(refusal, "the set is longer than 1048576 bytes");
}
