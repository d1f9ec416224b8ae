data_dir = "/opt/consul"
bind_addr = "127.0.0.1"
enable_local_script_checks = true
check { id = "d" name = "d" docker_container_id = "f972c95ebf0e" shell = "/bin/bash" args = ["/usr/local/bin/check_mem.py"] interval = "10s" }
