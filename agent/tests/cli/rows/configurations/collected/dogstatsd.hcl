data_dir = "/tmp/nodata"
bind_addr = "127.0.0.1"
telemetry {
  dogstatsd_addr = "127.0.0.1:8125"
  dogstatsd_tags = ["dc:one", "team:shop"]
  disable_hostname = true
  prometheus_retention_time = "60s"
  prefix_filter = ["+muster.raft", "-muster.http"]
  filter_default = true
}
server = true
bootstrap_expect = 1
