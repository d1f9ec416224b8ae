data_dir = "/opt/consul"
bind_addr = "127.0.0.1"
limits { http_max_conns_per_client = 500 rpc_max_conns_per_client = 200 rpc_handshake_timeout = "10s" https_handshake_timeout = "10s" kv_max_value_size = 1048576 txn_max_req_len = 1048576 }
