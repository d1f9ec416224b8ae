data_dir = "/opt/consul"
bind_addr = "127.0.0.1"
check { id = "mem" name = "g" grpc = "127.0.0.1:12345" grpc_use_tls = true interval = "10s" }
