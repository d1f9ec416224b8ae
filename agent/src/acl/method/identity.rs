//! Who somebody is according to a provider: the part of a verified token that rules may speak of.

use std::collections::BTreeMap;

use crate::filter::schema::{self, Schema};
use crate::filter::{Row, Value};

/// A verified identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// Claims that the method maps.
    Claims {
        /// Single ones, as `value.<name>`.
        values: BTreeMap<String, String>,
        /// Lists, as `list.<name>`.
        lists: BTreeMap<String, Vec<String>>,
        /// Names of single ones, also of those that this token lacks.
        names: Vec<String>,
    },
    /// A service account of Kubernetes.
    ServiceAccount(ServiceAccount),
}

/// A service account of Kubernetes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServiceAccount {
    /// Its namespace.
    pub namespace: String,
    /// Its name, or the one that an annotation gives it here.
    pub name: String,
    /// Its id.
    pub uid: String,
}

/// Variables of a service account.
pub(super) const SERVICE_ACCOUNT_VARIABLES: [&str; 3] =
    ["serviceaccount.name", "serviceaccount.namespace", "serviceaccount.uid"];

impl Identity {
    /// The fields that selectors of its rules may name.
    pub(super) fn schema(&self) -> &'static Schema {
        match self {
            Identity::Claims { .. } => &schema::CLAIMS,
            Identity::ServiceAccount(_) => &schema::SERVICE_ACCOUNT_IDENTITY,
        }
    }

    /// The values that names of its rules may hold, by variable.
    pub(super) fn variable(&self, name: &str) -> Option<&str> {
        match self {
            Identity::Claims { values, names, .. } => {
                let name = name.strip_prefix("value.")?;
                let known = names.iter().any(|known| known == name);
                known.then(|| values.get(name).map_or("", String::as_str))
            }
            Identity::ServiceAccount(account) => match name {
                "serviceaccount.name" => Some(&account.name),
                "serviceaccount.namespace" => Some(&account.namespace),
                "serviceaccount.uid" => Some(&account.uid),
                _ => None,
            },
        }
    }
}

impl Row for Identity {
    fn field(&self, name: &str) -> Value<'_> {
        match (self, name) {
            (Identity::Claims { values, .. }, "value") => Value::TextMap(values),
            (Identity::Claims { lists, .. }, "list") => Value::TextsMap(lists),
            (Identity::ServiceAccount(account), "serviceaccount") => Value::Row(account),
            _ => Value::Empty,
        }
    }
}

impl Row for ServiceAccount {
    fn field(&self, name: &str) -> Value<'_> {
        match name {
            "namespace" => Value::Text(&self.namespace),
            "name" => Value::Text(&self.name),
            "uid" => Value::Text(&self.uid),
            _ => Value::Empty,
        }
    }
}
