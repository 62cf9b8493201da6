# shellcheck shell=bash
# Sourced on every node before Ray starts there; its workers inherit these.
# Gloo listens on the address that the host name resolves to. On many machines that is 127.0.1.1, which no other node
# reaches ("connectFullMesh ... Connection refused"). Naming the interface settles it: the default route's, unless set.
interface=$(awk '$2 == "00000000" { print $1; exit }' /proc/net/route)
export GLOO_SOCKET_IFNAME="${GLOO_SOCKET_IFNAME:-$interface}"
export NCCL_SOCKET_IFNAME="${NCCL_SOCKET_IFNAME:-$interface}"
# Not only where a token happens to lie in ~/.ray: without one Ray refuses to start.
export RAY_AUTH_MODE=token
