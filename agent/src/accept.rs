//! Which form of an answer a client prefers: one body, or a stream of events.
//!
//! `Accept` lists types with weights (RFC 9110, 12.5.1). A stream is endless, and clients that list it as one of many
//! do not expect that: it is sent only to those that name it and put nothing before it.

/// The type of event streams.
const EVENTS: &str = "text/event-stream";

/// Do these `Accept` headers put a stream of events before one body of JSON?
///
/// The stream must be named: `*/*` and `text/*` ask for what is usual. It must weigh more than JSON, or as much and be
/// named first.
pub(crate) fn prefers_events<'a>(headers: impl Iterator<Item = &'a [u8]>) -> bool {
    let mut events = None;
    // Of the ranges that cover JSON the most specific one tells its weight.
    let mut json: Option<(u8, Choice)> = None;
    let mut position = 0;
    for header in headers {
        for part in String::from_utf8_lossy(header).split(',') {
            let Some((range, weight)) = range(part) else { continue };
            let choice = Choice { weight, position };
            position += 1;
            if range == EVENTS {
                events.get_or_insert(choice);
                continue;
            }
            let detail = match range.as_str() {
                "application/json" => 2,
                "application/*" => 1,
                "*/*" => 0,
                _ => continue,
            };
            if json.is_none_or(|(known, _)| detail > known) {
                json = Some((detail, choice));
            }
        }
    }
    match (events, json) {
        (Some(events), _) if events.weight == 0 => false,
        (Some(_), None) => true,
        // A wildcard beside it is what many clients add to all they ask for.
        (Some(events), Some((detail, json))) if detail < 2 => events.weight >= json.weight,
        (Some(events), Some((_, json))) => events.is_before(json),
        (None, _) => false,
    }
}

/// Preference of a client for one of the types that it lists.
#[derive(Clone, Copy)]
struct Choice {
    /// In thousandths.
    weight: u16,
    position: usize,
}

impl Choice {
    fn is_before(self, other: Choice) -> bool {
        self.weight > other.weight
            || (self.weight == other.weight && self.position < other.position)
    }
}

/// A media range in lower case and its weight; `None` for one that is empty.
fn range(part: &str) -> Option<(String, u16)> {
    let mut pieces = part.split(';').map(str::trim);
    let name = pieces.next().filter(|name| !name.is_empty())?.to_ascii_lowercase();
    let weight = pieces.find_map(|piece| {
        let (key, value) = piece.split_once('=')?;
        key.trim().eq_ignore_ascii_case("q").then(|| thousandths(value.trim()))
    });
    Some((name, weight.unwrap_or(1000)))
}

/// A weight as thousandths. One that is not a number between 0 and 1 counts as 1, as if it were not there.
fn thousandths(text: &str) -> u16 {
    match text.parse::<f32>() {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between 0 and 1000"
        )]
        Ok(weight) if (0.0..=1.0).contains(&weight) => (weight * 1000.0).round() as u16,
        _ => 1000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_sent_to_those_who_prefer_it() {
        let rows = [
            ("text/event-stream", true),
            ("TEXT/Event-Stream", true),
            ("text/event-stream;q=0.1", true),
            ("text/event-stream; q=0", false),
            ("text/event-stream; q=0.0, */*", false),
            ("application/json, text/event-stream;q=0.1", false),
            ("text/event-stream;q=0.1, application/json", false),
            ("application/json, text/event-stream", false),
            ("text/event-stream, application/json", true),
            ("application/json;q=0.5, text/event-stream", true),
            ("application/json; charset=utf-8; q=0.5 , text/event-stream;q=0.6", true),
            ("text/event-stream, */*", true),
            ("text/event-stream, */*;q=0.1", true),
            ("*/*, text/event-stream", true),
            ("*/*, text/event-stream;q=0.5", false),
            ("*/*;q=0.1, text/event-stream;q=0.5, application/json", false),
            ("application/*;q=0.9, text/event-stream;q=0.5", false),
            ("text/html, application/xml;q=0.9, text/event-stream;q=0.8", true),
            ("*/*", false),
            ("text/*", false),
            ("application/json", false),
            ("", false),
            (",,;q=1,", false),
            ("text/event-stream;q=abc", true),
            ("text/event-stream;level=1;Q=0.000", false),
        ];
        for (header, expected) in rows {
            assert_eq!(prefers_events([header.as_bytes()].into_iter()), expected, "{header}");
        }
        let lines = [b"application/json".as_slice(), b"text/event-stream"];
        assert!(!prefers_events(lines.into_iter()));
        assert!(prefers_events(lines.into_iter().rev()));
        assert!(!prefers_events(std::iter::empty()));
    }

    proptest::proptest! {
        #[test]
        fn what_is_refused_or_not_named_is_never_sent(
            header in "((application/json|text/event-stream|[*]/[*]|text/[*])(; ?q=[01](\\.[0-9]{0,3})?)?,? ?){0,5}"
        ) {
            let named = header.to_lowercase().contains(EVENTS);
            proptest::prop_assert!(named || !prefers_events([header.as_bytes()].into_iter()));
        }
    }
}
