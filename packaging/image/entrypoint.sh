#!/bin/sh
# Starts what a container of this image is asked for. Set-ups written for the image of Consul work unchanged:
#
#   CONSUL_LOCAL_CONFIG      configuration of the agent, as JSON; kept in the folder of the configuration
#   CONSUL_BIND_INTERFACE    the agent talks to others at the first IPv4 address of this interface
#   CONSUL_CLIENT_INTERFACE  the agent serves HTTP and DNS there
#   CONSUL_DATA_DIR          folder of the data (/consul/data)
#   CONSUL_CONFIG_DIR        folder of the configuration (/consul/config)
#
# `agent ...` starts an agent with these; flags that follow have the last word. A command of the program is run as it
# is, and anything else is another program.
set -eu

# The flag $1 with the first IPv4 address of the interface $2.
flag_of_interface() {
    printf '%s={{ GetAllInterfaces | include "name" "^%s$" | include "type" "IPv4" | limit 1 | attr "address" }}' "$1" "$2"
}

case ${1:-} in
    agent)
        shift
        data=${CONSUL_DATA_DIR:-/consul/data}
        config=${CONSUL_CONFIG_DIR:-/consul/config}
        mkdir -p "$data" "$config"
        if [ -n "${CONSUL_LOCAL_CONFIG:-}" ]; then
            # It may hold tokens and keys.
            (umask 077 && printf '%s\n' "$CONSUL_LOCAL_CONFIG" >"$config/local.json")
        fi
        if [ -n "${CONSUL_CLIENT_INTERFACE:-}" ]; then
            set -- "$(flag_of_interface -client "$CONSUL_CLIENT_INTERFACE")" "$@"
        fi
        if [ -n "${CONSUL_BIND_INTERFACE:-}" ]; then
            set -- "$(flag_of_interface -bind "$CONSUL_BIND_INTERFACE")" "$@"
        fi
        exec muster agent -data-dir="$data" -config-dir="$config" "$@"
        ;;
    '' | -*)
        exec muster "$@"
        ;;
esac
if muster "$1" -help >/dev/null 2>&1; then
    exec muster "$@"
fi
exec "$@"
