//! The running configuration as `/v1/agent/self` shows it (`DebugConfig`): the reference's names, in
//! its forms. Secrets are never in it. Parts of the reference that do not exist here show as off.

use std::net::IpAddr;
use std::time::Duration;

use muster_client::types::format_duration;
use serde_json::{Value, json};

use super::{Config, HttpAddress, Segment};
use crate::gossip::{SEGMENT_NAME_MAX, SEGMENTS_MAX};
use crate::secrets::{self, HIDDEN};
use crate::upstream;

fn time(duration: Duration) -> String {
    format_duration(duration)
}

impl Config {
    /// All settings, by the reference's names.
    pub fn debug(&self, node_id: &str, version: &str) -> Value {
        let tcp = |port: u16| format!("tcp://{}:{port}", self.advertise);
        let bound = |port: u16| format!("tcp://{}:{port}", self.bind);
        let http: Vec<String> = self
            .http
            .iter()
            .map(|address| match address {
                HttpAddress::Tcp(address) => format!("tcp://{address}"),
                HttpAddress::Unix(path) => format!("unix://{}", path.display()),
            })
            .collect();
        let clients: Vec<String> = self
            .http
            .iter()
            .filter_map(|address| match address {
                HttpAddress::Tcp(address) => Some(address.ip().to_string()),
                HttpAddress::Unix(_) => None,
            })
            .collect();
        let dns: Vec<String> = self
            .dns_addresses
            .iter()
            .flat_map(|address| ["tcp", "udp"].map(|network| format!("{network}://{address}")))
            .collect();
        let port = |port: Option<u16>| port.map_or(-1, i64::from);
        let wan = self.ports.serf_wan;
        let file = self.log.file.as_ref();
        let limits = &self.http_limits;
        let multiplier = self.raft.multiplier;
        let raft_time = |ms: u64| time(Duration::from_millis(ms) * multiplier);
        let family = |address: IpAddr| if address.is_ipv4() { "ipv4" } else { "ipv6" };
        let mut tagged = json!({"lan": self.advertise, "wan": self.advertise_wan});
        tagged[format!("lan_{}", family(self.advertise))] = json!(self.advertise);
        tagged[format!("wan_{}", family(self.advertise_wan))] = json!(self.advertise_wan);
        let mut shown = json!({
            "AEInterval": "1m0s",
            "AdvertiseAddrLAN": self.advertise,
            "AdvertiseAddrWAN": self.advertise_wan,
            "AllowOrigins": limits.allow_origins.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "AllowWriteHTTPFrom": limits.allow_write_from,
            "AutopilotCleanupDeadServers": self.autopilot.cleanup_dead_servers,
            "AutopilotDisableUpgradeMigration": false,
            "AutopilotLastContactThreshold": time(Duration::from_nanos(self.autopilot.last_contact_threshold_ns)),
            "AutopilotMaxTrailingLogs": self.autopilot.max_trailing_logs,
            "AutopilotMinQuorum": self.autopilot.min_quorum,
            "AutopilotRedundancyZoneTag": "",
            "AutopilotServerStabilizationTime": time(Duration::from_nanos(self.autopilot.server_stabilization_time_ns)),
            "AutopilotUpgradeVersionTag": "",
            "BindAddr": self.bind,
            "Bootstrap": self.bootstrap,
            "BootstrapExpect": self.bootstrap_expect,
            "CheckDeregisterIntervalMin": "1m0s",
            "CheckOutputMaxSize": self.checks.output_max_size,
            "CheckReapInterval": "30s",
            "CheckUpdateInterval": time(self.checks.update_interval),
            "Checks": self.check_definitions,
            "ClientAddrs": clients,
            "ConsulRaftElectionTimeout": raft_time(1000),
            "ConsulRaftHeartbeatTimeout": raft_time(1000),
            "ConsulRaftLeaderLeaseTimeout": raft_time(500),
            "DNSAddrs": dns,
            "DNSDomain": self.dns.domain.to_string(),
            "DNSPort": port(self.ports.dns),
            "DataDir": self.data_dir.as_ref().map(|path| path.display().to_string()).unwrap_or_default(),
            "Datacenter": self.datacenter,
            "DefaultQueryTime": time(limits.waits.bounded(Duration::ZERO)),
            "DevMode": self.dev,
            "DisableHTTPUnprintableCharFilter": limits.allow_unprintable,
            "DiscardCheckOutput": self.checks.discard_output,
            "DiscoveryMaxStale": time(limits.discovery_max_stale),
            "EnableLocalScriptChecks": self.checks.enable_local_script_checks || self.checks.enable_script_checks,
            "EnableRemoteScriptChecks": self.checks.enable_script_checks,
        });
        let more = [
            json!({
                "HTTPAddrs": http,
                "HTTPBlockEndpoints": limits.block_endpoints,
                "HTTPMaxConnsPerClient": limits.max_conns_per_client,
                "HTTPPort": port(self.ports.http),
                "HTTPResponseHeaders": limits.response_headers,
                "KVMaxValueSize": limits.kv_max_value_size,
                "LeaveOnTerm": self.leave_on_terminate,
                "Logging": {
                    "EnableSyslog": self.log.syslog.is_some(),
                    "LogFilePath": file.map(|file| file.path.display().to_string()).unwrap_or_default(),
                    "LogJSON": self.log.json,
                    "LogLevel": self.log.level.to_uppercase(),
                    "LogRotateBytes": file.map_or(0, |file| file.bytes_max),
                    "LogRotateDuration": time(file.map_or(Duration::ZERO, |file| file.age_max)),
                    "LogRotateMaxFiles": file.map_or(0, |file| file.files_max), "Name": "",
                    "SyslogFacility": self.log.syslog.as_deref().unwrap_or("LOCAL0"),
                },
                "MaxQueryTime": time(limits.waits.bounded(Duration::MAX)),
                "NodeID": node_id,
                "NodeMeta": self.node_meta,
                "NodeName": self.node_name,
                "PidFile": self.pid_file.as_ref().map(|path| path.display().to_string()).unwrap_or_default(),
                "PrimaryDatacenter": self.datacenter,
            }),
            json!({
                "RPCMaxBurst": self.rpc_rate.map_or(upstream::Rate::BURST, |rate| rate.burst),
                "RPCRateLimit": self.rpc_rate.map_or(json!(-1), |rate| json!(rate.per_second)),
                "RPCAdvertiseAddr": tcp(self.ports.server),
                "RPCBindAddr": bound(self.ports.server),
                "RPCHoldTimeout": time(self.rpc_hold_timeout),
                "RaftSnapshotThreshold": self.raft.snapshot_threshold,
                "RaftTrailingLogs": self.raft.trailing_logs,
                "SerfAdvertiseAddrLAN": tcp(self.ports.serf_lan),
                "SerfAdvertiseAddrWAN": wan.map(tcp).unwrap_or_default(),
                "SerfBindAddrLAN": bound(self.ports.serf_lan),
                "SerfBindAddrWAN": wan.map(bound).unwrap_or_default(),
                "SerfPortLAN": self.ports.serf_lan,
                "SerfPortWAN": port(wan),
                "ServerMode": self.server,
                "ServerPort": self.ports.server,
                "Services": self.service_definitions,
                "SessionTTLMin": time(self.session_ttl_min),
                "SkipLeaveOnInt": self.skip_leave_on_interrupt,
                "TaggedAddresses": tagged,
                "TxnMaxReqLen": limits.txn_max_req_len,
                "Version": version,
            }),
            self.dns_shown(),
            self.gossip_shown(),
            self.segments_shown(),
            off(&self.datacenter),
        ];
        for (name, value) in more.iter().filter_map(Value::as_object).flatten() {
            shown[name] = value.clone();
        }
        secrets::hide(&mut shown);
        shown
    }
}

impl Config {
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
            "DisableRemoteExec": !self.remote_exec,
        })
    }
}

/// Settings of parts that do not exist here: access control, TLS, the mesh, automatic set-up, a web interface, other
/// datacenters. Tools look these names up, so they are there, switched off. So is `EnableDebug`, whatever is configured:
/// tools that see it on ask for profiles, which are not made here.
fn off(datacenter: &str) -> Value {
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
    let no: [&str; 19] = [
        "ACLEnableKeyListPolicy",
        "ACLEnableTokenPersistence",
        "ACLTokenReplication",
        "ACLsEnabled",
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
        "ACLDatacenter": datacenter,
        "ACLDefaultPolicy": "allow",
        "ACLDownPolicy": "extend-cache",
        "DisableUpdateCheck": true,
        "GRPCPort": -1,
        "HTTPSPort": -1,
        "UIContentPath": "/ui/",
    });
    for secret in [
        "ACLAgentMasterToken",
        "ACLAgentToken",
        "ACLMasterToken",
        "ACLReplicationToken",
        "ACLToken",
        "EncryptKey",
        "KeyFile",
    ] {
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
