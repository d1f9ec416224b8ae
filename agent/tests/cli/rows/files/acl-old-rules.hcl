agent "" { policy = "write" }
