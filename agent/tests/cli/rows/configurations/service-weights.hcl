data_dir = "/opt/consul"
bind_addr = "127.0.0.1"
service { name = "w" port = 1 weights { passing = 10 warning = 1 } meta { version = "1" } enable_tag_override = true }
