#!/usr/bin/env bash
#
# stop.sh
#		Stops the demo's server, through its own data directory, and removes it.

set -eu
# shellcheck source=test/lib/server.sh
. "$(dirname "$0")/../lib/server.sh"

dir=$(readlink -f "$top/tmp/demo" || true)
if [ -z "$dir" ] || [ ! -d "$dir" ]; then
	echo "demo: no server of the demo here"
	exit 0
fi
find_pg || die "could not find PostgreSQL, so could not stop the server in $dir"
if server_stop "$dir"; then
	echo "demo: server stopped"
elif [ -f "$dir/data/postmaster.pid" ]; then
	die "could not stop the server in $dir; it is process $(head -n 1 "$dir/data/postmaster.pid")"
fi
drop_state demo
