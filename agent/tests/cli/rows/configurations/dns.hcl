data_dir = "/opt/consul"
bind_addr = "127.0.0.1"
recursors = ["8.8.8.8", "1.1.1.1"]
domain = "internal."
dns_config {
  allow_stale = true
  max_stale = "87600h"
  node_ttl = "30s"
  service_ttl { "*" = "5s" web = "30s" }
  enable_truncate = true
  only_passing = true
  udp_answer_limit = 3
}
