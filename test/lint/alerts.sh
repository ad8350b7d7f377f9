#!/usr/bin/env bash
#
# alerts.sh
#		Each alert has a paragraph of doc/operations.md that says what to do, and a
#		row in the reference.

set -eu
cd "$(dirname "$0")/../.."

alerts=$(sed -n '/^CREATE VIEW idempotency.alerts/,/^COMMENT ON VIEW/p' src/sql/health.sql |
	grep -oE "(SELECT|THEN|ELSE) '[a-z]+_?[a-z_]*'" | grep -oE "'[a-z_]+'" | tr -d "'" |
	grep -vxE 'critical|warning|lost|over|short' | sort -u)
[ -n "$alerts" ] || { echo "not ok - there are no alerts in src/sql/health.sql"; exit 1; }
status=0
for alert in $alerts; do
	if ! sed -n '/^## Alerts/,/^## Statistics/p' doc/operations.md | grep -qx "### $alert"; then
		echo "not ok - $alert has no paragraph in doc/operations.md, section Alerts"
		status=1
	elif ! grep -q "^| \`$alert\` |" doc/reference.md; then
		echo "not ok - $alert has no row in doc/reference.md"
		status=1
	else
		echo "ok - $alert"
	fi
done
exit $status
