{
  "data_dir": "/tmp/nodata",
  "bind_addr": "127.0.0.1",
  "server": true,
  "bootstrap_expect": 1,
  "ui": true,
  "telemetry": {
    "prometheus_retention_time": "24h",
    "disable_hostname": true
  },
  "service": {
    "name": "shop",
    "tags": ["a"],
    "port": 8080
  },
  "checks": [
    {
      "name": "shop answers",
      "tcp": "127.0.0.1:8080",
      "interval": "10s",
      "timeout": "1s"
    }
  ]
}
