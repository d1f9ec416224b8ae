services = [
  { name = "cache" port = 6379 },
  { name = "queue" port = 5672 meta { zone = "a" } }
]
