data_dir = "/opt/consul"
bind_addr = "127.0.0.1"
ports = { http = 8500 }
performance = { raft_multiplier = 5, rpc_hold_timeout = "7s", leave_drain_time = "5s" }
