data_dir = "/opt/consul"
bind_addr = "127.0.0.1"
addresses { http = "127.0.0.1 unix:///var/run/consul.sock" dns = "127.0.0.1" }
unix_sockets { mode = "0770" }
