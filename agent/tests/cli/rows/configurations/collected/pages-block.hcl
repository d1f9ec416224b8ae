data_dir = "/tmp/nodata"
bind_addr = "127.0.0.1"
server = true
bootstrap = true
ui_config {
  enabled = true
}
connect {
  enabled = true
}
