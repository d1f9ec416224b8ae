data_dir = "/opt/consul"
bind_addr = "127.0.0.1"
ports { htp = 1 }
