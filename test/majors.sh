#!/usr/bin/env bash
#
# majors.sh [MAJOR...]
#		Builds and tests the extension on other majors of PostgreSQL (17 and 18),
#		each in a root of its own that apt's packages are unpacked into: no
#		maintainer script runs, and nothing of the host changes.
#
# For a release; needs root, Debian's apt, and some 700 MB a major.

set -eu
# shellcheck source=test/lib/server.sh
. "$(dirname "$0")/lib/server.sh"
roots=${MAJORS_ROOTS:-$top/tmp/majors}

# The suite of Debian that has this major.
suite_of()
{
	case $1 in
		15) echo bookworm ;;
		17) echo trixie ;;
		18) echo forky ;;
		*) die "no suite is known for PostgreSQL $1" ;;
	esac
}

mirror()
{
	awk '$1 == "URIs:" || $1 == "deb" { print $2; exit }' \
		/etc/apt/sources.list.d/debian.sources /etc/apt/sources.list 2>/dev/null
}

# make_root MAJOR DIR: unpacks a server, its headers and a compiler into DIR.
make_root()
{
	local major=$1 root=$2 suite apt deb
	suite=$(suite_of "$major")
	apt=$(mktemp -d)
	mkdir -p "$apt"/lists/partial "$apt"/cache/archives/partial "$apt/preferences"
	: >"$apt/status"
	echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $(mirror) $suite main" >"$apt/sources.list"
	local options=(-o Dir::State="$apt" -o Dir::State::lists="$apt/lists"
		-o Dir::State::status="$apt/status" -o Dir::Cache="$apt/cache"
		-o Dir::Etc::SourceList="$apt/sources.list" -o Dir::Etc::SourceParts=/dev/null
		-o Dir::Etc::Preferences=/dev/null -o Dir::Etc::PreferencesParts="$apt/preferences"
		-o APT::Install-Recommends=false -o Debug::NoLocking=1
		-o Acquire::Languages=none -o APT::Sandbox::User=root)
	apt-get "${options[@]}" update -qq
	apt-get "${options[@]}" install -y -qq --download-only '?essential' \
		"postgresql-$major" gcc make libc6-dev libpq-dev >/dev/null
	# without what its headers' package depends on, a whole clang
	(cd "$apt/cache/archives" &&
		apt-get "${options[@]}" download -qq "postgresql-server-dev-$major" >/dev/null)
	mkdir -p "$root"/usr/{bin,sbin,lib,lib64}
	for deb in bin sbin lib lib64; do
		ln -sfn "usr/$deb" "$root/$deb"
	done
	for deb in "$apt"/cache/archives/*.deb; do
		dpkg-deb --fsys-tarfile "$deb" | tar -x --keep-directory-symlink -C "$root"
	done
	mkdir -p "$root"/{etc,proc,tmp,dev/shm,var/lib/dpkg,src}
	chmod 1777 "$root/tmp" "$root/dev/shm"
	printf 'root:x:0:0:root:/root:/bin/bash\ntester:x:999:999::/tmp:/bin/bash\n' >"$root/etc/passwd"
	printf 'root:x:0:\ntester:x:999:\n' >"$root/etc/group"
	[ -e "$root/dev/null" ] || mknod -m 666 "$root/dev/null" c 1 3
	[ -e "$root/dev/urandom" ] || mknod -m 666 "$root/dev/urandom" c 1 9
	[ -e "$root/usr/bin/awk" ] || ln -s mawk "$root/usr/bin/awk"
	chroot "$root" ldconfig
	rm -rf "$apt"
}

# test_root MAJOR DIR: builds there, without a warning, and runs pg_regress and
# the isolation specs.
test_root()
{
	local major=$1 root=$2
	rm -rf "$root/src" "$root/out"
	mkdir -p "$root/src" "$root/out"
	git -C "$top" ls-files -z | (cd "$top" && tar --null -T - -c) | tar -x -C "$root/src"
	chown 999:999 "$root/out"
	chroot "$root" env HOME=/tmp REGRESS="$REGRESS" ISOLATION="$ISOLATION" bash -eu -c '
		pg=/usr/lib/postgresql/$0
		cd /src
		make -s with_llvm=no COPT=-Werror PG_CONFIG=$pg/bin/pg_config >/out/build.log
		make -s with_llvm=no PG_CONFIG=$pg/bin/pg_config install >>/out/build.log
		make -s with_llvm=no PG_CONFIG=$pg/bin/pg_config testlib >>/out/build.log
		cp build/test/idempotency.so /out/
		as() { setpriv --reuid=999 --regid=999 --clear-groups "$@"; }
		echo "idempotency_test.library = '\''/out/idempotency.so'\''" | cat test/isolation.conf - >/out/iso.conf
		as $pg/lib/pgxs/src/test/regress/pg_regress --inputdir=/src --outputdir=/out \
			--temp-instance=/out/regress --bindir=$pg/bin --encoding=UTF8 --no-locale \
			--temp-config=/src/test/regress.conf --port=5599 $REGRESS
		as $pg/lib/pgxs/src/test/isolation/pg_isolation_regress --inputdir=/src/test --outputdir=/out \
			--temp-instance=/out/isolation --bindir=$pg/bin --encoding=UTF8 --no-locale \
			--temp-config=/out/iso.conf --port=5598 $ISOLATION' "$major"
}

[ "$(id -u)" = 0 ] || die "needs root, to unpack packages and to change into their root"
mkdir -p "$roots"
passed=0
failed=0
for major in "${@:-17 18}"; do
	for one in $major; do
		[ -d "$roots/$one/src" ] || make_root "$one" "$roots/$one"
		if test_root "$one" "$roots/$one"; then
			passed=$((passed + 1))
		else
			failed=$((failed + 1))
			head -n 100 "$roots/$one/out/regression.diffs" 2>/dev/null || true
		fi
	done
done
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
