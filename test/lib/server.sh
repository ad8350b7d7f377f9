# shellcheck shell=bash
#
# server.sh
#		Finds PostgreSQL and runs throw-away servers.  To be sourced.
#
# A server refuses to run as root, so where the caller is root everything that
# touches a data directory goes through as_pg(), which drops to an ordinary
# user.  A server listens on a Unix socket only, in a directory that nobody
# else can enter, and is stopped through its own data directory.
#
# Sets:	top			the work tree
#		PG_CONFIG	the pg_config in use (find_pg)
#		pg_bindir	where its programs are
#		pgxs_src	where PGXS keeps pg_regress and the TAP modules
#		state		the directory made by make_state

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)

die()
{
	printf '%s: %s\n' "$(basename "$0")" "$*" >&2
	exit 1
}

# Is this pg_config's installation one to build against and to run?
pg_is_complete()
{
	local config=$1 bindir

	command -v "$config" >/dev/null 2>&1 || return 1
	bindir=$("$config" --bindir 2>/dev/null) || return 1
	[ -x "$bindir/postgres" ] && [ -x "$bindir/initdb" ] &&
		[ -f "$("$config" --includedir-server)/postgres.h" ] &&
		[ -f "$("$config" --pgxs)" ]
}

# Sets PG_CONFIG, pg_bindir and pgxs_src, or returns false.  A PG_CONFIG that
# the caller set is taken or refused; otherwise the first of $PATH's and, from
# the newest major down, Debian's own places that is complete.
find_pg()
{
	local candidate candidates

	if [ -n "${PG_CONFIG:-}" ] && [ "$PG_CONFIG" != pg_config ]; then
		candidates=$PG_CONFIG
	else
		candidates="pg_config
$(printf '%s\n' /usr/lib/postgresql/*/bin/pg_config | sort -t/ -k5,5nr)"
	fi
	while read -r candidate; do
		if pg_is_complete "$candidate"; then
			PG_CONFIG=$(command -v "$candidate")
			pg_bindir=$("$PG_CONFIG" --bindir)
			pgxs_src=$(cd "$(dirname "$("$PG_CONFIG" --pgxs)")/.." && pwd)
			export PG_CONFIG
			return 0
		fi
	done <<<"$candidates"
	return 1
}

# Prints what make has to be told besides PG_CONFIG: PGXS wants to compile for
# the JIT with a clang that need not be there.
pg_make_flags()
{
	local clang

	clang=$(sed -n 's/^CLANG[[:space:]]*=[[:space:]]*//p' "$pgxs_src/Makefile.global")
	if grep -q '^with_llvm[[:space:]]*=[[:space:]]*yes' "$pgxs_src/Makefile.global" &&
		! command -v "${clang:-none}" >/dev/null 2>&1; then
		echo with_llvm=no
	fi
}

# Builds with the arguments given to make, quietly unless it fails, and
# installs, as root where the installation belongs to root.
build_and_install()
{
	local log=$1 sudo=''
	shift

	# the flags of a make that called us are not meant for this one
	unset MAKEFLAGS MFLAGS MAKELEVEL MAKEOVERRIDES
	# shellcheck disable=SC2046
	set -- PG_CONFIG="$PG_CONFIG" $(pg_make_flags) "$@"
	make -C "$top" -j2 "$@" >"$log" 2>&1 ||
		{ tail -n 40 "$log" >&2; die "could not build"; }
	if [ "$(id -u)" != 0 ] && ! { [ -w "$("$PG_CONFIG" --pkglibdir)" ] &&
		[ -w "$("$PG_CONFIG" --sharedir)/extension" ]; }; then
		command -v sudo >/dev/null 2>&1 ||
			die "could not install: $("$PG_CONFIG" --pkglibdir) is not writable, and there is no sudo"
		sudo=sudo
	fi
	$sudo make -C "$top" install "$@" >>"$log" 2>&1 ||
		{ tail -n 40 "$log" >&2; die "could not install"; }
}

# The user that servers run as.
pg_user()
{
	if [ "$(id -u)" != 0 ]; then
		id -un
	elif id -u postgres >/dev/null 2>&1; then
		echo postgres
	else
		echo nobody
	fi
}

# Runs a command as that user, without the caller's idea of where home is.
as_pg()
{
	if [ "$(id -u)" = 0 ]; then
		runuser -u "$(pg_user)" -- env HOME="${state:-/tmp}" "$@"
	else
		"$@"
	fi
}

# make_state NAME: makes tmp/NAME of the work tree, empty, owned by the user
# that servers run as.  Where that user can't get there (a checkout below
# /root, say), or where the path would be too long for a socket (107 bytes), the
# directory is under /tmp, and tmp/NAME a link to it.
make_state()
{
	local link=$top/tmp/$1

	mkdir -p "$top/tmp"
	drop_state "$1"
	state=$link
	mkdir -m 700 "$state"
	[ "$(id -u)" != 0 ] || chown "$(pg_user):" "$state"
	if [ ${#state} -gt 80 ] || ! (cd / && as_pg test -w "$state") 2>/dev/null; then
		rmdir "$state"
		state=$(mktemp -d "/tmp/idempotency-$1.XXXXXX")
		[ "$(id -u)" != 0 ] || chown "$(pg_user):" "$state"
		ln -s "$state" "$link"
	fi
	export state
}

# drop_state NAME: removes tmp/NAME and, if it is a link of ours, its target.
drop_state()
{
	local link=$top/tmp/$1 target

	if [ -L "$link" ]; then
		target=$(readlink "$link")
		case $target in
			/tmp/idempotency-"$1".*) rm -rf -- "$target" ;;
		esac
	fi
	rm -rf -- "$link"
}

# server_start DIR [CONF-LINE...]: makes a cluster in DIR/data and starts it;
# sets PGHOST and PGUSER, and takes away what else could send psql elsewhere.
server_start()
{
	local dir=$1 socket=$1/socket line
	shift

	mkdir -m 700 "$socket"
	[ "$(id -u)" != 0 ] || chown "$(pg_user):" "$socket"
	(
		cd "$dir" || exit
		as_pg "$pg_bindir/initdb" -D "$dir/data" -U postgres --auth=trust \
			--encoding=UTF8 --no-locale --no-sync >"$dir/initdb.log" 2>&1 ||
			{ tail -n 20 "$dir/initdb.log" >&2; die "could not make a cluster in $dir"; }
		{
			echo "listen_addresses = ''"
			echo "unix_socket_directories = '$socket'"
			for line in "$@"; do
				printf '%s\n' "$line"
			done
		} >>"$dir/data/postgresql.conf"
		# close what the caller has open, or a pipe of his never ends
		as_pg "$pg_bindir/pg_ctl" -D "$dir/data" -l "$dir/server.log" -w -t 60 \
			start >"$dir/start.log" 2>&1 </dev/null 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&- ||
			{ tail -n 20 "$dir/server.log" >&2; die "could not start a server in $dir"; }
	) || return
	unset PGDATABASE PGPORT PGHOSTADDR PGSERVICE PGOPTIONS PGPASSFILE
	export PGHOST=$socket PGUSER=postgres
}

# server_stop DIR: stops the server whose cluster is DIR/data, if it runs.
# Returns false if there was none.
server_stop()
{
	local dir=$1

	[ -f "$dir/data/postmaster.pid" ] || return 1
	(cd "$dir" && as_pg "$pg_bindir/pg_ctl" -D "$dir/data" -m fast -w stop >/dev/null 2>&1)
}
