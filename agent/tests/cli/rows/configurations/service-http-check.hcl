data_dir = "/opt/consul"
bind_addr = "127.0.0.1"
service {
  name = "web"
  id   = "web-1"
  port = 8080
  tags = ["v1", "urlprefix-/web"]
  check {
    id       = "web-http"
    name     = "HTTP on 8080"
    http     = "http://127.0.0.1:8080/health"
    method   = "GET"
    header   { Accept = ["application/json"] }
    interval = "10s"
    timeout  = "2s"
  }
}
