//! Suggestions for misspelled names: keys, flags, commands, types of watches.

/// Names that are further away than this are no suggestion.
const DISTANCE_MAX: usize = 2;

/// The known name that was probably meant: at most [`DISTANCE_MAX`] letters away, and fewer than its length.
pub(crate) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let known = known.into_iter().map(|known| (distance(name, known), known));
    let near = known.filter(|(far, known)| *far <= DISTANCE_MAX && *far < known.len());
    near.min().map(|(_, known)| known)
}

/// Levenshtein distance; names are short, so the quadratic form will do.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let next = if x == *y { corner } else { 1 + corner.min(row[j]).min(row[j + 1]) };
            corner = std::mem::replace(&mut row[j + 1], next);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_suggested() {
        let known = ["service", "services", "key", "up"];
        let rows =
            [("servce", Some("service")), ("kye", Some("key")), ("entirely", None), ("x", None)];
        for (name, expected) in rows {
            assert_eq!(nearest(name, known), expected, "{name}");
        }
        assert_eq!(
            (distance("kitten", "sitting"), distance("", "abc"), distance("a", "a")),
            (3, 3, 0)
        );
    }
}
