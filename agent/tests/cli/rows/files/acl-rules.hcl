service "web" {
  policy = "write"
}
key_prefix "config/" {
  policy = "read"
}
