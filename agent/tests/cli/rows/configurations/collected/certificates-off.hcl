data_dir = "/tmp/nodata"
bind_addr = "127.0.0.1"
verify_incoming = false
verify_outgoing = false
verify_server_hostname = false
cert_file = ""
key_file = ""
auto_encrypt {
  tls = false
}
tls {
  defaults {
    verify_incoming = false
  }
  internal_rpc {
    verify_server_hostname = false
  }
}
