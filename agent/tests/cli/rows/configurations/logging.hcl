data_dir = "/opt/consul"
bind_addr = "127.0.0.1"
log_level = "WARN"
log_json = true
log_file = "/var/log/consul/"
log_rotate_duration = "24h"
log_rotate_bytes = 10485760
log_rotate_max_files = 7
