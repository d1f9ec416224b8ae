mod stand_in;

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use serde_json::json;

use super::keys::Key;
use super::*;

/// Time of all tests, seconds since 1970.
const NOW: i64 = 1_700_000_100;

/// A key pair of a provider.
pub(super) struct Signer {
    pair: EcdsaKeyPair,
    id: String,
}

impl Signer {
    pub(super) fn new(id: &str) -> Signer {
        let with = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let der = EcdsaKeyPair::generate_pkcs8(with, &SystemRandom::new()).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(with, der.as_ref(), &SystemRandom::new()).unwrap();
        Signer { pair, id: id.to_owned() }
    }

    pub(super) fn pem(&self) -> String {
        let mut der = b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00".to_vec();
        der.extend(self.pair.public_key().as_ref());
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(der))
    }

    pub(super) fn jwk(&self) -> Value {
        let point = self.pair.public_key().as_ref();
        let (x, y) = (URL_SAFE_NO_PAD.encode(&point[1..33]), URL_SAFE_NO_PAD.encode(&point[33..]));
        json!({"kty": "EC", "crv": "P-256", "kid": self.id, "use": "sig", "x": x, "y": y})
    }

    /// A token with this header and these bytes as its payload.
    fn sign_bytes(&self, header: &Value, payload: &[u8]) -> String {
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let message = format!("{}.{}", encode(header.to_string().as_bytes()), encode(payload));
        let signature = self.pair.sign(&SystemRandom::new(), message.as_bytes()).unwrap();
        format!("{message}.{}", encode(signature.as_ref()))
    }

    pub(super) fn sign(&self, claims: &Value) -> String {
        let header = json!({"alg": "ES256", "kid": self.id});
        self.sign_bytes(&header, claims.to_string().as_bytes())
    }
}

pub(super) fn method(kind: &str, config: &Value) -> Result<Method, String> {
    let Value::Object(fields) = config else { panic!("settings are an object") };
    Method::parse(kind, fields).map_err(|error| error.to_string())
}

/// Settings of a method with one key, and more.
fn with_key(signer: &Signer, more: &Value) -> Value {
    let mut config = json!({"JWTValidationPubKeys": [signer.pem()]});
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    config
}

fn verify(method: &Method, token: &str) -> Result<Identity, String> {
    let Method::Jwt(jwt) = method else { panic!("a method with keys") };
    let jwt::Keys::Static(keys) = &jwt.keys else { panic!("keys in the settings") };
    let now = Duration::from_secs(NOW.unsigned_abs());
    jwt.verify(token, now, keys).map_err(|refusal| refusal.to_string())
}

/// Tokens of one good provider, each with one thing that is odd.
#[test]
fn claims_count_when_they_hold() {
    let signer = Signer::new("k1");
    let config = with_key(&signer, &json!({"BoundAudiences": ["a", "b"], "BoundIssuer": "i"}));
    let method = method("jwt", &config).unwrap();
    let expired =
        "error validating claims: square/go-jose/jwt: validation failed, token is expired (exp)";
    let early =
        "error validating claims: square/go-jose/jwt: validation failed, token not valid yet (nbf)";
    let issuer = "error validating claims: square/go-jose/jwt: validation failed, invalid issuer claim (iss)";
    let audience = "error validating claims: aud claim does not match any bound audience";
    let future = "error validating claims: square/go-jose/jwt: validation field, token issued in the future (iat)";
    let timeless = "no issue time, notbefore, or expiration time encoded in token";
    let rows = [
        (json!({"iat": NOW, "exp": NOW + 600}), ""),
        (json!({"iat": NOW, "exp": NOW + 600, "aud": ["z", "b"]}), ""),
        (json!({"iat": NOW, "aud": "z"}), audience),
        (json!({"iat": NOW, "aud": ""}), audience),
        (json!({"iat": NOW, "aud": null}), audience),
        (json!({"iat": NOW, "iss": "I"}), issuer),
        (json!({"iat": NOW, "iss": null}), issuer),
        (json!({}), timeless),
        (json!({"exp": 0, "iat": 0}), timeless),
        // Leeway of clocks: 60 s.
        (json!({"exp": NOW - 59}), ""),
        (json!({"iat": NOW - 900, "exp": NOW - 60}), ""),
        (json!({"iat": NOW - 900, "exp": NOW - 61}), expired),
        (json!({"iat": NOW - 900, "exp": -5}), expired),
        (json!({"iat": NOW - 900, "exp": 1e300}), expired),
        (json!({"iat": NOW, "exp": 1_700_000_160.5}), ""),
        (json!({"nbf": NOW + 60}), ""),
        (json!({"nbf": NOW + 61}), early),
        (json!({"iat": NOW + 61, "nbf": NOW - 5, "exp": NOW + 900}), future),
        // A time that is missing follows from the others: 150 s.
        (json!({"exp": NOW + 210}), ""),
        (json!({"exp": NOW + 211}), early),
        (json!({"iat": NOW - 210}), ""),
        (json!({"iat": NOW - 211}), expired),
        (json!({"nbf": NOW - 211}), expired),
        // What is no time, no text, no list.
        (json!({"exp": "1"}), "error validating claims: `exp` is no number of seconds"),
        (json!({"iat": NOW, "iss": 7}), "error validating claims: `iss` is no text"),
        (
            json!({"iat": NOW, "aud": 7}),
            "error validating claims: `aud` is neither a text nor a list of texts",
        ),
    ];
    for (more, expected) in rows {
        let mut claims = json!({"iss": "i", "aud": "a"});
        claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let found = verify(&method, &signer.sign(&claims)).err().unwrap_or_default();
        assert_eq!(found, expected, "{more}");
    }
    let strict = self::method("jwt", &with_key(&signer, &json!({}))).unwrap();
    assert!(verify(&strict, &signer.sign(&json!({"iat": NOW}))).is_ok());
    assert_eq!(
        verify(&strict, &signer.sign(&json!({"iat": NOW, "aud": "a"}))).unwrap_err(),
        "error validating claims: audience claim found in JWT but no audiences are bound"
    );
    let tight = json!({"ClockSkewLeeway": -1, "ExpirationLeeway": "-1s", "NotBeforeLeeway": "5s"});
    let tight = self::method("jwt", &with_key(&signer, &tight)).unwrap();
    let rows = [
        (json!({"iat": NOW - 9, "exp": NOW}), ""),
        (json!({"iat": NOW - 9, "exp": NOW - 1}), expired),
        (json!({"iat": NOW + 1, "exp": NOW + 9}), early),
        (json!({"exp": NOW + 5}), ""),
        (json!({"exp": NOW + 6}), early),
        (json!({"iat": NOW - 1}), expired),
    ];
    for (claims, expected) in rows {
        let found = verify(&tight, &signer.sign(&claims)).err().unwrap_or_default();
        assert_eq!(found, expected, "{claims}");
    }
}

#[test]
fn signatures_count_when_a_key_made_them() {
    let (signer, stranger) = (Signer::new("k1"), Signer::new("k1"));
    let method = method("jwt", &with_key(&signer, &json!({}))).unwrap();
    let claims = json!({"iat": NOW});
    let payload = claims.to_string().into_bytes();
    let good = signer.sign(&claims);
    let (head, signature) = good.rsplit_once('.').unwrap();
    let unknown = "no known key successfully validated the token signature";
    let parts = "error parsing token: square/go-jose: compact JWS format must have three parts";
    let with = |header: Value| signer.sign_bytes(&header, &payload);
    let rows = [
        (good.clone(), ""),
        (format!(" {good}\n"), ""),
        (with(json!({"alg": "ES256"})), ""),
        (String::new(), "missing jwt"),
        ("abc".to_owned(), parts),
        (format!("{good}.x"), parts),
        ("a.b.c".to_owned(), "error parsing token: illegal base64 data at input byte 0"),
        (stranger.sign(&claims), unknown),
        (format!("{head}."), unknown),
        (format!("{head}.{}AAAA", &signature[..signature.len() - 4]), unknown),
        (with(json!({"alg": "none"})), unknown),
        (with(json!({"alg": "HS256"})), unknown),
        (with(json!({"alg": "RS256"})), unknown),
        (with(json!({"alg": "ES384"})), unknown),
        (with(json!({"alg": "es256"})), unknown),
        (with(json!({})), unknown),
        (with(json!({"alg": "ES256", "crit": ["exp"]})), unknown),
        (with(json!({"alg": "ES256", "b64": false, "crit": ["b64"]})), unknown),
    ];
    for (token, expected) in rows {
        assert_eq!(verify(&method, &token).err().unwrap_or_default(), expected, "{token}");
    }
    for payload in [&b"[1]"[..], b"text", b"", br#"{"iat":1700000100,"iat":1}"#] {
        let token = signer.sign_bytes(&json!({"alg": "ES256"}), payload);
        let error = verify(&method, &token).unwrap_err();
        assert!(error.starts_with("failed to unmarshal claims: "), "{error}");
    }
    let long = verify(&method, &"a".repeat(jws::TOKEN_BYTES_MAX + 1)).unwrap_err();
    assert!(long.contains("longer than"), "{long}");
    let listed = with_key(&signer, &json!({"JWTSupportedAlgs": ["RS256", "ES256"]}));
    assert!(verify(&self::method("jwt", &listed).unwrap(), &good).is_ok());
    let other = with_key(&signer, &json!({"JWTSupportedAlgs": ["RS256"]}));
    assert_eq!(verify(&self::method("jwt", &other).unwrap(), &good).unwrap_err(), unknown);
}

/// Tokens that another program has signed, with keys in all the forms in which they are written.
#[test]
fn keys_are_read_in_every_form() {
    let made: Value = serde_json::from_str(include_str!("tests/rsa.json")).unwrap();
    let config = |pem: &str| json!({"JWTValidationPubKeys": [pem], "BoundAudiences": ["muster"]});
    let by_set =
        |jwk: &Value| keys::key_set(json!({"keys": [jwk]}).to_string().as_bytes()).unwrap();
    let sets = by_set(&made["jwk"]);
    for form in ["pem", "certificate"] {
        let method = method("jwt", &config(made[form].as_str().unwrap())).unwrap();
        for (name, token) in made["tokens"].as_object().unwrap() {
            let token = token.as_str().unwrap();
            assert!(verify(&method, token).is_ok(), "{form} {name}");
            let jws = jws::Jws::parse(token).unwrap();
            assert!(jws.is_signed_by(&sets), "{name}");
            let altered = token.replacen(".eyJpc3", ".eyJpc4", 1);
            assert!(verify(&method, &altered).is_err(), "{form} {name}");
        }
    }
    let der = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
    let pair = Ed25519KeyPair::from_pkcs8(der.as_ref()).unwrap();
    let message = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(r#"{"alg":"EdDSA"}"#),
        URL_SAFE_NO_PAD.encode(json!({"iat": NOW}).to_string())
    );
    let signature = URL_SAFE_NO_PAD.encode(pair.sign(message.as_bytes()));
    let token = format!("{message}.{signature}");
    let x = URL_SAFE_NO_PAD.encode(pair.public_key().as_ref());
    let ed = by_set(&json!({"kty": "OKP", "crv": "Ed25519", "x": x}));
    assert!(jws::Jws::parse(&token).unwrap().is_signed_by(&ed));
    assert!(!jws::Jws::parse(&token).unwrap().is_signed_by(&sets));
    // What is odd in a set costs itself alone; what is secret or not for signatures is none.
    let odd = json!({"keys": [{}, 7, {"kty": "oct", "k": "AAAA"}, {"kty": "RSA", "n": "!", "e": "AQAB"},
        {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}, {"kty": "RSA", "use": "enc"}, made["jwk"]]});
    assert_eq!(keys::key_set(odd.to_string().as_bytes()).unwrap(), sets);
    for body in ["", "[]", "{\"keys\": 7}"] {
        keys::key_set(body.as_bytes()).unwrap_err();
    }
    for pem in ["", "zap", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"] {
        assert_eq!(Key::from_pem(pem), None, "{pem}");
    }
}

#[test]
fn settings_are_refused_as_in_the_reference() {
    let signer = Signer::new("k1");
    let key = |more: Value| with_key(&signer, &more);
    let one_of = "Invalid Auth Method: exactly one of 'JWTValidationPubKeys', 'JWKSURL', or 'OIDCDiscoveryURL' must be set for type \"jwt\"";
    let decoding = |lines: &[&str]| {
        format!(
            "Invalid Auth Method: error decoding config: {} error(s) decoding:\n\n* {}",
            lines.len(),
            lines.join("\n* ")
        )
    };
    let invalid = |what: &str| format!("Invalid Auth Method: {what}");
    let ca = format!(
        "{}{}",
        signer.pem(),
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    );
    let rows = [
        ("jwt", key(json!({})), String::new()),
        (
            "jwt",
            key(json!({"BoundAudiences": "a", "BoundIssuer": 7, "ClockSkewLeeway": true})),
            String::new(),
        ),
        (
            "jwt",
            key(json!({"claimmappings": [{"a": "x"}], "ExpirationLeeway": "10"})),
            String::new(),
        ),
        ("jwt", json!({}), one_of.to_owned()),
        ("jwt", key(json!({"JWKSURL": "http://x"})), one_of.to_owned()),
        ("jwt", json!({"Bogus": 1, "Abc": 2}), decoding(&["'' has invalid keys: Abc, Bogus"])),
        (
            "jwt",
            key(json!({"OIDCClientID": "x"})),
            decoding(&["'' has invalid keys: OIDCClientID"]),
        ),
        (
            "jwt",
            key(json!({"BoundIssuer": ["a"], "BoundAudiences": {"a": 1}, "JWKSURL": ["b"]})),
            decoding(&[
                "'BoundAudiences[0]' expected type 'string', got unconvertible type 'map[string]interface {}'",
                "'BoundIssuer' expected type 'string', got unconvertible type '[]interface {}'",
                "'JWKSURL' expected type 'string', got unconvertible type '[]interface {}'",
            ]),
        ),
        (
            "jwt",
            key(json!({"ClaimMappings": ["a"]})),
            decoding(&["'ClaimMappings[0]' expected a map, got 'string'"]),
        ),
        (
            "jwt",
            key(json!({"ClaimMappings": "a"})),
            decoding(&["'ClaimMappings' expected a map, got 'string'"]),
        ),
        (
            "jwt",
            key(json!({"ExpirationLeeway": "zap"})),
            decoding(&[
                "cannot parse 'ExpirationLeeway' as int: strconv.ParseInt: parsing \"zap\": invalid syntax",
            ]),
        ),
        (
            "jwt",
            key(json!({"JWTSupportedAlgs": ["HS256"]})),
            invalid("Invalid supported algorithm: HS256"),
        ),
        (
            "jwt",
            key(json!({"ClaimMappings": {"a": "x", "b": "x"}})),
            invalid("ClaimMappings contains multiple mappings for key \"x\""),
        ),
        (
            "jwt",
            key(json!({"JWKSCACert": "x"})),
            invalid("'JWKSCACert' should not be set unless 'JWKSURL' is set"),
        ),
        (
            "jwt",
            json!({"JWKSURL": "https://x", "JWKSCACert": ca}),
            invalid("error checking JWKSCACert: could not parse CA PEM value successfully"),
        ),
        (
            "jwt",
            json!({"JWTValidationPubKeys": [signer.pem(), "zap"]}),
            invalid(
                "error parsing public key JWTValidationPubKeys[1]: data does not contain any valid RSA, ECDSA, or ED25519 public keys",
            ),
        ),
        ("kubernetes", json!({}), invalid("Config.Host is required")),
        ("kubernetes", json!({"Host": "x"}), invalid("Config.CACert is required")),
        (
            "kubernetes",
            json!({"Host": "x", "CACert": "zap"}),
            invalid(
                "error parsing kubernetes ca cert: data does not contain any valid RSA or ECDSA certificates",
            ),
        ),
        ("oidc", json!({}), invalid("'OIDCDiscoveryURL' must be set for type \"oidc\"")),
        ("ldap", json!({}), invalid("Type should be one of: [jwt kubernetes oidc]")),
    ];
    for (kind, config, expected) in rows {
        assert_eq!(method(kind, &config).err().unwrap_or_default(), expected, "{config}");
    }
}

/// A method with names for claims, and an identity of it.
fn ann(signer: &Signer) -> (Method, Identity) {
    let config = json!({
        "ClaimMappings": {"name": "n", "/deep/x": "d", "num": "num", "/a~1b/0": "p", "none": "none"},
        "ListClaimMappings": {"groups": "g", "/deep/l": "l", "nolist": "nolist"},
    });
    let method = method("jwt", &with_key(signer, &config)).unwrap();
    let token = signer.sign(&json!({
        "iat": NOW, "name": "Ann", "num": -3.7, "a/b": ["z"],
        "deep": {"x": 1.5, "l": ["p", 2.5, true]}, "groups": "admin",
    }));
    let identity = verify(&method, &token).unwrap();
    (method, identity)
}

#[test]
fn rules_are_judged_for_their_method() {
    let (method, _) = ann(&Signer::new("k1"));
    let name = |what: &str| format!("Invalid Binding Rule: invalid BindName{what}");
    let selector = |what: &str| format!("invalid Binding Rule: Selector is invalid: {what}");
    let rows = [
        ("service", "web-${value.n}", "", String::new()),
        (
            "service",
            "${ value.n }-${value.d}",
            "\"admin\" in list.g and list.l is not empty",
            String::new(),
        ),
        (
            "service",
            "a",
            "value.nope == x or list.nope is empty or value is empty or n in value",
            String::new(),
        ),
        ("service", "a", "value.n matches \"^a\" and a not in value.n", String::new()),
        ("node", "n-${value.n}", "", String::new()),
        ("role", "R-${value.n}", "", String::new()),
        ("templated-policy", "builtin/node", "", String::new()),
        ("zap", "a", "", "Invalid Binding Rule: unknown BindType \"zap\"".to_owned()),
        ("service", "", "", "Invalid Binding Rule: no BindName is set".to_owned()),
        ("service", "w-${value.zap}", "", name(": 1:5: unknown variable accessed: value.zap")),
        ("service", "w-${list.g}", "", name(": 1:5: unknown variable accessed: list.g")),
        ("service", "${upper(value.n)}", "", name(": 1:3: unknown function called: upper")),
        ("service", "${value.n", "", name(": parse error: syntax error")),
        ("service", "${value.x y}", "", name(": parse error: syntax error")),
        ("service", "$${value.n}", "", name("")),
        ("service", "A${value.n}", "", name("")),
        ("service", "-a", "", name("")),
        ("role", "a b", "", name("")),
        ("templated-policy", "web", "", name("")),
        ("service", "a", "nope == x", selector("Selector \"nope\" is not valid")),
        (
            "service",
            "a",
            "list.g == a",
            selector("Invalid match operator \"Equal\" for selector \"list.g\""),
        ),
        (
            "service",
            "a",
            "value.n is empty",
            selector("Invalid match operator \"Is Empty\" for selector \"value.n\""),
        ),
        ("service", "a", "value.n.m == a", selector("Selector \"value.n.m\" is not valid")),
        (
            "service",
            "a",
            "serviceaccount.name == a",
            selector("Selector \"serviceaccount\" is not valid"),
        ),
    ];
    for (bind_type, bind_name, selector, expected) in rows {
        let rule = Rule { selector, bind_type, bind_name, template_name: "" };
        let found = validate(&rule, &method).map_err(|error| error.to_string());
        assert_eq!(found.err().unwrap_or_default(), expected, "{bind_name} {selector}");
    }
    let named = Rule { bind_type: "service", bind_name: "a", template_name: "x", selector: "" };
    assert!(validate(&named, &method).unwrap_err().0.contains("BindVars"));
}

#[test]
fn rules_bind_what_their_selectors_allow() {
    let signer = Signer::new("k1");
    let (method, identity) = ann(&signer);
    let rule =
        |bind_type, bind_name, selector| Rule { selector, bind_type, bind_name, template_name: "" };
    let rules = [
        rule("service", "web-${value.n}", ""),
        rule("service", "web-${value.n}", "value.n == Ann"),
        rule(
            "service",
            "n${value.num}-${value.p}-${value.d}",
            "\"2\" in list.l and \"true\" in list.l",
        ),
        rule("service", "never", "value.n == Bob"),
        rule("service", "never", "none in value or nolist in list"),
        rule("node", "n-${value.n}", "admin in list.g"),
        rule("role", "R-${value.n}", ""),
        rule("policy", "p", ""),
        Rule { template_name: "${value.n}", ..rule("templated-policy", "builtin/service", "") },
        // A rule that no longer fits binds nothing.
        rule("service", "never", "nope == x"),
        rule("zap", "never", ""),
    ];
    let grant = bind(&identity, rules).unwrap();
    let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let expected = Grant {
        services: set(&["n-3-z-1", "web-ann"]),
        nodes: set(&["n-ann"]),
        roles: set(&["R-Ann"]),
        policies: set(&["p"]),
        templates: [("builtin/service".to_owned(), "ann".to_owned())].into(),
    };
    assert_eq!(grant, expected);
    assert!(bind(&identity, [rule("service", "a", "value.n == Bob")]).unwrap().is_empty());
    // A claim that is missing makes no name.
    let refused = |rule| bind(&identity, [rule]).unwrap_err().to_string();
    assert_eq!(
        refused(rule("service", "sp-${value.none}", "")),
        "computed \"service\" bind name for bind target is invalid: \"sp-\""
    );
    assert!(refused(rule("service", "${value.gone}x", "")).contains("unknown variable accessed"));
    for (claim, expected) in [
        (
            json!({"name": {"a": 1}}),
            "error converting claim 'name' to string from unknown type map[string]interface {}",
        ),
        (
            json!({"groups": {"a": 1}}),
            "\"groups\" list claim could not be converted to string list",
        ),
        (
            json!({"groups": ["p", null]}),
            "value <nil> in \"groups\" list claim could not be parsed as string",
        ),
    ] {
        let mut claims = json!({"iat": NOW});
        claims.as_object_mut().unwrap().extend(claim.as_object().unwrap().clone());
        assert_eq!(verify(&method, &signer.sign(&claims)).unwrap_err(), expected);
    }
}

#[test]
fn what_clients_say_of_themselves_is_told_in_order() {
    let meta = [("pod", "p<1>"), ("a", "b\"")].map(|(a, b)| (a.to_owned(), b.to_owned())).into();
    let made = "token created via login";
    assert_eq!(
        description(made, &meta),
        "token created via login: {\"a\":\"b\\\"\",\"pod\":\"p\\u003c1\\u003e\"}"
    );
    assert_eq!(description(made, &std::collections::BTreeMap::new()), made);
}
