data_dir = "/tmp/nodata",
bind_addr = "127.0.0.1",
server = true,
ui = true,
bootstrap = true,
encrypt = "AAAAAAAAAAAAAAAAAAAAAA==",
log_level = "INFO"
