//! Every key that a configuration may hold: its type, and what becomes of it.
//!
//! One line per key, so that adding a feature moves its key from "not yet" to "used" and nothing
//! else has to know. Key names and types are the reference's (JSON form).

use crate::spelling;

/// The type a key's value must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Text.
    Str,
    /// Whole number.
    Int,
    /// Port; below zero is off.
    Port,
    /// `true` or `false`.
    Bool,
    /// Text such as `"10s"`.
    Duration,
    /// A list of texts. Lists of several sources append.
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

/// Fate of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It shapes the agent from its start on.
    Used,
    /// The same, and a reload takes a new value over.
    Live,
    /// Belongs to the service mesh: no effect, said once.
    Mesh,
    /// Asks for nothing that we do otherwise (for example: turns off a phone call never made).
    Harmless,
    /// Asks for something that is not done, and that neither safety nor data hang on: no effect, said once with this
    /// reason unless it asks for nothing.
    Idle(&'static str),
    /// Asks for something that does not exist, and would be believed in: refused with this reason unless it asks for
    /// nothing.
    Refused(&'static str),
}

/// It may be done some day.
pub(super) const YET: &str = "not yet";
const NO_ACCESS_CONTROL: &str =
    "there is no access control: everybody who reaches this agent may do everything";
const NO_ENCRYPTION: &str =
    "nothing is encrypted with certificates, nor are any checked, between agents and on HTTP";
const NO_PAGES: &str = "there are no web pages";
const NO_SINKS: &str = "metrics are read from /v1/agent/metrics and sent nowhere";
const OLD: &str = "it has had no meaning for a long time and should be removed";
const ONE_DATACENTER: &str = "other datacenters are not joined yet";
const ALL_VOTE: &str = "every server votes, wherever it stands";
const LOG_STORE: &str = "the log has its own format";

/// `(path, type, fate)`, sorted by path.
pub(super) const KEYS: &[(&str, Kind, Fate)] = &[
    ("acl.default_policy", Kind::Str, Fate::Idle(NO_ACCESS_CONTROL)),
    ("acl.disabled_ttl", Kind::Duration, Fate::Harmless),
    ("acl.down_policy", Kind::Str, Fate::Idle(NO_ACCESS_CONTROL)),
    ("acl.enable_key_list_policy", Kind::Bool, Fate::Harmless),
    ("acl.enable_token_persistence", Kind::Bool, Fate::Harmless),
    ("acl.enable_token_replication", Kind::Bool, Fate::Harmless),
    ("acl.enabled", Kind::Bool, Fate::Refused(NO_ACCESS_CONTROL)),
    ("acl.msp_disable_bootstrap", Kind::Bool, Fate::Harmless),
    ("acl.policy_ttl", Kind::Duration, Fate::Harmless),
    ("acl.role_ttl", Kind::Duration, Fate::Harmless),
    ("acl.token_ttl", Kind::Duration, Fate::Harmless),
    ("acl.tokens.agent", Kind::Str, Fate::Idle(NO_ACCESS_CONTROL)),
    ("acl.tokens.agent_master", Kind::Str, Fate::Idle(NO_ACCESS_CONTROL)),
    ("acl.tokens.agent_recovery", Kind::Str, Fate::Idle(NO_ACCESS_CONTROL)),
    ("acl.tokens.config_file_service_registration", Kind::Str, Fate::Idle(NO_ACCESS_CONTROL)),
    ("acl.tokens.default", Kind::Str, Fate::Idle(NO_ACCESS_CONTROL)),
    ("acl.tokens.dns", Kind::Str, Fate::Idle(NO_ACCESS_CONTROL)),
    ("acl.tokens.initial_management", Kind::Str, Fate::Idle(NO_ACCESS_CONTROL)),
    ("acl.tokens.managed_service_provider", Kind::Definitions, Fate::Idle(NO_ACCESS_CONTROL)),
    ("acl.tokens.master", Kind::Str, Fate::Idle(NO_ACCESS_CONTROL)),
    ("acl.tokens.replication", Kind::Str, Fate::Idle(NO_ACCESS_CONTROL)),
    ("acl_agent_master_token", Kind::Str, Fate::Idle(NO_ACCESS_CONTROL)),
    ("acl_agent_token", Kind::Str, Fate::Idle(NO_ACCESS_CONTROL)),
    ("acl_datacenter", Kind::Str, Fate::Refused(NO_ACCESS_CONTROL)),
    ("acl_default_policy", Kind::Str, Fate::Idle(NO_ACCESS_CONTROL)),
    ("acl_down_policy", Kind::Str, Fate::Idle(NO_ACCESS_CONTROL)),
    ("acl_enable_key_list_policy", Kind::Bool, Fate::Harmless),
    ("acl_enforce_version_8", Kind::Bool, Fate::Idle(OLD)),
    ("acl_master_token", Kind::Str, Fate::Idle(NO_ACCESS_CONTROL)),
    ("acl_replication_token", Kind::Str, Fate::Idle(NO_ACCESS_CONTROL)),
    ("acl_token", Kind::Str, Fate::Idle(NO_ACCESS_CONTROL)),
    ("acl_ttl", Kind::Duration, Fate::Harmless),
    ("addresses.dns", Kind::Str, Fate::Used),
    ("addresses.grpc", Kind::Str, Fate::Mesh),
    ("addresses.grpc_tls", Kind::Str, Fate::Mesh),
    ("addresses.http", Kind::Str, Fate::Used),
    ("addresses.https", Kind::Str, Fate::Idle("HTTPS is not served")),
    ("advertise_addr", Kind::Str, Fate::Used),
    ("advertise_addr_ipv4", Kind::Str, Fate::Used),
    ("advertise_addr_ipv6", Kind::Str, Fate::Used),
    ("advertise_addr_wan", Kind::Str, Fate::Used),
    ("advertise_addr_wan_ipv4", Kind::Str, Fate::Idle(ONE_DATACENTER)),
    ("advertise_addr_wan_ipv6", Kind::Str, Fate::Idle(ONE_DATACENTER)),
    ("advertise_reconnect_timeout", Kind::Duration, Fate::Used),
    ("ae_interval", Kind::Duration, Fate::Idle(YET)),
    ("alt_domain", Kind::Str, Fate::Live),
    ("audit", Kind::Any, Fate::Refused("there is no audit log")),
    ("auto_config.authorization", Kind::Any, Fate::Refused(NO_ENCRYPTION)),
    ("auto_config.dns_sans", Kind::List, Fate::Harmless),
    ("auto_config.enabled", Kind::Bool, Fate::Refused(NO_ENCRYPTION)),
    ("auto_config.intro_token", Kind::Str, Fate::Harmless),
    ("auto_config.intro_token_file", Kind::Str, Fate::Harmless),
    ("auto_config.ip_sans", Kind::List, Fate::Harmless),
    ("auto_config.server_addresses", Kind::List, Fate::Harmless),
    ("auto_encrypt.allow_tls", Kind::Bool, Fate::Refused(NO_ENCRYPTION)),
    ("auto_encrypt.dns_san", Kind::List, Fate::Harmless),
    ("auto_encrypt.ip_san", Kind::List, Fate::Harmless),
    ("auto_encrypt.tls", Kind::Bool, Fate::Refused(NO_ENCRYPTION)),
    ("auto_reload_config", Kind::Bool, Fate::Used),
    ("autopilot.cleanup_dead_servers", Kind::Bool, Fate::Used),
    ("autopilot.disable_upgrade_migration", Kind::Bool, Fate::Harmless),
    ("autopilot.last_contact_threshold", Kind::Duration, Fate::Used),
    ("autopilot.max_trailing_logs", Kind::Int, Fate::Used),
    ("autopilot.min_quorum", Kind::Int, Fate::Used),
    ("autopilot.redundancy_zone_tag", Kind::Str, Fate::Idle(ALL_VOTE)),
    ("autopilot.server_stabilization_time", Kind::Duration, Fate::Used),
    ("autopilot.upgrade_version_tag", Kind::Str, Fate::Idle(ALL_VOTE)),
    ("bind_addr", Kind::Str, Fate::Used),
    ("bootstrap", Kind::Bool, Fate::Used),
    ("bootstrap_expect", Kind::Int, Fate::Used),
    ("ca_file", Kind::Str, Fate::Live),
    ("ca_path", Kind::Str, Fate::Live),
    ("cache.entry_fetch_max_burst", Kind::Int, Fate::Harmless),
    ("cache.entry_fetch_rate", Kind::Float, Fate::Harmless),
    ("cert_file", Kind::Str, Fate::Refused(NO_ENCRYPTION)),
    ("check", Kind::Definitions, Fate::Live),
    ("check_deregister_interval_min", Kind::Duration, Fate::Used),
    ("check_flap_limit", Kind::Int, Fate::Used),
    ("check_flap_window", Kind::Duration, Fate::Used),
    ("check_output_max_size", Kind::Int, Fate::Used),
    ("check_reap_interval", Kind::Duration, Fate::Used),
    ("check_update_interval", Kind::Duration, Fate::Used),
    ("checks", Kind::Definitions, Fate::Live),
    ("client_addr", Kind::Str, Fate::Used),
    ("cloud", Kind::Any, Fate::Idle("it belongs to a hosted service")),
    ("config_entries", Kind::Any, Fate::Mesh),
    ("connect", Kind::Any, Fate::Mesh),
    ("data_dir", Kind::Str, Fate::Used),
    ("datacenter", Kind::Str, Fate::Used),
    ("default_intention_policy", Kind::Str, Fate::Mesh),
    ("default_query_time", Kind::Duration, Fate::Used),
    ("disable_anonymous_signature", Kind::Bool, Fate::Harmless),
    ("disable_coordinates", Kind::Bool, Fate::Idle(YET)),
    ("disable_host_node_id", Kind::Bool, Fate::Idle(YET)),
    ("disable_http_unprintable_char_filter", Kind::Bool, Fate::Used),
    ("disable_keyring_file", Kind::Bool, Fate::Used),
    ("disable_remote_exec", Kind::Bool, Fate::Used),
    ("disable_update_check", Kind::Bool, Fate::Harmless),
    ("discard_check_output", Kind::Bool, Fate::Used),
    ("discovery_max_stale", Kind::Duration, Fate::Used),
    ("dns_config.a_record_limit", Kind::Int, Fate::Live),
    ("dns_config.allow_stale", Kind::Bool, Fate::Live),
    ("dns_config.cache_max_age", Kind::Duration, Fate::Live),
    ("dns_config.disable_compression", Kind::Bool, Fate::Live),
    ("dns_config.enable_additional_node_meta_txt", Kind::Bool, Fate::Live),
    ("dns_config.enable_truncate", Kind::Bool, Fate::Live),
    ("dns_config.max_stale", Kind::Duration, Fate::Live),
    ("dns_config.node_ttl", Kind::Duration, Fate::Live),
    ("dns_config.only_passing", Kind::Bool, Fate::Live),
    ("dns_config.recursor_strategy", Kind::Str, Fate::Live),
    ("dns_config.recursor_timeout", Kind::Duration, Fate::Live),
    ("dns_config.responses_per_second", Kind::Int, Fate::Live),
    ("dns_config.service_ttl", Kind::Map, Fate::Live),
    ("dns_config.soa.expire", Kind::Int, Fate::Live),
    ("dns_config.soa.min_ttl", Kind::Int, Fate::Live),
    ("dns_config.soa.refresh", Kind::Int, Fate::Live),
    ("dns_config.soa.retry", Kind::Int, Fate::Live),
    ("dns_config.udp_answer_limit", Kind::Int, Fate::Live),
    ("dns_config.use_cache", Kind::Bool, Fate::Live),
    ("domain", Kind::Str, Fate::Live),
    ("enable_acl_replication", Kind::Bool, Fate::Harmless),
    ("enable_agent_tls_for_checks", Kind::Bool, Fate::Live),
    ("enable_central_service_config", Kind::Bool, Fate::Mesh),
    ("enable_debug", Kind::Bool, Fate::Used),
    ("enable_local_script_checks", Kind::Bool, Fate::Used),
    ("enable_script_checks", Kind::Bool, Fate::Used),
    ("enable_syslog", Kind::Bool, Fate::Used),
    ("encrypt", Kind::Str, Fate::Used),
    ("encrypt_verify_incoming", Kind::Bool, Fate::Used),
    ("encrypt_verify_outgoing", Kind::Bool, Fate::Used),
    ("experiments", Kind::List, Fate::Idle("there are no experiments")),
    ("gossip_lan.gossip_interval", Kind::Duration, Fate::Used),
    ("gossip_lan.gossip_nodes", Kind::Int, Fate::Used),
    ("gossip_lan.probe_interval", Kind::Duration, Fate::Used),
    ("gossip_lan.probe_timeout", Kind::Duration, Fate::Used),
    ("gossip_lan.retransmit_mult", Kind::Int, Fate::Used),
    ("gossip_lan.suspicion_mult", Kind::Int, Fate::Used),
    ("gossip_wan", Kind::Any, Fate::Idle(ONE_DATACENTER)),
    ("http_config.allow_origins", Kind::List, Fate::Used),
    ("http_config.allow_write_http_from", Kind::List, Fate::Used),
    ("http_config.block_endpoints", Kind::List, Fate::Used),
    ("http_config.max_header_bytes", Kind::Int, Fate::Idle(YET)),
    ("http_config.response_headers", Kind::Map, Fate::Used),
    ("http_config.use_cache", Kind::Bool, Fate::Harmless),
    ("key_file", Kind::Str, Fate::Refused(NO_ENCRYPTION)),
    ("leave_on_terminate", Kind::Bool, Fate::Used),
    ("license_path", Kind::Str, Fate::Idle("no licence is needed")),
    ("limits.http_max_conns_per_client", Kind::Int, Fate::Live),
    ("limits.https_handshake_timeout", Kind::Duration, Fate::Harmless),
    ("limits.kv_max_value_size", Kind::Int, Fate::Used),
    ("limits.request_limits.mode", Kind::Str, Fate::Live),
    ("limits.request_limits.read_rate", Kind::Float, Fate::Live),
    ("limits.request_limits.write_rate", Kind::Float, Fate::Live),
    ("limits.rpc_client_timeout", Kind::Duration, Fate::Idle(YET)),
    ("limits.rpc_handshake_timeout", Kind::Duration, Fate::Used),
    ("limits.rpc_max_burst", Kind::Int, Fate::Live),
    ("limits.rpc_max_conns_per_client", Kind::Int, Fate::Used),
    ("limits.rpc_rate", Kind::Float, Fate::Live),
    ("limits.txn_max_req_len", Kind::Int, Fate::Used),
    ("locality", Kind::Any, Fate::Mesh),
    ("log_file", Kind::Str, Fate::Used),
    ("log_json", Kind::Bool, Fate::Used),
    ("log_level", Kind::Str, Fate::Live),
    ("log_rotate_bytes", Kind::Int, Fate::Used),
    ("log_rotate_duration", Kind::Duration, Fate::Used),
    ("log_rotate_max_files", Kind::Int, Fate::Used),
    ("max_query_time", Kind::Duration, Fate::Used),
    ("node_id", Kind::Str, Fate::Used),
    ("node_meta", Kind::Map, Fate::Live),
    ("node_name", Kind::Str, Fate::Used),
    ("non_voting_server", Kind::Bool, Fate::Idle(ALL_VOTE)),
    ("partition", Kind::Str, Fate::Refused("there are no partitions")),
    ("peering", Kind::Any, Fate::Mesh),
    ("performance.grpc_keepalive_interval", Kind::Duration, Fate::Mesh),
    ("performance.grpc_keepalive_timeout", Kind::Duration, Fate::Mesh),
    ("performance.leave_drain_time", Kind::Duration, Fate::Idle(YET)),
    ("performance.raft_multiplier", Kind::Int, Fate::Used),
    ("performance.rpc_hold_timeout", Kind::Duration, Fate::Used),
    ("pid_file", Kind::Str, Fate::Used),
    ("ports.dns", Kind::Port, Fate::Used),
    ("ports.grpc", Kind::Port, Fate::Mesh),
    ("ports.grpc_tls", Kind::Port, Fate::Mesh),
    ("ports.http", Kind::Port, Fate::Used),
    ("ports.https", Kind::Port, Fate::Used),
    ("ports.serf_lan", Kind::Port, Fate::Used),
    ("ports.serf_wan", Kind::Port, Fate::Used),
    ("ports.server", Kind::Port, Fate::Used),
    ("ports.sidecar_max_port", Kind::Port, Fate::Mesh),
    ("ports.sidecar_min_port", Kind::Port, Fate::Mesh),
    ("primary_datacenter", Kind::Str, Fate::Used),
    ("primary_gateways", Kind::List, Fate::Mesh),
    ("primary_gateways_interval", Kind::Duration, Fate::Mesh),
    ("protocol", Kind::Int, Fate::Harmless),
    ("raft_boltdb", Kind::Any, Fate::Idle(LOG_STORE)),
    ("raft_logstore.backend", Kind::Str, Fate::Used),
    ("raft_logstore.boltdb", Kind::Any, Fate::Idle(LOG_STORE)),
    ("raft_logstore.disable_log_cache", Kind::Bool, Fate::Idle(LOG_STORE)),
    ("raft_logstore.verification", Kind::Any, Fate::Idle(LOG_STORE)),
    ("raft_logstore.wal", Kind::Any, Fate::Idle(LOG_STORE)),
    ("raft_protocol", Kind::Int, Fate::Harmless),
    ("raft_snapshot_interval", Kind::Duration, Fate::Idle(YET)),
    ("raft_snapshot_threshold", Kind::Int, Fate::Used),
    ("raft_trailing_logs", Kind::Int, Fate::Used),
    ("read_replica", Kind::Bool, Fate::Idle(ALL_VOTE)),
    ("reconnect_timeout", Kind::Duration, Fate::Used),
    ("reconnect_timeout_wan", Kind::Duration, Fate::Idle(ONE_DATACENTER)),
    ("recursors", Kind::List, Fate::Live),
    ("rejoin_after_leave", Kind::Bool, Fate::Used),
    ("reporting", Kind::Any, Fate::Harmless),
    ("retry_interval", Kind::Duration, Fate::Used),
    ("retry_interval_wan", Kind::Duration, Fate::Idle(ONE_DATACENTER)),
    ("retry_join", Kind::List, Fate::Used),
    ("retry_join_wan", Kind::List, Fate::Idle(ONE_DATACENTER)),
    ("retry_max", Kind::Int, Fate::Used),
    ("retry_max_wan", Kind::Int, Fate::Idle(ONE_DATACENTER)),
    ("revision", Kind::Str, Fate::Harmless),
    ("rpc.enable_streaming", Kind::Bool, Fate::Harmless),
    ("segment", Kind::Str, Fate::Used),
    ("segments", Kind::Definitions, Fate::Used),
    ("serf_lan", Kind::Str, Fate::Used),
    ("serf_lan_allowed_cidrs", Kind::List, Fate::Used),
    ("serf_wan", Kind::Str, Fate::Idle(ONE_DATACENTER)),
    ("serf_wan_allowed_cidrs", Kind::List, Fate::Idle(ONE_DATACENTER)),
    ("server", Kind::Bool, Fate::Used),
    ("server_name", Kind::Str, Fate::Harmless),
    ("server_rejoin_age_max", Kind::Duration, Fate::Idle(YET)),
    ("service", Kind::Definitions, Fate::Live),
    ("services", Kind::Definitions, Fate::Live),
    ("session_ttl_min", Kind::Duration, Fate::Used),
    ("skip_leave_on_interrupt", Kind::Bool, Fate::Used),
    (
        "snapshot_agent",
        Kind::Any,
        Fate::Refused(
            "snapshots are not taken on a schedule: have a timer call `muster snapshot save`",
        ),
    ),
    ("start_join", Kind::List, Fate::Used),
    ("start_join_wan", Kind::List, Fate::Idle(ONE_DATACENTER)),
    ("sync_coordinate_interval_min", Kind::Duration, Fate::Idle(YET)),
    ("sync_coordinate_rate_target", Kind::Float, Fate::Idle(YET)),
    ("syslog_facility", Kind::Str, Fate::Used),
    ("tagged_addresses", Kind::Map, Fate::Used),
    ("telemetry.circonus_api_app", Kind::Str, Fate::Idle(NO_SINKS)),
    ("telemetry.circonus_api_token", Kind::Str, Fate::Idle(NO_SINKS)),
    ("telemetry.circonus_api_url", Kind::Str, Fate::Idle(NO_SINKS)),
    ("telemetry.circonus_broker_id", Kind::Str, Fate::Idle(NO_SINKS)),
    ("telemetry.circonus_broker_select_tag", Kind::Str, Fate::Idle(NO_SINKS)),
    ("telemetry.circonus_check_display_name", Kind::Str, Fate::Idle(NO_SINKS)),
    ("telemetry.circonus_check_force_metric_activation", Kind::Str, Fate::Idle(NO_SINKS)),
    ("telemetry.circonus_check_id", Kind::Str, Fate::Idle(NO_SINKS)),
    ("telemetry.circonus_check_instance_id", Kind::Str, Fate::Idle(NO_SINKS)),
    ("telemetry.circonus_check_search_tag", Kind::Str, Fate::Idle(NO_SINKS)),
    ("telemetry.circonus_check_tags", Kind::Str, Fate::Idle(NO_SINKS)),
    ("telemetry.circonus_submission_interval", Kind::Str, Fate::Idle(NO_SINKS)),
    ("telemetry.circonus_submission_url", Kind::Str, Fate::Idle(NO_SINKS)),
    ("telemetry.disable_compat_1.9", Kind::Bool, Fate::Harmless),
    ("telemetry.disable_hostname", Kind::Bool, Fate::Harmless),
    ("telemetry.dogstatsd_addr", Kind::Str, Fate::Idle(NO_SINKS)),
    ("telemetry.dogstatsd_tags", Kind::List, Fate::Idle(NO_SINKS)),
    ("telemetry.enable_host_metrics", Kind::Bool, Fate::Idle(NO_SINKS)),
    ("telemetry.filter_default", Kind::Bool, Fate::Idle(NO_SINKS)),
    ("telemetry.metrics_prefix", Kind::Str, Fate::Idle(NO_SINKS)),
    ("telemetry.prefix_filter", Kind::List, Fate::Idle(NO_SINKS)),
    ("telemetry.prometheus_retention_time", Kind::Duration, Fate::Idle(NO_SINKS)),
    ("telemetry.retry_failed_connection", Kind::Bool, Fate::Idle(NO_SINKS)),
    ("telemetry.statsd_address", Kind::Str, Fate::Idle(NO_SINKS)),
    ("telemetry.statsite_address", Kind::Str, Fate::Idle(NO_SINKS)),
    ("tls", Kind::Any, Fate::Refused(NO_ENCRYPTION)),
    ("tls_cipher_suites", Kind::Str, Fate::Idle(YET)),
    ("tls_min_version", Kind::Str, Fate::Idle(YET)),
    ("tls_prefer_server_cipher_suites", Kind::Bool, Fate::Idle(YET)),
    ("translate_wan_addrs", Kind::Bool, Fate::Idle(ONE_DATACENTER)),
    ("ui", Kind::Bool, Fate::Idle(NO_PAGES)),
    ("ui_config.content_path", Kind::Str, Fate::Idle(NO_PAGES)),
    ("ui_config.dashboard_url_templates", Kind::Map, Fate::Idle(NO_PAGES)),
    ("ui_config.dir", Kind::Str, Fate::Idle(NO_PAGES)),
    ("ui_config.enabled", Kind::Bool, Fate::Idle(NO_PAGES)),
    ("ui_config.metrics_provider", Kind::Str, Fate::Idle(NO_PAGES)),
    ("ui_config.metrics_provider_files", Kind::List, Fate::Idle(NO_PAGES)),
    ("ui_config.metrics_provider_options_json", Kind::Str, Fate::Idle(NO_PAGES)),
    ("ui_config.metrics_proxy", Kind::Any, Fate::Idle(NO_PAGES)),
    ("ui_content_path", Kind::Str, Fate::Idle(NO_PAGES)),
    ("ui_dir", Kind::Str, Fate::Idle(NO_PAGES)),
    ("unix_sockets.group", Kind::Str, Fate::Used),
    ("unix_sockets.mode", Kind::Str, Fate::Used),
    ("unix_sockets.user", Kind::Str, Fate::Used),
    ("use_streaming_backend", Kind::Bool, Fate::Harmless),
    ("verify_incoming", Kind::Bool, Fate::Refused(NO_ENCRYPTION)),
    ("verify_incoming_https", Kind::Bool, Fate::Refused(NO_ENCRYPTION)),
    ("verify_incoming_rpc", Kind::Bool, Fate::Refused(NO_ENCRYPTION)),
    ("verify_outgoing", Kind::Bool, Fate::Refused(NO_ENCRYPTION)),
    ("verify_server_hostname", Kind::Bool, Fate::Refused(NO_ENCRYPTION)),
    ("version", Kind::Str, Fate::Harmless),
    ("version_prerelease", Kind::Str, Fate::Harmless),
    ("watches", Kind::Definitions, Fate::Live),
    ("xds", Kind::Any, Fate::Mesh),
];

/// Entry of the key at this exact path.
pub(super) fn find(path: &str) -> Option<(&'static str, Kind, Fate)> {
    // Names are not particular about case, as in the reference.
    let lower = path.to_lowercase();
    let path = lower.as_str();
    KEYS.binary_search_by(|(known, _, _)| (*known).cmp(path)).ok().map(|at| KEYS[at])
}

/// Is `path` a block that holds known keys (`ports`, `acl.tokens`)?
pub(super) fn is_block(path: &str) -> bool {
    let lower = path.to_lowercase();
    KEYS.iter().any(|(known, _, _)| {
        known.strip_prefix(lower.as_str()).is_some_and(|rest| rest.starts_with('.'))
    })
}

/// Keys of versions long past, and what is written today.
const RENAMED: [(&str, &str); 8] = [
    ("advertise_addrs", "advertise_addr"),
    ("dogstatsd_addr", "telemetry.dogstatsd_addr"),
    ("http_api_response_headers", "http_config.response_headers"),
    ("recursor", "recursors"),
    ("retry_join_azure", "retry_join"),
    ("retry_join_ec2", "retry_join"),
    ("retry_join_gce", "retry_join"),
    ("statsd_addr", "telemetry.statsd_address"),
];

/// The known key that `path` was probably meant to be: its name of today, the same name in another block, or one that
/// is at most two letters away.
pub(super) fn nearest(path: &str) -> Option<&'static str> {
    let lower = path.to_lowercase();
    if let Some((_, today)) = RENAMED.iter().find(|(old, _)| *old == lower) {
        return Some(today);
    }
    let near = spelling::nearest(&lower, KEYS.iter().map(|(known, _, _)| *known));
    near.or_else(|| {
        let name = |path: &'static str| path.rsplit('.').next().unwrap_or(path);
        let own = lower.rsplit('.').next().unwrap_or_default();
        // A name that several blocks have says little.
        let mut same = KEYS.iter().map(|(known, _, _)| *known).filter(|known| name(known) == own);
        same.next().filter(|_| same.next().is_none())
    })
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
        assert_eq!(nearest("Data_Dri"), Some("data_dir"));
        assert_eq!(nearest("raft_multiplier"), Some("performance.raft_multiplier"));
        assert_eq!(nearest("ports.node_ttl"), Some("dns_config.node_ttl"));
        assert_eq!(nearest("Recursor"), Some("recursors"));
        assert_eq!(nearest("enabled"), None);
        assert_eq!(nearest("entirely_else"), None);
    }
}
