//! Everything that can be asked about the names of `log`, as comparable answers.

use std::fmt::Debug;

use muster_agent::store::{Found, Index, Scope, Scopes, Store};

use crate::log::{KEYS, NODES, SERVICES, SESSIONS, STATES};

/// One question's answer.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) question: String,
    /// The rows, printed.
    pub(crate) rows: String,
    pub(crate) index: Index,
    pub(crate) scopes: Scopes,
    /// What the cheap function for the index alone says.
    pub(crate) index_alone: Index,
    /// Is it woken by nothing that leaves its rows as they are? Not so where its scopes are
    /// coarser than the question, which each such question says why.
    pub(crate) exact: bool,
}

impl Answer {
    /// Would a reader who waits on this answer look again?
    pub(crate) fn is_woken_by(&self, touched: &[Scope]) -> bool {
        self.scopes.iter().any(|scope| touched.iter().any(|touched| scope.overlaps(touched)))
    }
}

/// Asks every question.
pub(crate) fn ask_all(store: &Store) -> Vec<Answer> {
    let mut answers = Answers(Vec::new());
    let catalog = store.catalog();
    answers.add("nodes", catalog.nodes(), catalog.nodes_index());
    answers.add("all services", catalog.all_services(), catalog.services_index());
    let zone_a = catalog.services(&|node| node.meta.contains_key("zone"));
    // Depends on the rows of all nodes, of which only the meta matters.
    answers.add_coarse("services in zone a", zone_a, catalog.services_by_node_index());
    for node in NODES.into_iter().chain(["n9", "aa", "aaaaa", "cccccccc-3333"]) {
        let services = catalog.node_index(node, true);
        // Shares its scope with the node's services.
        let row = catalog.node(node);
        answers.add_coarse(&format!("node {node}"), row, catalog.node_index(node, false));
        answers.add(&format!("services of {node}"), catalog.node_services(node), services);
        // A name that is nobody's may be the beginning of an id: all nodes matter to it.
        answers.0.last_mut().unwrap().exact = catalog.node_named(node).is_some();
        let checks = catalog.checks_index();
        answers.add(&format!("checks of {node}"), catalog.node_checks(node), checks);
        let sessions = store.sessions();
        answers.add(&format!("sessions of {node}"), sessions.of_node(node), sessions.index());
    }
    for name in SERVICES.into_iter().chain(["none"]) {
        let index = catalog.service_nodes_index(name);
        answers.add(&format!("service {name}"), catalog.service(name), index);
        let index = catalog.service_index(name);
        answers.add(&format!("instances of {name}"), catalog.instances(name), index);
        let index = catalog.checks_index();
        answers.add(&format!("checks of service {name}"), catalog.service_checks(name), index);
    }
    for state in STATES.into_iter().chain(["any"]) {
        let index = catalog.checks_index();
        answers.add(&format!("checks in state {state}"), catalog.checks_in_state(state), index);
    }
    let kv = store.kv();
    for key in KEYS.into_iter().chain(["zz"]) {
        answers.add(&format!("key {key}"), kv.get(key), kv.key_index(key));
        answers.add(&format!("under {key}"), kv.list(key), kv.list_index(key));
        // A list of names moves with the values too, as in the reference.
        answers.add_coarse(&format!("keys {key}"), kv.keys(key, "/"), kv.list_index(key));
    }
    let acl = store.acl();
    // Rows of tokens are printed without their contents.
    answers.add_coarse("tokens", acl.tokens(), acl.tokens().index);
    answers.add("policies", acl.policies(), acl.policies().index);
    answers.add("roles", acl.roles(), acl.roles().index);
    answers.add("auth methods", acl.auth_methods(), acl.auth_methods().index);
    answers.add("binding rules", acl.binding_rules(), acl.binding_rules().index);
    let sessions = store.sessions();
    answers.add("sessions", sessions.list(), sessions.index());
    for id in SESSIONS {
        answers.add(&format!("session {id}"), sessions.get(id), sessions.index());
    }
    answers.0
}

struct Answers(Vec<Answer>);

impl Answers {
    fn add<T: Debug>(&mut self, question: &str, found: Found<T>, index_alone: Index) {
        let Found { rows, index, scopes } = found;
        self.0.push(Answer {
            question: question.to_owned(),
            rows: format!("{rows:?}"),
            index,
            scopes,
            index_alone,
            exact: true,
        });
    }

    fn add_coarse<T: Debug>(&mut self, question: &str, found: Found<T>, index_alone: Index) {
        self.add(question, found, index_alone);
        self.0.last_mut().unwrap().exact = false;
    }
}
