
  {
  "data_dir": "/tmp/nodata",
  "bind_addr": "127.0.0.1",
  "retry_join": ["10.0.0.1", "10.0.0.2",],
  "leave_on_terminate": true,
}
