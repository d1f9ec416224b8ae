//! Compound keys of the catalog's maps, and their borrowed form for look-ups.
//!
//! A tuple of shared names costs no allocation of its own and, unlike names joined by a
//! separator, cannot be forged by a name that contains the separator.

use std::cmp::Ordering;
use std::ops::Bound;
use std::sync::Arc;

use equivalent::{Comparable, Equivalent};
use imbl::OrdMap;

/// (node, service or check), in look-up form.
pub(super) type Pair = (Arc<str>, Arc<str>);
/// (first, node, service or check), in look-up form.
pub(super) type Triple = (Arc<str>, Arc<str>, Arc<str>);

/// Looks up a [`Pair`].
pub(super) struct Two<'a>(pub(super) &'a str, pub(super) &'a str);
/// Looks up a [`Triple`].
pub(super) struct Three<'a>(pub(super) &'a str, pub(super) &'a str, pub(super) &'a str);

impl Equivalent<Pair> for Two<'_> {
    fn equivalent(&self, key: &Pair) -> bool {
        self.compare(key) == Ordering::Equal
    }
}

impl Comparable<Pair> for Two<'_> {
    fn compare(&self, key: &Pair) -> Ordering {
        self.0.cmp(&key.0).then_with(|| self.1.cmp(&key.1))
    }
}

impl Equivalent<Triple> for Three<'_> {
    fn equivalent(&self, key: &Triple) -> bool {
        self.compare(key) == Ordering::Equal
    }
}

impl Comparable<Triple> for Three<'_> {
    fn compare(&self, key: &Triple) -> Ordering {
        self.0.cmp(&key.0).then_with(|| self.1.cmp(&key.1)).then_with(|| self.2.cmp(&key.2))
    }
}

/// Every row whose key begins with `first`, in order.
pub(super) fn under_one<'a, V: Clone>(
    map: &'a OrdMap<Pair, V>,
    first: &'a str,
) -> impl Iterator<Item = (&'a Pair, &'a V)> + 'a {
    map.range::<_, Two<'_>>((Bound::Included(Two(first, "")), Bound::Unbounded))
        .take_while(move |(key, _)| *key.0 == *first)
}

/// Every row whose key begins with `first`, in order.
pub(super) fn under<'a, V: Clone>(
    map: &'a OrdMap<Triple, V>,
    first: &'a str,
) -> impl Iterator<Item = (&'a Triple, &'a V)> + 'a {
    map.range::<_, Three<'_>>((Bound::Included(Three(first, "", "")), Bound::Unbounded))
        .take_while(move |(key, _)| *key.0 == *first)
}

/// Every row whose key begins with `first` and `second`, in order.
pub(super) fn under_two<'a, V: Clone>(
    map: &'a OrdMap<Triple, V>,
    first: &'a str,
    second: &'a str,
) -> impl Iterator<Item = (&'a Triple, &'a V)> + 'a {
    map.range::<_, Three<'_>>((Bound::Included(Three(first, second, "")), Bound::Unbounded))
        .take_while(move |(key, _)| *key.0 == *first && *key.1 == *second)
}
