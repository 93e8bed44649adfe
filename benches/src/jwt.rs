//! Tokens, and how each program is told to check them on every path but `/`, by which it is known to be there.
//!
//! All check the algorithm, the signature and `exp`, as their manuals say. The tokens are made once and for all, and
//! the key that signed the second one is gone.
//!
//! Not here: who is measured with them (`scenario`).

use serde_json::{Value, json};

/// What a token is signed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signed {
    /// By a shared secret.
    Hs256,
    /// By an RSA key of 2048 bits.
    Rs256,
}

/// Long enough for HS256.
pub(crate) const SECRET: &str = "only-for-benches-0123456789abcdef-0123456789abcdef";

/// The same in base64url.
const SECRET_IN_JWK: &str = "b25seS1mb3ItYmVuY2hlcy0wMTIzNDU2Nzg5YWJjZGVmLTAxMjM0NTY3ODlhYmNkZWY";

/// A token until the year 2096, with claims as identity providers make them, as a field.
pub(crate) const HS256: &str = "Authorization: Bearer eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCIsImtpZCI6ImhzMjU2In0.eyJpc3MiOiJodHRwczovL2lkcC5iZW5jaC5leGFtcGxlIiwiYXVkIjoic2hvcC1hcGkiLCJleHAiOjQwMDAwMDAwMDAsImlhdCI6MTgwMDAwMDAwMCwianRpIjoiMDFhMjAwNjgtODNmMi03MjE0LWJjNTAtY2MwN2I3YzJlYzI1Iiwic3ViIjoidXNlci00NzExIiwic2NvcGUiOiJvcGVuaWQgcHJvZmlsZSBlbWFpbCJ9.K4s3Sl7p1Arj43xFrqhU6PJLEFtl6nR5j2XbztSyAmA";

/// The same, of which `peers/jwt.pem` is the public key.
pub(crate) const RS256: &str = "Authorization: Bearer eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCIsImtpZCI6InJzMjU2In0.eyJpc3MiOiJodHRwczovL2lkcC5iZW5jaC5leGFtcGxlIiwiYXVkIjoic2hvcC1hcGkiLCJleHAiOjQwMDAwMDAwMDAsImlhdCI6MTgwMDAwMDAwMCwianRpIjoiMDFhMjAwNjgtODNmMi03MjE0LWJjNTAtY2MwN2I3YzJlYzI1Iiwic3ViIjoidXNlci00NzExIiwic2NvcGUiOiJvcGVuaWQgcHJvZmlsZSBlbWFpbCJ9.RA70NMYbG2e-xGrCOEON0ODSwZ8ivq2TN0bM7ff0h4LxCUjboehNBAXpKJjGeHvVfBYp5LrpGN4QOcjW3yFhCd75AgJGr__ZJOb0dRFPUqUjTDgQbrYDZQ-4I3FHjdYPWLOroVg6K1IbcJZGDEb1Mt4xJ6xS6qpIaHjo2eRGSuYAqTf3j1iuVDvmp-3LYmXqgH71HZZovKhnlHWXv8u_YDNyV2WyYALgPCKfaJmFOYZoq0psDzGYHb9JgrBACjZ98hbsroH7hrEXd-SLbB3PASMzgHuc3iUSXDZCXasZ0sfO6AgnW6sSBvc-qDlvCJkNypv6SElwrRdQF71fF9yczg";

/// The modulus of that key.
const MODULUS: &str = "xJ9c2Z_HK20Tapq_9jb7zzR7Z-pharv77Yzaxdpnz9YtjcHx2WSe_BCCDpgjVJ6e2rNXl1qdzvN20XWiZv3kERYEvx2uW9f_xSBkyji1vW0jiosk4gIj8U3tS9CWQacfidXFdADRqxvpKqOuD-2qbM6ebpl17d-bcel7PEqrNQlytfGG6jFv7IE5oJ8rMxxnoSIS21ZlMQnqFq9JTepUsiCD_7bqRiNGIklk9H3gYP45-acANAetua4XRyMybtxRandPnEledNxm2huGiZ23YJrWoyYhmQNugjZZlCvc8iW__f4SMxXIdStcsfL5EPZ2RYxqMzEoMT79EaCOAePpfQ";

/// Where the distribution has nginx's modules.
pub(crate) const NGINX_MODULES: &str = "/usr/lib/nginx/modules";

impl Signed {
    fn name(self) -> &'static str {
        match self {
            Self::Hs256 => "HS256",
            Self::Rs256 => "RS256",
        }
    }

    /// Lines of HAProxy's frontend; `pem` is the path of the public key.
    pub(crate) fn haproxy(self, pem: &str) -> String {
        let key = match self {
            Self::Hs256 => SECRET,
            Self::Rs256 => pem,
        };
        let alg = self.name();
        [
            "http-request set-var(txn.bearer) http_auth_bearer".to_owned(),
            "http-request set-var(txn.alg) var(txn.bearer),jwt_header_query('$.alg')".to_owned(),
            "http-request set-var(txn.exp) var(txn.bearer),jwt_payload_query('$.exp','int')".to_owned(),
            "http-request set-var(txn.now) date()".to_owned(),
            format!("acl jwt_alg var(txn.alg) -m str {alg}"),
            format!("acl jwt_signed var(txn.bearer),jwt_verify(txn.alg,\"{key}\") 1"),
            "acl jwt_ended var(txn.exp),sub(txn.now) -m int lt 1".to_owned(),
            "http-request deny deny_status 401 if !{ path / } !jwt_alg or !{ path / } !jwt_signed or !{ path / } jwt_ended"
                .to_owned(),
        ]
        .join("\n    ")
    }

    /// What nginx has before and in `http`, and in the location; `peers` is the folder of `jwt.lua`.
    pub(crate) fn nginx(self, peers: &str) -> [String; 3] {
        let key = match self {
            Self::Hs256 => SECRET.to_owned(),
            Self::Rs256 => format!("{peers}/jwt.pem"),
        };
        let name = self.name();
        [
            ["ndk_http", "ngx_http_lua"]
                .map(|name| format!("load_module {NGINX_MODULES}/{name}_module.so;\n"))
                .concat(),
            format!(
                "lua_package_path \"{peers}/?.lua;;\";\n    init_by_lua_block {{ check = require(\"jwt\").new(\"{name}\", \"{key}\") }}"
            ),
            "access_by_lua_block { if ngx.var.uri ~= \"/\" then check() end }".to_owned(),
        ]
    }

    /// Envoy's filter.
    pub(crate) fn envoy(self) -> String {
        let filter = json!({
            "name": "envoy.filters.http.jwt_authn",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
                "providers": { "bench": {
                    "forward": true,
                    "local_jwks": { "inline_string": json!({ "keys": [self.jwk()] }).to_string() },
                } },
                "rules": [{ "match": { "path": "/" } }, {
                    "match": { "prefix": "/" },
                    "requires": { "provider_name": "bench" },
                }],
            },
        });
        format!("- {filter}")
    }

    /// The configuration of the plugin.
    pub(crate) fn zproxy(self) -> Value {
        match self {
            Self::Hs256 => json!({ "jwt_secret": SECRET }),
            Self::Rs256 => json!({ "jwks": { "keys": [self.jwk()] } }),
        }
    }

    fn jwk(self) -> Value {
        let kid = self.name().to_ascii_lowercase();
        match self {
            Self::Hs256 => json!({ "kty": "oct", "alg": "HS256", "kid": kid, "k": SECRET_IN_JWK }),
            Self::Rs256 => {
                json!({ "kty": "RSA", "alg": "RS256", "kid": kid, "n": MODULUS, "e": "AQAB" })
            }
        }
    }
}
