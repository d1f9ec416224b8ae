//! The running configuration as `/v1/agent/self` shows it (`DebugConfig`): the reference's names, in
//! its forms. Secrets are never in it. Parts of the reference that do not exist here show as off.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use muster_client::types::{format_duration, format_nanos};
use serde_json::{Value, json};

use super::{Config, HttpAddress, Segment};
use crate::acl::DefaultPolicy;
use crate::gossip::{SEGMENT_NAME_MAX, SEGMENTS_MAX};
use crate::secrets::{self, HIDDEN};
use crate::upstream;

fn time(duration: Duration) -> String {
    format_duration(duration)
}

fn path_text(path: Option<&Path>) -> String {
    path.map(|path| path.display().to_string()).unwrap_or_default()
}

impl Config {
    /// All settings, by the reference's names.
    pub fn debug(&self, node_id: &str, version: &str) -> Value {
        let mut shown = off();
        for part in [
            self.node_shown(node_id, version),
            self.addresses_shown(),
            self.http_shown(),
            self.checks_shown(),
            self.raft_shown(),
            self.log_shown(),
            self.dns_shown(),
            self.gossip_shown(),
            self.segments_shown(),
            self.acl_shown(),
        ] {
            for (name, value) in part.as_object().into_iter().flatten() {
                shown[name] = value.clone();
            }
        }
        secrets::hide(&mut shown);
        shown
    }

    fn node_shown(&self, node_id: &str, version: &str) -> Value {
        json!({
            "Bootstrap": self.bootstrap,
            "BootstrapExpect": self.bootstrap_expect,
            "DataDir": path_text(self.data_dir.as_deref()),
            "Datacenter": self.datacenter,
            "DevMode": self.dev,
            "DisableRemoteExec": !self.remote_exec,
            "LeaveOnTerm": self.leave_on_terminate,
            "NodeID": node_id,
            "NodeMeta": self.local.node_meta,
            "NodeName": self.node_name,
            "PidFile": path_text(self.pid_file.as_deref()),
            "ServerMode": self.server,
            "SkipLeaveOnInt": self.skip_leave_on_interrupt,
            "TaggedAddresses": self.local.tagged_addresses,
            "Version": version,
        })
    }

    fn addresses_shown(&self) -> Value {
        let tcp = |port: u16| format!("tcp://{}:{port}", self.advertise);
        let bound = |port: u16| format!("tcp://{}:{port}", self.bind);
        let http = self.http_addresses.iter().map(|address| match address {
            HttpAddress::Tcp(address) => format!("tcp://{address}"),
            HttpAddress::Unix(path) => format!("unix://{}", path.display()),
        });
        let clients = self.http_addresses.iter().filter_map(|address| match address {
            HttpAddress::Tcp(address) => Some(address.ip().to_string()),
            HttpAddress::Unix(_) => None,
        });
        let dns = self
            .dns_addresses
            .iter()
            .flat_map(|address| ["tcp", "udp"].map(|network| format!("{network}://{address}")));
        let port = |port: Option<u16>| port.map_or(-1, i64::from);
        let ports = self.ports;
        json!({
            "AdvertiseAddrLAN": self.advertise,
            "AdvertiseAddrWAN": self.advertise_wan,
            "BindAddr": self.bind,
            "ClientAddrs": clients.collect::<Vec<_>>(),
            "DNSAddrs": dns.collect::<Vec<_>>(),
            "DNSPort": port(ports.dns),
            "HTTPAddrs": http.collect::<Vec<_>>(),
            "HTTPPort": port(ports.http),
            "RPCAdvertiseAddr": tcp(ports.server),
            "RPCBindAddr": bound(ports.server),
            "SerfAdvertiseAddrLAN": tcp(ports.serf_lan),
            "SerfAdvertiseAddrWAN": ports.serf_wan.map(tcp).unwrap_or_default(),
            "SerfBindAddrLAN": bound(ports.serf_lan),
            "SerfBindAddrWAN": ports.serf_wan.map(bound).unwrap_or_default(),
            "SerfPortLAN": ports.serf_lan,
            "SerfPortWAN": port(ports.serf_wan),
            "ServerPort": ports.server,
        })
    }

    fn http_shown(&self) -> Value {
        let http = &self.http;
        let texts = |list: Vec<String>| json!(list);
        json!({
            "AllowOrigins": texts(http.allow_origins.iter().map(ToString::to_string).collect()),
            "AllowWriteHTTPFrom":
                texts(http.allow_write_from.iter().map(ToString::to_string).collect()),
            "DefaultQueryTime": time(http.waits.bounded(Duration::ZERO)),
            "DisableHTTPUnprintableCharFilter": http.unprintable_paths,
            "DiscoveryMaxStale": time(http.discovery_max_stale),
            "HTTPBlockEndpoints": http.block_endpoints,
            "HTTPMaxConnsPerClient": self.http_connections_per_client,
            "HTTPResponseHeaders":
                http.response_headers.iter().cloned().collect::<BTreeMap<_, _>>(),
            "KVMaxValueSize": http.kv_value_bytes_max,
            "MaxQueryTime": time(http.waits.bounded(Duration::MAX)),
            // As it was written: 0 is the default, and one below zero is no minimum.
            "SessionTTLMin": format_nanos(self.written.nanos("session_ttl_min").unwrap_or(0)),
            "TxnMaxReqLen": http.txn_body_bytes_max,
        })
    }

    fn checks_shown(&self) -> Value {
        let local = &self.local;
        json!({
            "AEInterval": time(local.sync_interval),
            "CheckDeregisterIntervalMin": time(local.check_deregister_after_min),
            "CheckOutputMaxSize": local.check_output_max_size,
            "CheckReapInterval": time(local.check_reap_interval),
            "CheckUpdateInterval": time(local.check_update_interval),
            "Checks": local.checks,
            "DiscardCheckOutput": local.discard_check_output,
            "EnableLocalScriptChecks":
                local.enable_local_script_checks || local.enable_script_checks,
            "EnableRemoteScriptChecks": local.enable_script_checks,
            "Services": local.services,
        })
    }

    fn raft_shown(&self) -> Value {
        let (raft, autopilot) = (&self.raft, &self.raft.autopilot);
        let scaled = |ms: u64| time(Duration::from_millis(ms) * raft.raft_multiplier);
        let nanos = |nanos: u64| time(Duration::from_nanos(nanos));
        let rate = self.upstream.rate;
        json!({
            "AutopilotCleanupDeadServers": autopilot.cleanup_dead_servers,
            "AutopilotDisableUpgradeMigration": false,
            "AutopilotLastContactThreshold": nanos(autopilot.last_contact_threshold_ns),
            "AutopilotMaxTrailingLogs": autopilot.max_trailing_logs,
            "AutopilotMinQuorum": autopilot.min_quorum,
            "AutopilotRedundancyZoneTag": "",
            "AutopilotServerStabilizationTime": nanos(autopilot.server_stabilization_time_ns),
            "AutopilotUpgradeVersionTag": "",
            "ConsulRaftElectionTimeout": scaled(1000),
            "ConsulRaftHeartbeatTimeout": scaled(1000),
            "ConsulRaftLeaderLeaseTimeout": scaled(500),
            "RPCHoldTimeout": time(self.upstream.hold),
            "RPCMaxBurst": rate.map_or(upstream::Rate::BURST, |rate| rate.burst),
            "RPCRateLimit": rate.map_or(json!(-1), |rate| json!(rate.per_second)),
            "RaftSnapshotThreshold": raft.snapshot_threshold,
            "RaftTrailingLogs": raft.trailing_logs,
        })
    }

    fn log_shown(&self) -> Value {
        let (log, file) = (&self.log, self.log.file.as_ref());
        json!({
            "Logging": {
                "EnableSyslog": log.syslog.is_some(),
                "LogFilePath": path_text(file.map(|file| file.path.as_path())),
                "LogJSON": log.json,
                "LogLevel": log.level.to_uppercase(),
                "LogRotateBytes": file.map_or(0, |file| file.bytes_max),
                "LogRotateDuration": time(file.map_or(Duration::ZERO, |file| file.age_max)),
                "LogRotateMaxFiles": file.map_or(0, |file| file.files_max),
                "Name": "",
                "SyslogFacility": log.syslog.as_deref().unwrap_or("LOCAL0"),
            },
        })
    }

    fn acl_shown(&self) -> Value {
        let acl = &self.acl;
        json!({
            "ACLAgentMasterToken": HIDDEN,
            "ACLAgentToken": HIDDEN,
            "ACLDatacenter": acl.primary_datacenter,
            "ACLDefaultPolicy": match acl.default_policy {
                DefaultPolicy::Allow => "allow",
                DefaultPolicy::Deny => "deny",
            },
            "ACLDisabledTTL": "2m0s",
            "ACLDownPolicy": acl.down_policy.name(),
            "ACLEnableKeyListPolicy": acl.enable_key_list_policy,
            "ACLEnableTokenPersistence": acl.enable_token_persistence,
            "ACLMasterToken": HIDDEN,
            "ACLPolicyTTL": time(acl.policy_ttl),
            "ACLReplicationToken": HIDDEN,
            "ACLRoleTTL": time(acl.role_ttl),
            "ACLToken": HIDDEN,
            "ACLTokenReplication": acl.enable_token_replication,
            "ACLTokenTTL": time(acl.token_ttl),
            "ACLsEnabled": acl.enabled,
            "PrimaryDatacenter": acl.primary_datacenter,
        })
    }

    fn gossip_shown(&self) -> Value {
        let (gossip, timing) = (&self.gossip, &self.gossip.timing);
        let allowed: Vec<String> = gossip.allowed.iter().map(ToString::to_string).collect();
        json!({
            "EncryptVerifyIncoming": gossip.verify_incoming,
            "EncryptVerifyOutgoing": gossip.verify_outgoing,
            "GossipLANGossipInterval": time(timing.gossip_interval),
            "GossipLANGossipNodes": timing.gossip_nodes,
            "GossipLANProbeInterval": time(timing.probe_interval),
            "GossipLANProbeTimeout": time(timing.probe_timeout),
            "GossipLANRetransmitMult": timing.retransmit_mult,
            "GossipLANSuspicionMult": timing.suspicion_mult,
            "ReconnectTimeoutLAN": gossip.reconnect_timeout_shown(),
            "RejoinAfterLeave": gossip.rejoin_after_leave,
            "RetryJoinIntervalLAN": time(gossip.retry_interval),
            "RetryJoinLAN": gossip.retry_join,
            "RetryJoinMaxAttemptsLAN": gossip.retry_max,
            "SerfAllowedCIDRsLAN": allowed,
            "StartJoinAddrsLAN": gossip.start_join,
        })
    }

    fn segments_shown(&self) -> Value {
        let shown = |segment: &Segment| {
            json!({
                "Name": segment.name,
                "Bind": format!("tcp://{}", segment.bind),
                "Advertise": format!("tcp://{}", segment.advertise),
                "RPCListener": segment.rpc_listener,
            })
        };
        let served: Vec<Value> = self.segments.served.iter().map(shown).collect();
        json!({
            "SegmentLimit": SEGMENTS_MAX,
            "SegmentName": self.segments.own,
            "SegmentNameLimit": SEGMENT_NAME_MAX,
            "Segments": served,
        })
    }

    fn dns_shown(&self) -> Value {
        let dns = &self.dns;
        let recursors: Vec<String> = dns.recursors.iter().map(ToString::to_string).collect();
        let service_ttl: serde_json::Map<String, Value> =
            dns.service_ttl.written().map(|(name, ttl)| (name, json!(time(ttl)))).collect();
        json!({
            "DNSARecordLimit": dns.a_record_limit,
            "DNSAllowStale": dns.allow_stale,
            "DNSAltDomain": dns.alt_domain.as_ref().map(ToString::to_string).unwrap_or_default(),
            "DNSCacheMaxAge": time(dns.cache_max_age),
            "DNSDisableCompression": dns.disable_compression,
            "DNSEnableTruncate": dns.enable_truncate,
            "DNSMaxStale": time(dns.max_stale),
            "DNSNodeMetaTXT": dns.node_meta_txt,
            "DNSNodeTTL": time(dns.node_ttl),
            "DNSOnlyPassing": dns.only_passing,
            "DNSRecursorTimeout": time(dns.recursor_timeout),
            "DNSRecursors": recursors,
            "DNSSOA": {
                "Expire": dns.soa.expire, "Minttl": dns.soa.min_ttl,
                "Refresh": dns.soa.refresh, "Retry": dns.soa.retry,
            },
            "DNSServiceTTL": service_ttl,
            "DNSUDPAnswerLimit": dns.udp_answer_limit,
            "DNSUseCache": dns.use_cache,
            "DNSDomain": dns.domain.to_string(),
        })
    }
}

/// Settings of parts that do not exist here: TLS, the mesh, automatic set-up, a web interface, other
/// datacenters. Tools look these names up, so they are there, switched off. So is `EnableDebug`, whatever is configured:
/// tools that see it on ask for profiles, which are not made here.
fn off() -> Value {
    let lists: [&str; 11] = [
        "AutoEncryptDNSSAN",
        "AutoEncryptIPSAN",
        "ConfigEntryBootstrap",
        "GRPCAddrs",
        "HTTPSAddrs",
        "PrimaryGateways",
        "RetryJoinWAN",
        "SerfAllowedCIDRsWAN",
        "StartJoinAddrsWAN",
        "TLSCipherSuites",
        "Watches",
    ];
    let no: [&str; 15] = [
        "AutoEncryptAllowTLS",
        "AutoEncryptTLS",
        "AutopilotDisableUpgradeMigration",
        "ConnectEnabled",
        "ConnectMeshGatewayWANFederationEnabled",
        "DisableCoordinates",
        "EnableAgentTLSForChecks",
        "EnableCentralServiceConfig",
        "EnableDebug",
        "EnableUI",
        "NonVotingServer",
        "TLSPreferServerCipherSuites",
        "TranslateWANAddrs",
        "VerifyIncoming",
        "VerifyOutgoing",
    ];
    let mut off = json!({
        "DisableUpdateCheck": true,
        "GRPCPort": -1,
        "HTTPSPort": -1,
        "UIContentPath": "/ui/",
    });
    for secret in ["EncryptKey", "KeyFile"] {
        off[secret] = HIDDEN.into();
    }
    for name in lists {
        off[name] = json!([]);
    }
    for name in no {
        off[name] = false.into();
    }
    off
}
