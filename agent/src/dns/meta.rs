//! The pairs of a node as text records, as RFC 1464 writes them.

use std::collections::BTreeMap;

use super::wire::{Data, Owner, Record};

/// The pairs of a node as text, as RFC 1464 writes them.
pub(super) fn records<'a>(
    pairs: &'a BTreeMap<String, String>,
    owner: &'a Owner,
    ttl: u32,
) -> impl Iterator<Item = Record> + 'a {
    pairs.iter().map(move |(key, value)| {
        // Keys that begin so hold text of other standards, which is not to be touched.
        let text = if key.to_lowercase().starts_with("rfc1035-") {
            value.clone()
        } else {
            format!("{}={}", quoted(key), value.replace('`', "``"))
        };
        Record { owner: owner.clone(), ttl, data: Data::txt(text.as_bytes()) }
    })
}

/// RFC 1464: what could be taken for the separator, and spaces at the ends, get a grave accent.
fn quoted(key: &str) -> String {
    let last = key.len() - key.len().min(key.trim_end_matches([' ', '\t']).len());
    let ends = key.len() - last;
    let begins = key.len() - key.trim_start_matches([' ', '\t']).len();
    let mut out = String::with_capacity(key.len());
    for (at, letter) in key.char_indices() {
        let space = (at < begins || at >= ends) && matches!(letter, ' ' | '\t');
        if space || matches!(letter, '=' | '`') {
            out.push('`');
        }
        out.push(letter);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_told_from_values() {
        let rows = [
            ("rack", "rack"),
            ("a=b", "a`=b"),
            ("a`b", "a``b"),
            (" a b ", "` a b` "),
            ("\ta", "`\ta"),
            ("  ", "` ` "),
        ];
        for (key, expected) in rows {
            assert_eq!(quoted(key), expected, "{key:?}");
        }
        let pairs = [("rfc1035-spf", "v=`1"), ("zone", "a`b")];
        let pairs = pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let data: Vec<Data> = records(&pairs, &Owner::Asked, 1).map(|it| it.data).collect();
        assert_eq!(data, [Data::txt(b"v=`1"), Data::txt(b"zone=a``b")]);
    }
}
