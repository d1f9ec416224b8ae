data_dir = "/opt/consul"
bind_addr = "127.0.0.1"
retry_join = ["10.0.0.11"]
retry_interval = "10s"
retry_max = 20
leave_on_terminate = true
