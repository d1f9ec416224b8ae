data_dir = "/tmp/nodata"
bind_addr = "127.0.0.1"
tls {
  defaults {
    verify_incoming = true
    verify_outgoing = true
  }
}
