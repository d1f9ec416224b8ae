datacenter = "dc1"
server = true
ports { http = 8500, dns = -1 }
service {
  name = "web"
  tags = ["a", "b"]
  check { ttl = "10s" }
}
node_meta { a = "b" }
log_level = <<E
info
E
# end
