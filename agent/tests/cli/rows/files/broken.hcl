data_dir = "value.txt
