//! Configurations that are refused, and how.

use super::*;

/// The operator reads these, so each names its key, and none shows a secret.
#[test]
fn a_wrong_configuration_is_refused_by_key() {
    testing::check_signatures(|_, _, _, _| false);
    for (config, path, message) in [
        ("{}", "", "there is no key"),
        (r#"{"jwt_secret":""}"#, "/jwt_secret", "is empty"),
        (r#"{"jwt_secret":271828}"#, "/jwt_secret", "write a string"),
        (r#"{"jwt_secret":"271828","issuerz":"a"}"#, "/issuerz", "unknown field `issuerz`"),
        (
            r#"{"jwt_secret":"271828","public_key_pem":"x"}"#,
            "/public_key_pem",
            "there is `jwt_secret` already",
        ),
        (r#"{"jwks":271828}"#, "/jwks", "write a JWK set"),
        (r#"{"jwks":{}}"#, "/jwks", "it has no `keys`"),
        (r#"{"jwks":"271828"}"#, "/jwks", "it is no JSON object"),
        (r#"{"jwks":{"keys":[{"kty":"x"}]}}"#, "/jwks", "it holds no key"),
        (r#"{"jwks_url":"idp.example"}"#, "/jwks_url", "is no URL"),
        (r#"{"jwks_url":"https:///x"}"#, "/jwks_url", "is no URL"),
        (r#"{"jwks_url":"http://a/ b"}"#, "/jwks_url", "is no URL"),
        (
            r#"{"jwks_url":"http://a/","jwks_refresh_seconds":0}"#,
            "/jwks_refresh_seconds",
            "write 1 to",
        ),
        (r#"{"jwks_url":"http://a/","jwks_timeout_ms":30001}"#, "/jwks_timeout_ms", "write 1 to"),
        (
            r#"{"jwt_secret":"271828","algorithms":["none"]}"#,
            "/algorithms/0",
            "write HS256, HS384, HS512",
        ),
        (r#"{"jwt_secret":"271828","algorithms":["HS256","RS256"]}"#, "/algorithms/1", "`RS256`"),
        (r#"{"public_key_pem":"x","algorithms":["HS256"]}"#, "/algorithms/0", "write RS256"),
        (r#"{"jwks_url":"http://a/","algorithms":["HS256"]}"#, "/algorithms/0", "write RS256"),
        (r#"{"jwt_secret":"271828","algorithms":[]}"#, "/algorithms", "is empty"),
        (r#"{"jwt_secret":"271828","audience":[]}"#, "/audience", "is empty"),
        (r#"{"jwt_secret":"271828","audience":1}"#, "/audience", "write a string"),
        (r#"{"jwt_secret":"271828","token_from":{"cookie":"a b"}}"#, "/token_from/cookie", "`a b`"),
        (r#"{"jwt_secret":"271828","token_from":{"query":""}}"#, "/token_from/query", "``"),
        (r#"{"jwt_secret":"271828","leeway_seconds":"9"}"#, "/leeway_seconds", "invalid type"),
        (r#"{"jwt_secret":"271828","algorithms":["HS256",5]}"#, "/algorithms/1", "invalid type"),
        (r#"{"jwt_secret":"271828","realm":"a\"b"}"#, "/realm", "visible ASCII"),
        (
            r#"{"jwt_secret":"271828","required_scopes":["a b"]}"#,
            "/required_scopes/0",
            "`a b` is no scope",
        ),
        (
            r#"{"jwt_secret":"271828","claims_to_headers":{"a":"te"}}"#,
            "/claims_to_headers/a",
            "`te`",
        ),
        (
            r#"{"jwt_secret":"271828","claims_to_headers":{"a/b":"Proxy_Connection"}}"#,
            "/claims_to_headers/a~1b",
            "`proxy_connection`",
        ),
        (
            r#"{"jwt_secret":"271828","claims_to_headers":{"a":"x","b":"X"}}"#,
            "/claims_to_headers/b",
            "two claims go to `x`",
        ),
        (r#"{"issuers":[{"issuer":"a"}]}"#, "/issuers/0", "there is no key"),
        (
            r#"{"jwt_secret":"271828","issuers":[{"issuer":"a","jwt_secret":"271828"}]}"#,
            "/jwt_secret",
            "belongs into `issuers`",
        ),
        (
            r#"{"issuers":[{"issuer":"a","jwt_secret":"271828"},{"jwt_secret":"271828"}]}"#,
            "/issuers/1",
            "has no `issuer`",
        ),
        (
            r#"{"issuers":[{"issuer":"a","jwt_secret":"271828"},{"issuer":"a","jwt_secret":"271828"}]}"#,
            "/issuers/1/issuer",
            "is there twice",
        ),
    ] {
        let problems = testing::problems::<Jwt>(config);

        assert_eq!(problems.len(), 1, "{config}: {problems:?}");
        assert_eq!(problems[0].path, path, "{config}");
        assert!(problems[0].message.contains(message), "{config}: {problems:?}");
        assert!(!problems[0].message.contains("271828"), "{problems:?}");
        assert!(testing::load::<Jwt>(config).is_err());
    }
}

/// Every mistake at once.
#[test]
fn all_problems_are_told() {
    let config =
        r#"{"jwt_secret":"","realm":"\"","required_scopes":[""],"token_from":{"query":""}}"#;

    let paths: Vec<String> =
        testing::problems::<Jwt>(config).into_iter().map(|problem| problem.path).collect();

    assert_eq!(paths, ["/jwt_secret", "/token_from/query", "/required_scopes/0", "/realm"]);
}
