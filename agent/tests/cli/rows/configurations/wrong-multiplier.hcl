data_dir = "/opt/consul"
bind_addr = "127.0.0.1"
performance { raft_multiplier = 11 }
