data_dir = "/tmp/nodata"
bind_addr = "127.0.0.1"
server = true
acl {
  enabled = true
  default_policy = "deny"
}
