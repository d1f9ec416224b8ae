data_dir = "/tmp/nodata"
bind_addr = "127.0.0.1"
acl {
  enabled = false
}
addresses {
  http = "127.0.0.1"
  https = "127.0.0.1"
  grpc = "127.0.0.1"
}
node_name = "edge"
datacenter = "one"
ui = true
retry_join = ["server-a"]
