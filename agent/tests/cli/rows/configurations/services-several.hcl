data_dir = "/opt/consul"
bind_addr = "127.0.0.1"
services {
  name = "redis"
  port = 6379
  checks = [{ tcp = "127.0.0.1:6379" interval = "5s" }]
}
services {
  name = "sentinel"
  port = 26379
}
