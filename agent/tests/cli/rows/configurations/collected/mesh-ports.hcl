data_dir = "/tmp/nodata"
bind_addr = "127.0.0.1"
ports {
  grpc = 8502
  https = -1
}
connect = {
  enabled = true
}
enable_central_service_config = true
config_entries {
  bootstrap = [
    {
      kind = "proxy-defaults"
      name = "global"
    }
  ]
}
