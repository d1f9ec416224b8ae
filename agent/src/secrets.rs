//! Secrets in texts and values that others may see: the configuration as it is shown, archives for support, logs, outputs
//! of checks. What looks like one is replaced by [`HIDDEN`]; what is set and what is not can still be told.

use std::borrow::Cow;

use serde_json::Value;

/// Text shown in place of secrets.
pub(crate) const HIDDEN: &str = "hidden";

/// Parts of names whose values are secrets, in lower case and without separators.
const SECRET_WORDS: [&str; 12] = [
    "token",
    "secret",
    "password",
    "passwd",
    "passphrase",
    "encrypt",
    "credential",
    "authorization",
    "cookie",
    "apikey",
    "accesskey",
    "privatekey",
];

/// The same for whole names: as parts of others they are too common.
const SECRET_NAMES: [&str; 6] = ["auth", "pass", "pin", "pwd", "sig", "signature"];

/// Fields of checks whose values may hold any secret, under any name.
const OPAQUE: [&str; 1] = ["body"];

/// Fields of checks and watches that are command lines. Any word behind the program may be a secret.
const COMMANDS: [&str; 4] = ["args", "handler", "script", "scriptargs"];

/// Fields of checks that are addresses, with or without a path.
const ADDRESSES: [&str; 4] = ["grpc", "h2ping", "tcp", "udp"];

/// Headers that hold no secrets. All others of a check may.
const HARMLESS_HEADERS: [&str; 8] = [
    "accept",
    "acceptencoding",
    "cachecontrol",
    "connection",
    "contenttype",
    "host",
    "origin",
    "useragent",
];

/// `X-Api_Key` as `xapikey`.
fn folded(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

/// Does the value of something with this name stay between us?
fn is_secret(name: &str) -> bool {
    let name = folded(name);
    // `key` alone is too common a word: only where a name ends with it.
    name.ends_with("key")
        || SECRET_NAMES.contains(&&*name)
        || SECRET_WORDS.iter().any(|word| name.contains(word))
}

/// Hides the secrets in a value, wherever they are in it.
pub(crate) fn hide(value: &mut Value) {
    match value {
        Value::String(shown) => {
            if let Cow::Owned(clean) = text(shown) {
                *shown = clean;
            }
        }
        Value::Array(items) => hide_list(items),
        Value::Object(fields) => {
            for (name, value) in fields {
                match folded(name).as_str() {
                    "header" | "headers" => hide_headers(value),
                    field if COMMANDS.contains(&field) => hide_arguments(value),
                    field if ADDRESSES.contains(&field) => hide_address(value),
                    field if is_secret(name) || OPAQUE.contains(&field) => hide_all(value),
                    _ => hide(value),
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// A list may be a command line, where a flag's value is the next word.
fn hide_list(items: &mut [Value]) {
    let mut follows = false;
    for item in items {
        let is_flag = |word: &str| {
            word.starts_with('-') && !word.contains('=') && (is_secret(word) || word == "-u")
        };
        let next = item.as_str().is_some_and(is_flag);
        if follows && !next {
            hide_all(item);
        } else {
            hide(item);
        }
        follows = next;
    }
}

/// Hides all of a command line but its program.
fn hide_arguments(value: &mut Value) {
    match value {
        Value::String(line) => *line = command(line),
        Value::Array(words) => {
            let mut words = words.iter_mut();
            if let Some(program) = words.next() {
                hide_arguments(program);
            }
            words.for_each(hide_all);
        }
        _ => hide(value),
    }
}

fn hide_address(value: &mut Value) {
    match value {
        Value::String(shown) => *shown = address(shown).into_owned(),
        _ => hide(value),
    }
}

fn hide_headers(value: &mut Value) {
    let Value::Object(headers) = value else { return hide(value) };
    for (name, value) in headers {
        if HARMLESS_HEADERS.contains(&folded(name).as_str()) {
            hide(value);
        } else {
            hide_all(value);
        }
    }
}

/// Hides every text in a value. An empty one says that nothing is set.
fn hide_all(value: &mut Value) {
    match value {
        Value::String(shown) if !shown.is_empty() => HIDDEN.clone_into(shown),
        Value::Array(items) => items.iter_mut().for_each(hide_all),
        Value::Object(fields) => fields.values_mut().for_each(hide_all),
        Value::String(_) | Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// A command line as others may see it: its program. What a shell runs first may be the setting of a variable.
pub(crate) fn command(line: &str) -> String {
    match line.trim().split_once(char::is_whitespace) {
        None => text(line).into_owned(),
        Some((program, _)) => format!("{} {HIDDEN}", text(program)),
    }
}

/// An address of a check without its secrets: whatever comes before an `@`, and those of [`text`].
pub(crate) fn address(shown: &str) -> Cow<'_, str> {
    match user(shown) {
        Some(user) => Cow::Owned(text(&format!("{HIDDEN}{}", &shown[user.len()..])).into_owned()),
        None => text(shown),
    }
}

/// The output of a check without the secrets of its `target`, wherever they are shown.
pub(crate) fn output(shown: String, target: &str) -> String {
    let clean = address(target);
    if clean == target {
        return shown;
    }
    let mut shown = shown.replace(target, &clean);
    if let Some(user) = user(target) {
        shown = shown.replace(&format!("{user}@"), &format!("{HIDDEN}@"));
    }
    text(&shown).into_owned()
}

/// User, and password, before the host of an address without a scheme.
fn user(address: &str) -> Option<&str> {
    let place = &address[..address.find('/').unwrap_or(address.len())];
    place.rfind('@').map(|end| &address[..end]).filter(|user| !user.is_empty())
}

/// A text without users and passwords in URLs, and without what is written behind the name of a secret: `token=x`,
/// `Authorization: Bearer x`.
pub(crate) fn text(shown: &str) -> Cow<'_, str> {
    let mut clean = Cow::Borrowed(shown);
    let mut from = 0;
    while let Some((begin, end)) = next_secret(&clean, from) {
        clean.to_mut().replace_range(begin..end, HIDDEN);
        from = begin + HIDDEN.len();
    }
    clean
}

/// Range of the next secret in a text.
fn next_secret(text: &str, from: usize) -> Option<(usize, usize)> {
    let user = url_user(text, from);
    let named = named(text, from);
    match (user, named) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// User and password of a URL: between `//` and the last `@` before the path. Services take a token for either.
fn url_user(text: &str, from: usize) -> Option<(usize, usize)> {
    let mut at = from;
    while let Some(begin) = text[at..].find("//").map(|found| at + found + 2) {
        let rest = &text[begin..];
        let end = rest.find(|c: char| "/?#".contains(c) || c.is_whitespace() || c == '"');
        let place = &rest[..end.unwrap_or(rest.len())];
        if let Some(end) = place.rfind('@').filter(|end| *end > 0 && place[..*end] != *HIDDEN) {
            return Some((begin, begin + end));
        }
        at = begin;
    }
    None
}

/// Range after `name=` or `name:` where the name is a secret's.
fn named(text: &str, from: usize) -> Option<(usize, usize)> {
    let mut at = from;
    while let Some(sign) = text[at..].find(['=', ':']).map(|found| at + found) {
        at = sign + 1;
        let before = text[..sign].trim_end_matches(['"', '\'', ' ']);
        let is_part = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let name_begin = before
            .rfind(|c| !is_part(c))
            .map_or(0, |last| last + before[last..].chars().next().map_or(1, char::len_utf8));
        let name = &before[name_begin..];
        if name.is_empty() || !is_secret(name) {
            continue;
        }
        let behind = &text[at..];
        let begin = at + (behind.len() - behind.trim_start_matches(['"', '\'', ' ']).len());
        // A header's value has several words; any other one ends with the first.
        let is_header = text[sign..].starts_with(':');
        let ends = |c: char| match c {
            '"' | '\'' | '\n' | '\r' => true,
            '&' | ';' | ',' | '#' => !is_header,
            c => c.is_whitespace() && !is_header,
        };
        let end = text[begin..].find(ends).map_or(text.len(), |found| begin + found);
        if begin < end && &text[begin..end] != HIDDEN {
            return Some((begin, end));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn texts_lose_their_secrets_and_nothing_else() {
        let rows = [
            ("http://user:pass@host:80/x", "http://hidden@host:80/x"),
            ("http://token@host/x", "http://hidden@host/x"),
            ("http://token:@host/x", "http://hidden@host/x"),
            ("http://token:x-oauth-basic@host/x", "http://hidden@host/x"),
            ("a http://u:p@h and ftp://v:q@i", "a http://hidden@h and ftp://hidden@i"),
            ("https://u:p@ss@host", "https://hidden@host"),
            (
                "http://host/?sig=abc&pass=abc&bypass=1",
                "http://host/?sig=hidden&pass=hidden&bypass=1",
            ),
            ("http://host/?token=abc&x=1", "http://host/?token=hidden&x=1"),
            ("http://host/?x=1&api_key=abc#f", "http://host/?x=1&api_key=hidden#f"),
            (
                "provider=aws secret_access_key=abc/+= region=x",
                "provider=aws secret_access_key=hidden region=x",
            ),
            ("Authorization: Bearer abc def", "Authorization: hidden"),
            ("curl -H 'X-Vault-Token: abc' http://h", "curl -H 'X-Vault-Token: hidden' http://h"),
            ("{\"password\": \"a b\"}", "{\"password\": \"hidden\"}"),
            ("--password=x", "--password=hidden"),
            ("password:", "password:"),
            ("http://host:80/a@b", "http://host:80/a@b"),
            ("http://h/monkey=1", "http://h/monkey=hidden"),
            ("mail@host", "mail@host"),
            ("time: 12:30", "time: 12:30"),
            ("\u{e4}=\u{f6} token=\u{fc}\u{e4} z", "\u{e4}=\u{f6} token=hidden z"),
            ("", ""),
        ];
        for (shown, clean) in rows {
            assert_eq!(text(shown), clean);
            assert_eq!(text(clean), clean, "twice");
        }
    }

    #[test]
    fn values_lose_theirs_wherever_they_are() {
        let mut value = json!({
            "Token": "abc",
            "encrypt": "abc",
            "ACLToken": "",
            "KVMaxValueSize": 7,
            "EnableKey": true,
            "acl": {"tokens": {"agent": "abc", "default": "abc"}},
            "Services": [{
                "name": "web", "token": "abc", "meta": {"db_password": "abc", "zone": "a"},
                "check": {
                    "http": "http://u:abc@h/?x=1",
                    "header": {"Authorization": ["Basic abc"], "X-Own": ["abc"], "Host": ["web"]},
                    "body": "{\"pin\": \"abc\"}",
                    "args": ["curl", "-u", "u:abc", "--token", "abc", "--password=abc", "http://h"],
                    "tcp": "abc@h:1", "GRPC": "u:abc@h:1/svc", "udp": "h:1", "h2ping": "abc@[::1]:2",
                },
                "checks": [{"ScriptArgs": ["/bin/sh", "-c", "check abc"]}, {"script": "check -p abc"}],
            }],
            "RetryJoinWAN": ["x", "--token", "abc", "-u", "u:abc"],
            "RetryJoinLAN": ["10.0.0.1", "provider=x client_secret=abc"],
        });
        hide(&mut value);
        let shown = value.to_string();
        assert!(!shown.contains("abc"), "{shown}");
        let service = &value["Services"][0];
        assert_eq!(service["name"], "web");
        assert_eq!(service["meta"], json!({"db_password": "hidden", "zone": "a"}));
        assert_eq!(service["check"]["http"], "http://hidden@h/?x=1");
        assert_eq!(service["check"]["tcp"], "hidden@h:1");
        assert_eq!(service["check"]["GRPC"], "hidden@h:1/svc");
        assert_eq!(
            (&service["check"]["udp"], &service["check"]["h2ping"]),
            (&json!("h:1"), &json!("hidden@[::1]:2"))
        );
        assert_eq!(service["checks"][0]["ScriptArgs"], json!(["/bin/sh", "hidden", "hidden"]));
        assert_eq!(service["checks"][1]["script"], "check hidden");
        assert_eq!(service["check"]["header"]["Host"], json!(["web"]));
        assert_eq!(service["check"]["args"][0], "curl");
        assert_eq!(value["ACLToken"], "");
        assert_eq!((&value["KVMaxValueSize"], &value["EnableKey"]), (&json!(7), &json!(true)));
        assert_eq!(value["RetryJoinLAN"], json!(["10.0.0.1", "provider=x client_secret=hidden"]));
    }

    #[test]
    fn outputs_lose_the_secrets_of_their_target() {
        for (target, shown, clean) in [
            ("h:1", "TCP connect h:1: Success", "TCP connect h:1: Success"),
            ("mail:1", "mail@h: refused", "mail@h: refused"),
            ("abc@h:1", "TCP connect abc@h:1: Success", "TCP connect hidden@h:1: Success"),
            (
                "abc@h:1",
                "dial tcp: lookup abc@h: no such host",
                "dial tcp: lookup hidden@h: no such host",
            ),
            (
                "u:abc@h:1/svc",
                "gRPC check u:abc@h:1/svc: success",
                "gRPC check hidden@h:1/svc: success",
            ),
            ("h:1/?token=abc", "check h:1/?token=abc", "check h:1/?token=hidden"),
        ] {
            assert_eq!(output(shown.to_owned(), target), clean, "{target}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_ends(shown in "[a-z:/@=&\"' ä?]{0,40}(token[=:]|//)?[a-z:/@=&\"' ä?]{0,40}") {
            let clean = text(&shown).into_owned();
            let again = text(&clean).into_owned();
            proptest::prop_assert!(again.len() <= clean.len() + HIDDEN.len());
        }
    }
}
