# a comment
// another
/* and
 a third */
data_dir = "/opt/consul"
bind_addr = "127.0.0.1"
service {
  name = "x" // here
  meta {
    note = <<EOF
several
lines
EOF
  }
}
