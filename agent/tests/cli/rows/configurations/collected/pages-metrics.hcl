data_dir = "/tmp/nodata"
bind_addr = "127.0.0.1"
ui_config = {
  enabled = true
  content_path = "/pages/"
  metrics_provider = "prometheus"
  metrics_proxy = {
    base_url = "http://127.0.0.1:9090"
  }
  dashboard_url_templates {
    service = "http://127.0.0.1:3000/d?var={{Service.Name}}"
  }
}
server = true
bootstrap_expect = 3
retry_join = ["10.1.0.1"]
