//! Fields of rows, read as servers of several releases write them.
//!
//! A catalog keeps what its writers sent: ports beyond 65535 and below 0, `null` for empty lists,
//! maps and texts. A reader that refuses such a row refuses the whole answer, so rows take all of
//! it; whether a value is of use is for whoever uses it to judge.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error, Unexpected, Visitor};

/// Reads `null` as the empty value.
pub(super) fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// Reads a list; `null` is an empty list, and an item that is `null` an empty item.
pub(super) fn list<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    let items = Option::<Vec<Option<T>>>::deserialize(deserializer)?.unwrap_or_default();
    Ok(items.into_iter().map(Option::unwrap_or_default).collect())
}

/// Reads a map; `null` is an empty map, and a value that is `null` an empty value.
pub(super) fn map<'de, D, T>(deserializer: D) -> Result<BTreeMap<String, T>, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    let fields = Option::<BTreeMap<String, Option<T>>>::deserialize(deserializer)?;
    let fields = fields.unwrap_or_default().into_iter();
    Ok(fields.map(|(name, value)| (name, value.unwrap_or_default())).collect())
}

/// Reads a whole number within the bounds of `T`: as a number, as text, or as `null` for 0.
pub(super) fn integer<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: TryFrom<i128> + Default,
{
    deserializer.deserialize_any(Integer(PhantomData))
}

/// The same, where absent and `null` differ from 0.
pub(super) fn maybe_integer<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: TryFrom<i128> + Default,
{
    struct Given<T>(T);
    impl<'de, T: TryFrom<i128> + Default> Deserialize<'de> for Given<T> {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            integer(deserializer).map(Given)
        }
    }
    Ok(Option::<Given<T>>::deserialize(deserializer)?.map(|Given(number)| number))
}

struct Integer<T>(PhantomData<T>);

impl<T: TryFrom<i128> + Default> Integer<T> {
    fn bounded<E: Error>(number: i128) -> Result<T, E> {
        let refused = || E::custom(format!("`{number}` is out of range"));
        T::try_from(number).map_err(|_| refused())
    }
}

impl<T: TryFrom<i128> + Default> Visitor<'_> for Integer<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number")
    }
    fn visit_unit<E: Error>(self) -> Result<T, E> {
        Ok(T::default())
    }
    fn visit_i64<E: Error>(self, number: i64) -> Result<T, E> {
        Self::bounded(number.into())
    }
    fn visit_u64<E: Error>(self, number: u64) -> Result<T, E> {
        Self::bounded(number.into())
    }
    fn visit_f64<E: Error>(self, number: f64) -> Result<T, E> {
        // 8080.0 and 8e3 are whole numbers in JSON, which knows only one kind of number.
        let whole = (number.fract() == 0.0).then(|| format!("{number:.0}").parse().ok()).flatten();
        match whole {
            Some(whole) => Self::bounded(whole),
            None => Err(E::invalid_value(Unexpected::Float(number), &self)),
        }
    }
    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        match text.trim() {
            "" => Ok(T::default()),
            digits => match digits.parse() {
                Ok(number) => Self::bounded(number),
                Err(_) => Err(E::invalid_value(Unexpected::Str(text), &self)),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn whole_numbers_in_every_form() {
        for (given, expected) in [
            (json!(8080), Some(8080)),
            (json!(-1), Some(-1)),
            (json!(70_000), Some(70_000)),
            (json!(i64::MAX), Some(i64::MAX)),
            (json!("8080"), Some(8080)),
            (json!("-7"), Some(-7)),
            (json!(""), Some(0)),
            (json!(null), Some(0)),
            (json!(8080.0), Some(8080)),
            (json!(u64::MAX), None),
            (json!(80.5), None),
            (json!(1e300), None),
            (json!("http"), None),
            (json!(true), None),
            (json!([80]), None),
        ] {
            assert_eq!(integer::<_, i64>(&given).ok(), expected, "{given}");
        }
        assert_eq!(integer::<_, u64>(&json!(u64::MAX)).ok(), Some(u64::MAX));
        assert_eq!(integer::<_, u16>(&json!(65_536)).ok(), None);
        assert_eq!(maybe_integer::<_, u64>(&json!(null)).ok(), Some(None));
        assert_eq!(maybe_integer::<_, u64>(&json!("3")).ok(), Some(Some(3)));
    }

    #[test]
    fn null_is_empty_everywhere() {
        let texts: Vec<String> = list(&json!(["a", null])).expect("a list");
        assert_eq!(texts, ["a", ""]);
        let texts: Vec<String> = list(&json!(null)).expect("a list");
        assert!(texts.is_empty());
        let pairs: BTreeMap<String, String> = map(&json!({"a": null, "b": "c"})).expect("a map");
        assert_eq!(
            pairs.into_iter().collect::<Vec<_>>(),
            [("a".to_owned(), String::new()), ("b".to_owned(), "c".to_owned())]
        );
    }
}
