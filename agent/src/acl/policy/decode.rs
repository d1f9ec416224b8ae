//! From the tree of a text to rules.
//!
//! The reference decodes by reflection over its own types, and its errors show them. The tables
//! here hold as much of those names as its errors do.

use super::{Error, Kind, Level, Rule, Rules, Unknown, place};
use crate::hcl::{self, Item, Position, Value};
use crate::store::Quoted;

/// A kind with names: its key, its type and the type's field of the name, as errors show them.
struct Shape {
    kind: Kind,
    type_name: &'static str,
    name_field: &'static str,
    /// The type ends with a field that only other editions use.
    has_edition: bool,
}

/// In the order in which the reference validates.
const SHAPES: [Shape; 7] = [
    Shape { kind: Kind::Agent, type_name: "AgentRule", name_field: "Node", has_edition: false },
    Shape { kind: Kind::Key, type_name: "KeyRule", name_field: "Prefix", has_edition: true },
    Shape { kind: Kind::Node, type_name: "NodeRule", name_field: "Name", has_edition: true },
    Shape { kind: Kind::Service, type_name: "ServiceRule", name_field: "Name", has_edition: true },
    Shape { kind: Kind::Session, type_name: "SessionRule", name_field: "Node", has_edition: false },
    Shape { kind: Kind::Event, type_name: "EventRule", name_field: "Event", has_edition: false },
    Shape {
        kind: Kind::Query,
        type_name: "PreparedQueryRule",
        name_field: "Prefix",
        has_edition: false,
    },
];

const SCALARS: [&str; 3] = ["acl", "keyring", "operator"];

/// Which names the old language has: no prefixes, for every name is one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Language {
    Current,
    Legacy,
}

pub(super) fn rules(text: &str) -> Result<Rules, Error> {
    decode(text, Language::Current)
}

pub(super) fn legacy_rules(text: &str) -> Result<Rules, Error> {
    decode(text, Language::Legacy)
}

fn decode(text: &str, language: Language) -> Result<Rules, Error> {
    let document = hcl::parse(text).map_err(|error| Error::Syntax(error.to_string()))?;
    let reader = Reader { items: &document.items, json: document.json };
    let legacy = language == Language::Legacy;
    // Types first, levels second, as the reference does: it names a wrong type before a wrong level.
    let mut scalars = Vec::new();
    let mut named = Vec::new();
    if !legacy {
        scalars.push(reader.scalar("acl")?);
    }
    for shape in &SHAPES {
        named.push((shape, false, reader.named(shape, shape.kind.name())?));
        if !legacy {
            let key = format!("{}_prefix", shape.kind.name());
            named.push((shape, true, reader.named(shape, &key)?));
        }
    }
    scalars.push(reader.scalar("keyring")?);
    scalars.push(reader.scalar("operator")?);

    let mut rules = Rules { unknown: reader.unknown(), ..Rules::default() };
    if !legacy {
        rules.acl = scalar_level("acl", scalars.remove(0))?;
    }
    for (shape, prefix, written) in named {
        for rule in written {
            rules.named.push(rule.validate(shape, prefix, legacy)?);
        }
    }
    rules.keyring = scalar_level("keyring", scalars.remove(0))?;
    rules.operator = scalar_level("operator", scalars.remove(0))?;
    Ok(rules)
}

/// Scalars are valid in any case, but take effect in lower case only.
fn scalar_level(name: &str, written: Option<(String, Position)>) -> Result<Option<Level>, Error> {
    let Some((text, at)) = written else { return Ok(None) };
    if text.is_empty() {
        return Ok(None);
    }
    match Level::parse(&text) {
        None | Some(Level::List) => Err(Error::Level {
            subject: name.to_owned(),
            found: Quoted(&text).to_string(),
            place: place(at),
        }),
        level => Ok(level.filter(|level| level.name() == text)),
    }
}

/// A rule with a name, its levels not judged yet.
struct Written {
    name: String,
    at: Position,
    policy: String,
    intentions: String,
}

impl Written {
    fn validate(self, shape: &Shape, prefix: bool, legacy: bool) -> Result<Rule, Error> {
        let lists = shape.kind == Kind::Key;
        let valid = |text: &str| Level::parse(text).filter(|it| lists || *it != Level::List);
        let subject = format!("{}{}", shape.kind.name(), if prefix { "_prefix" } else { "" });
        let Some(level) = valid(&self.policy) else {
            return Err(self.wrong(shape, subject));
        };
        let intentions = match &*self.intentions {
            "" => None,
            text => match valid(text) {
                None => return Err(self.wrong(shape, format!("{subject} intentions"))),
                level => level,
            },
        };
        Ok(Rule { kind: shape.kind, prefix: prefix || legacy, name: self.name, level, intentions })
    }

    fn wrong(&self, shape: &Shape, subject: String) -> Error {
        let mut found = format!(
            "&acl.{}{{{}:{}, Policy:{}",
            shape.type_name,
            shape.name_field,
            Quoted(&self.name),
            Quoted(&self.policy),
        );
        if shape.kind == Kind::Service {
            found.push_str(", Intentions:");
            found += &Quoted(&self.intentions).to_string();
        }
        if shape.has_edition {
            found += ", EnterpriseRule:acl.EnterpriseRule{}";
        }
        found.push('}');
        Error::Level { subject, found, place: place(self.at) }
    }
}

/// Finds fields by name, in any case.
struct Reader<'a> {
    items: &'a [Item],
    json: bool,
}

/// A value that the reference prints by the name of its type.
fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Object(..) => "*ast.ObjectList",
        Value::List(..) => "*ast.ListType",
        _ => "*ast.LiteralType",
    }
}

/// Where the reference points to: into an object, to its first item.
fn pointed(value: &Value) -> Position {
    match value {
        Value::Object(items, at) => {
            items.first().and_then(|it| it.keys.first()).map_or(*at, |key| key.at)
        }
        other => other.at(),
    }
}

impl<'a> Reader<'a> {
    fn fault(&self, at: Position, what: &str) -> Error {
        // The reference has no positions in JSON; ours follow its text.
        Error::Syntax(if self.json {
            format!("At -: {what}: at {at}")
        } else {
            format!("At {at}: {what}")
        })
    }

    fn matching(items: &'a [Item], field: &str) -> impl Iterator<Item = &'a Item> {
        items.iter().filter(move |item| {
            item.keys.first().is_some_and(|key| key.name.eq_ignore_ascii_case(field))
        })
    }

    /// The last text that a field is set to.
    fn text(
        &self,
        items: &'a [Item],
        field: &str,
        path: &str,
    ) -> Result<Option<(String, Position)>, Error> {
        let wrong =
            |at, found: &str| self.fault(at, &format!("{path}: unknown type for string {found}"));
        let (blocks, plain): (Vec<_>, Vec<_>) =
            Self::matching(items, field).partition(|item| item.keys.len() > 1);
        if let Some(block) = blocks.first() {
            return Err(wrong(block.keys[1].at, "*ast.ObjectList"));
        }
        let mut found = None;
        for item in plain {
            match &item.value {
                Value::Text(text, at) | Value::Number(text, at) => {
                    found = Some((text.clone(), *at));
                }
                other => return Err(wrong(pointed(other), type_name(other))),
            }
        }
        Ok(found)
    }

    fn scalar(&self, name: &str) -> Result<Option<(String, Position)>, Error> {
        self.text(self.items, name, &format!("root.{name}"))
    }

    /// All rules of a kind.
    fn named(&self, shape: &Shape, key: &str) -> Result<Vec<Written>, Error> {
        let mut rules = Vec::new();
        let (blocks, plain): (Vec<_>, Vec<_>) =
            Self::matching(self.items, key).partition(|item| item.keys.len() > 1);
        for (number, item) in blocks.into_iter().enumerate() {
            let path = format!("root.{key}[{number}]");
            rules.push(self.rule(&item.keys[1..], &item.value, &path)?);
        }
        for item in plain {
            match &item.value {
                Value::Object(items, _) => {
                    for (number, item) in items.iter().enumerate() {
                        let path = format!("root.{key}[{number}]");
                        rules.push(self.rule(&item.keys, &item.value, &path)?);
                    }
                }
                Value::List(values, _) => {
                    // Entries of a list have no name.
                    if let Some(value) = values.first() {
                        let what = match value {
                            Value::Object(..) => {
                                format!("{} asked for 'key', impossible", shape.name_field)
                            }
                            other => {
                                format!("not an object type for struct ({})", type_name(other))
                            }
                        };
                        return Err(self.fault(pointed(value), &format!("root.{key}[0]: {what}")));
                    }
                }
                other => {
                    let what = format!("unknown slice type: {}", type_name(other));
                    return Err(self.fault(other.at(), &what));
                }
            }
        }
        Ok(rules)
    }

    /// One rule: its keys behind the kind, and its body.
    fn rule(&self, keys: &[hcl::Key], value: &Value, path: &str) -> Result<Written, Error> {
        let Some(first) = keys.first() else {
            return Err(self.fault(value.at(), &format!("{path}: a rule needs a name")));
        };
        // Exactly two names: the second belongs to the body. That is how the reference reads them.
        let unfolded;
        let body: &[Item] = match value {
            _ if keys.len() == 2 => {
                unfolded = vec![Item { keys: keys[1..].to_vec(), value: value.clone() }];
                &unfolded
            }
            Value::Object(items, _) => items,
            Value::List(..) => {
                let what = format!("{path}: not an object type for struct (*ast.ListType)");
                return Err(self.fault(value.at(), &what));
            }
            literal => {
                unfolded = vec![Item { keys: keys.to_vec(), value: literal.clone() }];
                &unfolded
            }
        };
        let reader = Reader { items: body, json: self.json };
        let text = |field: &str, shown: &str| -> Result<String, Error> {
            let found = reader.text(body, field, &format!("{path}.{shown}"))?;
            Ok(found.map(|(text, _)| text).unwrap_or_default())
        };
        let policy = text("policy", "Policy")?;
        let intentions = if path.starts_with("root.service") {
            text("intentions", "Intentions")?
        } else {
            String::new()
        };
        Ok(Written { name: first.name.clone(), at: first.at, policy, intentions })
    }

    /// Kinds that nobody knows.
    fn unknown(&self) -> Vec<Unknown> {
        let known = |name: &str| {
            let stem = name.strip_suffix("_prefix").unwrap_or(name);
            SHAPES.iter().any(|shape| shape.kind.name() == stem) || SCALARS.contains(&name)
        };
        self.items
            .iter()
            .filter_map(|item| item.keys.first())
            .filter(|key| !known(&key.name.to_ascii_lowercase()))
            .map(|key| Unknown { kind: key.name.clone(), place: place(key.at) })
            .collect()
    }
}
