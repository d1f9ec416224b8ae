//! Paging of lists, our addition to the API: `?limit=` rows after the one named by `?after=`.
//!
//! Rows have an order and a name that is unique in it (a key, a node, `node/instance`). The answer
//! names its last row in the header `X-Muster-After` if there are more: the next request sends it
//! back. A row that goes meanwhile does not disturb: what follows is what sorts behind the name.

use super::error::Error;
use super::params::Params;

/// Most rows that one page may hold.
const LIMIT_MAX: usize = 100_000;

/// Which part of a list is wanted; all of it by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Page {
    limit: Option<usize>,
    after: Option<String>,
}

impl Page {
    /// Reads `?limit=` and `?after=`.
    pub(crate) fn of(params: &Params) -> Result<Page, Error> {
        let limit = match params.get("limit").filter(|text| !text.is_empty()) {
            None => None,
            Some(text) => Some(
                text.parse::<usize>()
                    .ok()
                    .filter(|limit| (1..=LIMIT_MAX).contains(limit))
                    .ok_or_else(|| Error::invalid(format!("Invalid limit value {text:?}")))?,
            ),
        };
        let after = params.get("after").filter(|text| !text.is_empty()).map(str::to_owned);
        Ok(Page { limit, after })
    }

    /// The wanted part of `rows`, which are sorted by `name`, and the name to go on after.
    pub(crate) fn cut<'a, T>(
        &self,
        rows: &'a [T],
        name: impl Fn(&T) -> String,
    ) -> (&'a [T], Option<String>) {
        let start = match &self.after {
            None => 0,
            Some(after) => rows.partition_point(|row| name(row) <= *after),
        };
        let rest = &rows[start..];
        match self.limit {
            Some(limit) if rest.len() > limit => (&rest[..limit], Some(name(&rest[limit - 1]))),
            _ => (rest, None),
        }
    }
}

/// Refuses pages of event streams: an event has no header that says that there is more.
pub(crate) fn check_whole(params: &Params) -> Result<(), Error> {
    match params.get("limit").filter(|text| !text.is_empty()) {
        None => Ok(()),
        Some(limit) => Err(Error::invalid(format!(
            "Cannot stream pages: an event cannot say that rows are left out by ?limit={limit}, leave it out."
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_follow_each_other_without_gap_or_overlap() {
        let rows: Vec<String> = ["a", "b", "c", "d", "e"].map(String::from).to_vec();
        let mut page = Page { limit: Some(2), after: None };
        let mut seen = Vec::new();
        loop {
            let (part, next) = page.cut(&rows, Clone::clone);
            seen.extend_from_slice(part);
            let Some(next) = next else { break };
            page.after = Some(next);
        }
        assert_eq!(seen, rows);
        page.after = Some("bb".into());
        assert_eq!(page.cut(&rows, Clone::clone).0, &rows[2..4]);
    }

    #[test]
    fn pages_are_not_streamed() {
        for (query, expected) in [("limit=5", false), ("limit=", true), ("after=a", true)] {
            let answer = check_whole(&Params::parse(query).unwrap());
            assert_eq!(answer.is_ok(), expected, "{query}");
        }
    }

    #[test]
    fn limits_are_positive_numbers() {
        for (query, expected) in
            [("limit=5", true), ("limit=0", false), ("limit=x", false), ("limit=", true)]
        {
            assert_eq!(Page::of(&Params::parse(query).unwrap()).is_ok(), expected, "{query}");
        }
    }
}
