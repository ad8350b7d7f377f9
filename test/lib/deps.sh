#!/usr/bin/env bash
#
# deps.sh build|test|plot|make
#		Installs what is missing, on Debian and its children, and nothing else.
#
# "build" is what it takes to build the extension and run a server, "test" adds
# what the tests use, "plot" what draws, "make" is only that.  Does nothing, and takes no time,
# where everything is there.

set -eu
mode=${1:-build}
# shellcheck source=test/lib/server.sh
. "$(dirname "$0")/server.sh"

step()
{
	printf 'deps: %s\n' "$*"
}

# Is this Perl module there?
has_perl()
{
	command -v perl >/dev/null && perl -M"$1" -e 1 2>/dev/null
}

# Is there a Python that has psycopg 3?  Debian's has it for its own only, which
# need not be the first in the path.
has_psycopg()
{
	local python

	for python in "${PYTHON:-python3}" /usr/bin/python3; do
		! "$python" -c 'import psycopg' 2>/dev/null || return 0
	done
	return 1
}

# Is there a PgBouncer?  Debian's is where only root looks.
has_pgbouncer()
{
	PATH=$PATH:/usr/sbin:/usr/local/sbin command -v pgbouncer >/dev/null
}

# Are there the headers that the witness is built with?
has_witness_headers()
{
	local include

	include=$("${PG_CONFIG:-pg_config}" --includedir 2>/dev/null || echo /usr/include/postgresql)
	echo 'int key = EVP_PKEY_ED25519;' | cc -fsyntax-only -I"$include" -include libpq-fe.h \
		-include openssl/evp.h -x c - 2>/dev/null
}

# Is there this server?  Debian's can be where only root looks.
has_server()
{
	PATH=$PATH:/usr/sbin:/usr/local/sbin command -v "$1" >/dev/null
}

# Prints the packages of a server and its headers: of the major whose server is
# installed already, if apt has its headers, otherwise of the one that the
# metapackage names.
postgres_packages()
{
	local major postgres

	for postgres in $(printf '%s\n' /usr/lib/postgresql/*/bin/postgres | sort -t/ -k5,5nr); do
		major=$(echo "$postgres" | cut -d/ -f5)
		if [ -x "$postgres" ] && [ "$major" -ge 15 ] &&
			apt-cache show "postgresql-server-dev-$major" >/dev/null 2>&1; then
			echo "postgresql-$major postgresql-server-dev-$major"
			return
		fi
	done
	major=$(apt-cache depends postgresql 2>/dev/null |
		sed -n 's/.*Depends: postgresql-\([0-9][0-9]*\)$/\1/p' | head -n 1)
	if [ -n "$major" ]; then
		echo "postgresql-$major postgresql-server-dev-$major"
	else
		echo "postgresql postgresql-server-dev-all"
	fi
}

# Prints what is missing, one word each; "postgresql" stands for what
# postgres_packages() says once apt knows its packages.
missing()
{
	command -v make >/dev/null || echo make
	[ "$mode" != make ] || return 0
	command -v gcc >/dev/null || command -v cc >/dev/null || echo gcc libc6-dev
	command -v perl >/dev/null || echo perl
	find_pg || echo postgresql
	[ "$mode" != plot ] || command -v gnuplot >/dev/null || echo gnuplot-nox
	[ "$mode" = test ] || return 0
	{ command -v prove >/dev/null && has_perl Test::More; } || echo perl
	has_perl IPC::Run || echo libipc-run-perl
	command -v npm >/dev/null || echo nodejs npm
	has_psycopg || echo python3 python3-psycopg
	has_witness_headers || echo libpq-dev libssl-dev
}

# Prints what is missing that a test would use, which is skipped without.
missing_optional()
{
	[ "$mode" = test ] || return 0
	has_pgbouncer || echo pgbouncer
	has_server nats-server || echo nats-server
	has_server redis-server || echo redis-server
	command -v promtool >/dev/null || echo prometheus
	command -v prometheus-postgres-exporter >/dev/null || echo prometheus-postgres-exporter
	command -v gnuplot >/dev/null || echo gnuplot-nox
}

case $mode in
	build|test|plot|make) ;;
	*) die "unknown mode \"$mode\": build, test, plot or make" ;;
esac
# A PG_CONFIG that was asked for is the caller's to complete, not ours.
if [ -n "${PG_CONFIG:-}" ] && [ "$PG_CONFIG" != pg_config ] && ! find_pg; then
	die "PG_CONFIG=$PG_CONFIG is not a PostgreSQL installation with a server and its headers"
fi

wanted=$(missing | tr '\n' ' ')
optional=$(missing_optional | tr '\n' ' ')
[ -n "$wanted$optional" ] || exit 0
if [ -z "$wanted" ] && { ! command -v apt-get >/dev/null ||
	{ [ "$(id -u)" != 0 ] && ! command -v sudo >/dev/null; }; }; then
	step "tests that use these will be skipped, as they can't be installed: $optional"
	exit 0
fi

step "missing: $wanted$optional"
command -v apt-get >/dev/null ||
	die "could not install them: there is no apt-get here; install them by hand and run this again"
sudo=''
if [ "$(id -u)" != 0 ]; then
	command -v sudo >/dev/null ||
		die "could not install them: run this as root, or install sudo"
	sudo=sudo
fi

step "updating the list of packages"
$sudo apt-get update -qq || step "could not update every list; going on with what is known"

case " $wanted " in
	*" postgresql "*)
		packages=$(postgres_packages)
		wanted=${wanted/postgresql/$packages}
		# The server package would make and start a cluster of its own, which
		# nobody asked for.  Told not to, for as long as this runs.
		dropin=/etc/postgresql-common/createcluster.d/idempotency-deps.conf
		$sudo mkdir -p "${dropin%/*}"
		echo 'create_main_cluster = false' | $sudo tee "$dropin" >/dev/null
		trap '$sudo rm -f "$dropin"' EXIT
		;;
esac

# apt_install PACKAGE...: returns false, and what apt said in $log, if it can't.
log=$(mktemp)
apt_install()
{
	$sudo env DEBIAN_FRONTEND=noninteractive UCF_FORCE_CONFFOLD=1 \
		apt-get install -y -qq --no-install-recommends \
		-o DPkg::Lock::Timeout=300 -o Dpkg::Options::=--force-confold \
		"$@" >"$log" 2>&1 </dev/null
}

# Installs packages without their services, each by itself: they would start
# one, now and at every boot.  Says which could not be installed.
install_without_services()
(
	policy=/usr/sbin/policy-rc.d
	if [ ! -e "$policy" ]; then
		trap '$sudo rm -f "$policy"' EXIT
		printf '#!/bin/sh\nexit 101\n' | $sudo tee "$policy" >/dev/null
		$sudo chmod 755 "$policy"
	fi
	for package in "$@"; do
		if ! apt_install "$package"; then
			step "could not install $package; its test will be skipped"
			continue
		fi
		$sudo service "$package" stop >/dev/null 2>&1 || true
		$sudo update-rc.d "$package" disable >/dev/null 2>&1 || true
	done
)

if [ -n "$wanted" ]; then
	step "installing: $wanted"
	# shellcheck disable=SC2086
	if ! apt_install $wanted; then
		tail -n 20 "$log" >&2
		rm -f "$log"
		die "could not install: $wanted"
	fi
fi
if [ -n "$optional" ]; then
	step "installing, without services: $optional"
	# shellcheck disable=SC2086
	install_without_services $optional
fi
rm -f "$log"

wanted=$(missing | tr '\n' ' ')
[ -z "$wanted" ] || die "installed everything, and yet these are missing: $wanted"
step "all there"
