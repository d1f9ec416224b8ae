//! Which fields a type of rows has, and of which type each is. Selectors are checked against this
//! before any row is looked at, so that a misspelt field is an error and not an empty answer.

/// The fields of a type of rows, under the names of its JSON.
#[derive(Debug)]
pub struct Schema(&'static [(&'static str, Kind)]);

/// The type of a field.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Text,
    Int,
    Bool,
    /// A list of texts.
    Texts,
    /// Any key to a text.
    TextMap,
    /// Any key to a list of texts.
    TextsMap,
    /// Further fields.
    Struct(&'static Schema),
    /// A list of rows; a selector into it holds if it holds for one of them.
    Structs(&'static Schema),
    /// Any key to a row.
    StructMap(&'static Schema),
}

impl Schema {
    pub(super) fn field(&self, name: &str) -> Option<(&'static str, Kind)> {
        self.0.iter().find(|(known, _)| *known == name).copied()
    }
}

use Kind::{Bool, Int, Struct, StructMap, Structs, Text, TextMap, Texts, TextsMap};

/// A node.
pub static NODE: Schema = Schema(&[
    ("ID", Text),
    ("Node", Text),
    ("Address", Text),
    ("Datacenter", Text),
    ("TaggedAddresses", TextMap),
    ("Meta", TextMap),
]);

/// An instance with the columns of its node, as `catalog/service` shows it.
pub static CATALOG_SERVICE: Schema = Schema(&[
    ("ID", Text),
    ("Node", Text),
    ("Address", Text),
    ("Datacenter", Text),
    ("TaggedAddresses", TextMap),
    ("NodeMeta", TextMap),
    ("ServiceKind", Text),
    ("ServiceID", Text),
    ("ServiceName", Text),
    ("ServiceTags", Texts),
    ("ServiceAddress", Text),
    ("ServiceTaggedAddresses", StructMap(&ADDRESS)),
    ("ServiceWeights", Struct(&WEIGHTS)),
    ("ServiceMeta", TextMap),
    ("ServicePort", Int),
    ("ServiceEnableTagOverride", Bool),
    ("ServiceProxy", Struct(&PROXY)),
    ("ServiceConnect", Struct(&CONNECT)),
]);

/// An instance alone.
pub static SERVICE: Schema = Schema(&[
    ("Kind", Text),
    ("ID", Text),
    ("Service", Text),
    ("Tags", Texts),
    ("Address", Text),
    ("TaggedAddresses", StructMap(&ADDRESS)),
    ("Meta", TextMap),
    ("Port", Int),
    ("Weights", Struct(&WEIGHTS)),
    ("EnableTagOverride", Bool),
    ("Proxy", Struct(&PROXY)),
    ("Connect", Struct(&CONNECT)),
]);

/// A check.
pub static CHECK: Schema = Schema(&[
    ("Node", Text),
    ("CheckID", Text),
    ("Name", Text),
    ("Status", Text),
    ("Notes", Text),
    ("Output", Text),
    ("ServiceID", Text),
    ("ServiceName", Text),
    ("ServiceTags", Texts),
    ("Type", Text),
]);

/// An instance with its node and its checks.
pub static SERVICE_ENTRY: Schema =
    Schema(&[("Node", Struct(&NODE)), ("Service", Struct(&SERVICE)), ("Checks", Structs(&CHECK))]);

/// Claims of a log-in, under the names that its method gives them.
pub(crate) static CLAIMS: Schema = Schema(&[("value", TextMap), ("list", TextsMap)]);

/// A service account of Kubernetes that logs in.
pub(crate) static SERVICE_ACCOUNT_IDENTITY: Schema =
    Schema(&[("serviceaccount", Struct(&SERVICE_ACCOUNT))]);

static SERVICE_ACCOUNT: Schema = Schema(&[("namespace", Text), ("name", Text), ("uid", Text)]);

pub(super) static ADDRESS: Schema = Schema(&[("Address", Text), ("Port", Int)]);
pub(super) static WEIGHTS: Schema = Schema(&[("Passing", Int), ("Warning", Int)]);

// The mesh is not ours, yet its columns are on the wire, always empty: filters that speak of them
// ("not a proxy") are valid and see empty values.
static CONNECT: Schema = Schema(&[("Native", Bool)]);
static PROXY: Schema = Schema(&[
    ("DestinationServiceName", Text),
    ("DestinationServiceID", Text),
    ("LocalServiceAddress", Text),
    ("LocalServicePort", Int),
    ("Upstreams", Structs(&UPSTREAM)),
    ("MeshGateway", Struct(&GATEWAY)),
    ("Expose", Struct(&EXPOSE)),
]);
static GATEWAY: Schema = Schema(&[("Mode", Text)]);
static UPSTREAM: Schema = Schema(&[
    ("DestinationType", Text),
    ("DestinationNamespace", Text),
    ("DestinationName", Text),
    ("Datacenter", Text),
    ("LocalBindAddress", Text),
    ("LocalBindPort", Int),
    ("MeshGateway", Struct(&GATEWAY)),
]);
static EXPOSE: Schema = Schema(&[("Checks", Bool), ("Paths", Structs(&EXPOSED_PATH))]);
static EXPOSED_PATH: Schema = Schema(&[
    ("ListenerPort", Int),
    ("Path", Text),
    ("LocalPathPort", Int),
    ("Protocol", Text),
    ("ParsedFromCheck", Bool),
]);
