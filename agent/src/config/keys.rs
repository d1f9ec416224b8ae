//! Every key that a configuration may hold: its type, and what becomes of it.
//!
//! One line per key, so that adding a feature moves its key from "not yet" to "used" and nothing
//! else has to know. Key names and types are the reference's (JSON form).

/// The type a key's value must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Text.
    Str,
    /// Whole number.
    Int,
    /// `true` or `false`.
    Bool,
    /// Text such as `"10s"`.
    Duration,
    /// A list of texts; a single text counts as a list of one. Lists of several sources append.
    List,
    /// Text to text.
    Map,
    /// Definitions (services, checks, watches): objects, checked where they are used; they append.
    Definitions,
    /// A number with a fraction.
    Float,
    /// Anything.
    Any,
}

/// What becomes of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It shapes the agent.
    Used,
    /// Belongs to the service mesh or to something that does not exist here: no effect, said once.
    Ignored,
    /// Asks for nothing that we do otherwise (for example: turns off a phone call never made).
    Silent,
    /// Asks for something that does not exist yet: refused unless it holds this "off" value.
    NotYet(Off),
}

/// The value at which a key asks for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Off {
    /// `false`.
    False,
    /// Empty text, list or map.
    Empty,
    /// `-1`.
    MinusOne,
}

/// `(path, type, fate)`, sorted by path.
pub(super) const KEYS: &[(&str, Kind, Fate)] = &[
    ("acl.default_policy", Kind::Str, Fate::Silent),
    ("acl.down_policy", Kind::Str, Fate::Silent),
    ("acl.enable_key_list_policy", Kind::Bool, Fate::Silent),
    ("acl.enable_token_persistence", Kind::Bool, Fate::Silent),
    ("acl.enable_token_replication", Kind::Bool, Fate::Silent),
    ("acl.enabled", Kind::Bool, Fate::NotYet(Off::False)),
    ("acl.policy_ttl", Kind::Duration, Fate::Silent),
    ("acl.role_ttl", Kind::Duration, Fate::Silent),
    ("acl.token_ttl", Kind::Duration, Fate::Silent),
    ("acl.tokens.agent", Kind::Str, Fate::Silent),
    ("acl.tokens.agent_master", Kind::Str, Fate::Silent),
    ("acl.tokens.agent_recovery", Kind::Str, Fate::Silent),
    ("acl.tokens.default", Kind::Str, Fate::Silent),
    ("acl.tokens.initial_management", Kind::Str, Fate::Silent),
    ("acl.tokens.master", Kind::Str, Fate::Silent),
    ("acl.tokens.replication", Kind::Str, Fate::Silent),
    ("acl_datacenter", Kind::Str, Fate::Silent),
    ("acl_default_policy", Kind::Str, Fate::Silent),
    ("addresses.dns", Kind::Str, Fate::NotYet(Off::Empty)),
    ("addresses.grpc", Kind::Str, Fate::Ignored),
    ("addresses.http", Kind::Str, Fate::Used),
    ("addresses.https", Kind::Str, Fate::NotYet(Off::Empty)),
    ("advertise_addr", Kind::Str, Fate::Used),
    ("advertise_addr_ipv4", Kind::Str, Fate::Used),
    ("advertise_addr_ipv6", Kind::Str, Fate::Used),
    ("advertise_addr_wan", Kind::Str, Fate::Used),
    ("alt_domain", Kind::Str, Fate::NotYet(Off::Empty)),
    ("autopilot.cleanup_dead_servers", Kind::Bool, Fate::Silent),
    ("autopilot.last_contact_threshold", Kind::Duration, Fate::Silent),
    ("autopilot.max_trailing_logs", Kind::Int, Fate::Silent),
    ("autopilot.min_quorum", Kind::Int, Fate::Silent),
    ("autopilot.server_stabilization_time", Kind::Duration, Fate::Silent),
    ("bind_addr", Kind::Str, Fate::Used),
    ("bootstrap", Kind::Bool, Fate::Used),
    ("bootstrap_expect", Kind::Int, Fate::Used),
    ("ca_file", Kind::Str, Fate::NotYet(Off::Empty)),
    ("ca_path", Kind::Str, Fate::NotYet(Off::Empty)),
    ("cert_file", Kind::Str, Fate::NotYet(Off::Empty)),
    ("check", Kind::Definitions, Fate::Used),
    ("check_output_max_size", Kind::Int, Fate::Used),
    ("check_update_interval", Kind::Duration, Fate::Used),
    ("checks", Kind::Definitions, Fate::Used),
    ("client_addr", Kind::Str, Fate::Used),
    ("connect", Kind::Any, Fate::Ignored),
    ("data_dir", Kind::Str, Fate::Used),
    ("datacenter", Kind::Str, Fate::Used),
    ("default_query_time", Kind::Duration, Fate::Used),
    ("disable_anonymous_signature", Kind::Bool, Fate::Silent),
    ("disable_coordinates", Kind::Bool, Fate::Silent),
    ("disable_host_node_id", Kind::Bool, Fate::Silent),
    ("disable_http_unprintable_char_filter", Kind::Bool, Fate::Used),
    ("disable_keyring_file", Kind::Bool, Fate::Silent),
    ("disable_remote_exec", Kind::Bool, Fate::Silent),
    ("disable_update_check", Kind::Bool, Fate::Silent),
    ("discard_check_output", Kind::Bool, Fate::Used),
    ("discovery_max_stale", Kind::Duration, Fate::Used),
    ("dns_config", Kind::Any, Fate::NotYet(Off::Empty)),
    ("domain", Kind::Str, Fate::Used),
    ("enable_debug", Kind::Bool, Fate::Silent),
    ("enable_local_script_checks", Kind::Bool, Fate::Used),
    ("enable_script_checks", Kind::Bool, Fate::Used),
    ("enable_syslog", Kind::Bool, Fate::NotYet(Off::False)),
    ("encrypt", Kind::Str, Fate::NotYet(Off::Empty)),
    ("encrypt_verify_incoming", Kind::Bool, Fate::Silent),
    ("encrypt_verify_outgoing", Kind::Bool, Fate::Silent),
    ("gossip_lan", Kind::Any, Fate::Silent),
    ("gossip_wan", Kind::Any, Fate::Silent),
    ("http_config.allow_write_http_from", Kind::List, Fate::Used),
    ("http_config.block_endpoints", Kind::List, Fate::Used),
    ("http_config.response_headers", Kind::Map, Fate::Used),
    ("http_config.use_cache", Kind::Bool, Fate::Silent),
    ("key_file", Kind::Str, Fate::NotYet(Off::Empty)),
    ("leave_on_terminate", Kind::Bool, Fate::Used),
    ("limits.http_max_conns_per_client", Kind::Int, Fate::Used),
    ("limits.https_handshake_timeout", Kind::Duration, Fate::Silent),
    ("limits.kv_max_value_size", Kind::Int, Fate::Used),
    ("limits.rpc_handshake_timeout", Kind::Duration, Fate::Silent),
    ("limits.rpc_max_burst", Kind::Int, Fate::Silent),
    ("limits.rpc_max_conns_per_client", Kind::Int, Fate::Silent),
    ("limits.rpc_rate", Kind::Float, Fate::NotYet(Off::MinusOne)),
    ("limits.txn_max_req_len", Kind::Int, Fate::Used),
    ("log_file", Kind::Str, Fate::NotYet(Off::Empty)),
    ("log_json", Kind::Bool, Fate::Used),
    ("log_level", Kind::Str, Fate::Used),
    ("log_rotate_bytes", Kind::Int, Fate::Silent),
    ("log_rotate_duration", Kind::Duration, Fate::Silent),
    ("log_rotate_max_files", Kind::Int, Fate::Silent),
    ("max_query_time", Kind::Duration, Fate::Used),
    ("node_id", Kind::Str, Fate::Used),
    ("node_meta", Kind::Map, Fate::Used),
    ("node_name", Kind::Str, Fate::Used),
    ("peering", Kind::Any, Fate::Ignored),
    ("performance.leave_drain_time", Kind::Duration, Fate::Silent),
    ("performance.raft_multiplier", Kind::Int, Fate::Used),
    ("performance.rpc_hold_timeout", Kind::Duration, Fate::Used),
    ("pid_file", Kind::Str, Fate::Used),
    ("ports.dns", Kind::Int, Fate::Used),
    ("ports.grpc", Kind::Int, Fate::Ignored),
    ("ports.grpc_tls", Kind::Int, Fate::Ignored),
    ("ports.http", Kind::Int, Fate::Used),
    ("ports.https", Kind::Int, Fate::Used),
    ("ports.serf_lan", Kind::Int, Fate::Used),
    ("ports.serf_wan", Kind::Int, Fate::Used),
    ("ports.server", Kind::Int, Fate::Used),
    ("ports.sidecar_max_port", Kind::Int, Fate::Ignored),
    ("ports.sidecar_min_port", Kind::Int, Fate::Ignored),
    ("primary_datacenter", Kind::Str, Fate::Used),
    ("raft_logstore.backend", Kind::Str, Fate::Used),
    ("raft_protocol", Kind::Int, Fate::Silent),
    ("raft_snapshot_interval", Kind::Duration, Fate::Silent),
    ("raft_snapshot_threshold", Kind::Int, Fate::Used),
    ("raft_trailing_logs", Kind::Int, Fate::Used),
    ("reconnect_timeout", Kind::Duration, Fate::Silent),
    ("reconnect_timeout_wan", Kind::Duration, Fate::Silent),
    ("recursors", Kind::List, Fate::NotYet(Off::Empty)),
    ("rejoin_after_leave", Kind::Bool, Fate::Silent),
    ("retry_interval", Kind::Duration, Fate::Silent),
    ("retry_interval_wan", Kind::Duration, Fate::Silent),
    ("retry_join", Kind::List, Fate::NotYet(Off::Empty)),
    ("retry_join_wan", Kind::List, Fate::NotYet(Off::Empty)),
    ("retry_max", Kind::Int, Fate::Silent),
    ("retry_max_wan", Kind::Int, Fate::Silent),
    ("segment", Kind::Str, Fate::NotYet(Off::Empty)),
    ("segments", Kind::Definitions, Fate::NotYet(Off::Empty)),
    ("serf_lan", Kind::Str, Fate::Silent),
    ("serf_wan", Kind::Str, Fate::Silent),
    ("server", Kind::Bool, Fate::Used),
    ("server_name", Kind::Str, Fate::Silent),
    ("service", Kind::Definitions, Fate::Used),
    ("services", Kind::Definitions, Fate::Used),
    ("session_ttl_min", Kind::Duration, Fate::Used),
    ("skip_leave_on_interrupt", Kind::Bool, Fate::Used),
    ("start_join", Kind::List, Fate::NotYet(Off::Empty)),
    ("start_join_wan", Kind::List, Fate::NotYet(Off::Empty)),
    ("syslog_facility", Kind::Str, Fate::Silent),
    ("telemetry", Kind::Any, Fate::NotYet(Off::Empty)),
    ("tls", Kind::Any, Fate::NotYet(Off::Empty)),
    ("translate_wan_addrs", Kind::Bool, Fate::NotYet(Off::False)),
    ("ui", Kind::Bool, Fate::NotYet(Off::False)),
    ("ui_config.enabled", Kind::Bool, Fate::NotYet(Off::False)),
    ("ui_content_path", Kind::Str, Fate::Silent),
    ("ui_dir", Kind::Str, Fate::NotYet(Off::Empty)),
    ("unix_sockets.group", Kind::Str, Fate::NotYet(Off::Empty)),
    ("unix_sockets.mode", Kind::Str, Fate::NotYet(Off::Empty)),
    ("unix_sockets.user", Kind::Str, Fate::NotYet(Off::Empty)),
    ("verify_incoming", Kind::Bool, Fate::NotYet(Off::False)),
    ("verify_incoming_https", Kind::Bool, Fate::NotYet(Off::False)),
    ("verify_incoming_rpc", Kind::Bool, Fate::NotYet(Off::False)),
    ("verify_outgoing", Kind::Bool, Fate::NotYet(Off::False)),
    ("verify_server_hostname", Kind::Bool, Fate::NotYet(Off::False)),
    ("watches", Kind::Definitions, Fate::NotYet(Off::Empty)),
];

/// What is said of the key at this exact path.
pub(super) fn find(path: &str) -> Option<(&'static str, Kind, Fate)> {
    KEYS.binary_search_by(|(known, _, _)| (*known).cmp(path)).ok().map(|at| KEYS[at])
}

/// Is `path` a block that holds known keys (`ports`, `acl.tokens`)?
pub(super) fn is_block(path: &str) -> bool {
    KEYS.iter()
        .any(|(known, _, _)| known.strip_prefix(path).is_some_and(|rest| rest.starts_with('.')))
}

/// The known key that `path` was probably meant to be: at most two letters away.
pub(super) fn nearest(path: &str) -> Option<&'static str> {
    KEYS.iter()
        .map(|(known, _, _)| (distance(path, known), *known))
        .filter(|(far, known)| *far <= 2 && *far < known.len())
        .min()
        .map(|(_, known)| known)
}

/// Levenshtein distance; key names are short, so the quadratic form will do.
pub(crate) fn distance(a: &str, b: &str) -> usize {
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
    fn the_table_is_sorted_so_that_look_up_works() {
        for pair in KEYS.windows(2) {
            assert!(pair[0].0 < pair[1].0, "{} comes after {}", pair[0].0, pair[1].0);
        }
    }

    #[test]
    fn a_slip_of_the_finger_gets_a_hint() {
        assert_eq!(nearest("data_dri"), Some("data_dir"));
        assert_eq!(nearest("ports.htp"), Some("ports.http"));
        assert_eq!(nearest("entirely_else"), None);
    }
}
