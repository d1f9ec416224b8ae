# The agent's configuration; every .hcl and .json file of this folder is read, in alphabetical order.
# `muster validate /etc/muster.d` checks them, `systemctl reload muster` takes changes over.
data_dir  = "/var/lib/muster"
bind_addr = "{{ GetPrivateIP }}"

# One server that stands alone. For several: bootstrap_expect = 3, and retry_join with their addresses.
server           = true
bootstrap_expect = 1
