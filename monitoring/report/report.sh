#!/usr/bin/env bash
#
# report.sh [FILE]
#		One page about a database: what was decided, how long that took, what
#		needs attention.  HTML that loads nothing from anywhere.
#
# Connects as psql does (PGHOST, PGDATABASE, ...), and only reads, in one
# transaction; the role needs the rights of "reporter" in
# doc/operations.md.  It reads the ledger's table of entries once.
#
# FILE: tmp/report.html by default.  Environment: REPORT_HOURS, how much of the
# ledger is drawn (24); PSQL, GNUPLOT.

set -eu
here=$(cd "$(dirname "$0")" && pwd)
file=${1:-tmp/report.html}
hours=${REPORT_HOURS:-24}
psql=${PSQL:-psql}
gnuplot=${GNUPLOT:-gnuplot}

die()
{
	printf 'report.sh: %s\n' "$*" >&2
	exit 1
}

case $hours in
	''|*[!0-9]*|0*) die "REPORT_HOURS=$hours is not a number of hours" ;;
esac
command -v "$psql" >/dev/null || die "there is no psql; set PSQL to where it is"
command -v "$gnuplot" >/dev/null || die "there is no gnuplot (Debian: gnuplot-nox)"

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

# section TITLE TEXT PART...: what psql or gnuplot has made of these.
section()
{
	local part

	printf '<section>\n<h2>%s</h2>\n<p>%s</p>\n' "$1" "$2"
	shift 2
	for part in "$@"; do
		case $part in
			*.svg) picture "$part" ;;
			*) printf '<div class="scroll">\n'; table <"$dir/$part"; printf '</div>\n' ;;
		esac
	done
	printf '</section>\n'
}

# legend TITLE...: what the colours of the next picture mean, from the first on.
legend()
{
	local n=0 title

	printf '<p class="legend">'
	for title in "$@"; do
		n=$((n + 1))
		printf '<span><i style="background: var(--s%d)"></i>%s</span>' "$n" "$title"
	done
	printf '</p>\n'
}

# psql's table as XML wants it.
table()
{
	sed -e 's/<br>/<br\/>/g' -e 's/<table border="0">/<table>/' -e 's/ valign="top"//' \
		-e 's/<th align="center">/<th>/g' -e 's/<td align="left">/<td>/g' \
		-e 's/<td align="right">/<td class="right">/g' -e 's/&nbsp;/\&#160;/g'
}

# gnuplot's picture as a part of the page: its colours are the page's, and what
# it defines and doesn't use goes, as several pictures can't define it.
picture()
{
	if [ ! -s "$dir/$1" ]; then
		printf '<p class="none">Nothing to draw.</p>\n'
		return
	fi
	case $1 in
		decisions.svg) legend 'took effect' begun replayed 'failed, or given up' refused other ;;
		exposure.svg) legend mean longest ;;
		segments.svg) legend 'in use' 'over, to be truncated' ;;
	esac
	sed -e '1,/^<svg/{/^<?xml/d}' -e '/<defs>/,/<\/defs>/d' -e 's/<title>[^<]*<\/title>//' -e 's/<desc>[^<]*<\/desc>//' \
		-e "s/ id=[\"'][^\"']*[\"']//g" -e 's/ xmlns:xlink="[^"]*"//' -e '/^ *width="[0-9]*" height="[0-9]*"$/d' \
		-e 's/rgb( *1, *1, *1)/var(--text)/g' -e 's/rgb( *2, *2, *2)/var(--line)/g' \
		-e 's/rgb( *3, *1, *\([1-6]\))/var(--s\1)/g' -e "s/<svg/<svg role=\"img\"/" "$dir/$1"
}

page()
{
	cat <<HTML
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8"/>
<meta name="viewport" content="width=device-width, initial-scale=1"/>
<title>idempotency</title>
<style>
$(cat "$here/report.css")
</style>
</head>
<body>
<h1>idempotency</h1>
<div class="head scroll">
$(table <"$dir/head.html")
</div>
$(cat "$dir/figures.html")
$(section 'What needs attention' 'The view alerts; doc/operations.md says what to do about each.' alerts.html)
$(section 'Scopes' 'What claims were answered, since the counts began.' scopes.html)
$(section "What was decided, last $hours h" 'Entries of the ledger, in UTC. Replays are among them only where a policy says audit =&gt; everything.' decisions.svg)
$(section 'How long decisions take' 'Without waiting for others, which is the row waiting; all scopes, since the counts began.' latency.svg functions.html)
$(section 'Leased claims' 'Those that are open, by scope.' leases.html)
$(section 'Sagas' 'Those that are not over, or were undone, by scope.' sagas.html)
$(section 'Where keys live' 'Size of the tables of keys, without their indexes.' segments.svg)
$(section 'Ledger' "How far it is sealed and witnessed; below, the time from a decision to its seal, last $hours h: so long it could be forged." ledger.html exposure.svg)
$(section 'Events: consumers' 'How far they have come, over all streams.' consumers.html)
$(section 'Events: relays' 'How far the outbox was read.' relays.html)
</body>
</html>
HTML
}

(cd "$dir" && PGOPTIONS="${PGOPTIONS:-} -c client_min_messages=warning" PGCLIENTENCODING=UTF8 \
	"$psql" -X -q -v hours="$hours" -f "$here/report.sql" >/dev/null) || die "could not read the database"
(cd "$dir" && LC_ALL=C.UTF-8 "$gnuplot" "$here/plots.gp") || die "could not draw"
mkdir -p "$(dirname "$file")"
page >"$file"
printf 'report.sh: %s\n' "$file"
