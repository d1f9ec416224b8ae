data_dir = "/tmp/x
