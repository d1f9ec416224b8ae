data_dir = "/opt/consul"
bind_addr = "127.0.0.1"
server = true
bootstrap_expect = 3
autopilot { cleanup_dead_servers = true last_contact_threshold = "200ms" max_trailing_logs = 250 server_stabilization_time = "10s" }
