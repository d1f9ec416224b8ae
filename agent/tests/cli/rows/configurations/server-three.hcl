datacenter = "east-1"
node_name  = "consul-server-1"
server     = true
bootstrap_expect = 3
retry_join = ["10.0.0.11", "10.0.0.12", "10.0.0.13"]
performance { raft_multiplier = 1 }
data_dir = "/opt/consul"
bind_addr = "127.0.0.1"
