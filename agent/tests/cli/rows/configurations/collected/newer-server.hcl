data_dir = "/tmp/nodata"
bind_addr = "127.0.0.1"
server = true
bootstrap_expect = 1
license_path = "/etc/nothing/licence"
auto_reload_config = true
server_rejoin_age_max = "24h"
raft_logstore {
  backend = "wal"
  verification {
    enabled = true
    interval = "30s"
  }
}
limits {
  rpc_client_timeout = "60s"
}
experiments = []
