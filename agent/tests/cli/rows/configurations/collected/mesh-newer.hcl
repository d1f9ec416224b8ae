data_dir = "/tmp/nodata"
bind_addr = "127.0.0.1"
ports {
  grpc = -1
  grpc_tls = 8503
}
peering {
  enabled = false
}
xds {
  update_max_per_second = 250
}
use_streaming_backend = true
rpc {
  enable_streaming = true
}
