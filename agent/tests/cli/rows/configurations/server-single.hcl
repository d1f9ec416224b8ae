data_dir = "/opt/consul"
bind_addr = "127.0.0.1"
server = true
bootstrap_expect = 1
client_addr = "0.0.0.0"
