data_dir = "/tmp/nodata"
bind_addr = "127.0.0.1"
acl = {
  enabled = false
  default_policy = "allow"
  enable_token_persistence = true
}
server = true
bootstrap_expect = 1
