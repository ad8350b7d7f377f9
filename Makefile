# idempotency: a PostgreSQL extension.
#
# With PostgreSQL and its server headers at hand:
#	make && sudo make install && make installcheck
# On a bare Debian machine, as root or with sudo:
#	make demo		builds, installs, and runs a retry storm to watch
#	make test		runs everything that tests
# For developers:
#	make majors		tests on other majors of PostgreSQL, for a release
#	make bench		measures (doc/performance.md)
#	make steady		measures over time, and draws
#	make report		a page about a database (doc/operations.md), on PGHOST, PGDATABASE, ...
#	make testlib	the library with fault points, for tests only

#------------------------------------------------------------------------
# what is built and installed
#------------------------------------------------------------------------
EXTENSION = idempotency
EXTVERSION = 0.1.0
MODULE_big = idempotency
PGFILEDESC = "idempotency - operations that take effect once"

SUBJECTS = abandoned answer base64url batch benchmark breaker canonical canonical_path catalog \
	catalog_check claim claim_admit claim_decide claim_record claim_settled configure configure_show \
	counter decision derive digest duty entry es6number explain export failure fault fence guc health \
	history identity inbox inbox_after inbox_configure inbox_decide inbox_delivery inbox_event \
	inbox_many inbox_operator inbox_policy inbox_ranges inbox_read inbox_row inbox_stream inbox_table \
	incarnation jsontree key keyrow launcher lease ledger limit lookup maintain \
	merkle merkle_test module newkey notable note operator outbox outbox_admin outbox_policy outbox_read \
	outbox_relay outbox_rotate outbox_table policy proof prune recorder refusal response ring roster \
	run saga saga_client saga_compensate saga_duty saga_handler saga_helper saga_table seal setting settle \
	shmem span span_show standby stats stats_file stats_show store store_open tag tag_invalidate \
	tally token trace tree tree_read trigger txn verify verify_checkpoint verify_entries \
	verify_external verify_key verify_keys verify_rows verify_tables verify_tree watch watermark worker
OBJS = $(SUBJECTS:%=src/%.o)

# the parts of the install script, in the order in which they must run
SQL_PARTS = header policy store fence ledger token tag canonical merkle identifier claim settle lease \
	operator batch run \
	lookup trigger maintain stats breaker note worker \
	inbox outbox saga health verify spans seeing audit report
SCRIPT = $(EXTENSION)--$(EXTVERSION).sql
DATA_built = $(SCRIPT)
DOCS = README.md

#------------------------------------------------------------------------
# tests
#------------------------------------------------------------------------
# what "make installcheck" runs, on a running server; the extension is made by
# the first of them, in a database of their own
REGRESS = install identity canonical merkle derive token response lease takeover operator claim \
	settle policy batch run trigger lookup maintain stats ledger verify \
	inbox outbox saga seeing security
REGRESS_OPTS = --encoding=UTF8

# what needs servers of its own; "make test" starts them
SPECS = race savepoint levels wait batch policy trigger lease takeover ledger control seal invalidate inbox outbox saga

#------------------------------------------------------------------------
# compiling
#------------------------------------------------------------------------
# Only what SQL calls is exported; 15 leaves the marking of it to us.
PG_CPPFLAGS = -Isrc -DPGDLLEXPORT='__attribute__((visibility("default")))'
# -MMD: PGXS tracks no headers, and a stale object corrupts the heap
PG_CFLAGS = -fvisibility=hidden -MMD -MP
EXTRA_CLEAN = src/*.d src/*.bc build $(SCRIPT) results test/results \
	test/output_iso regression.diffs regression.out

PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)

-include $(wildcard src/*.d)
include $(wildcard src/witness/Makefile.inc)

$(SCRIPT): $(SQL_PARTS:%=src/sql/%.sql) Makefile
	cat $(SQL_PARTS:%=src/sql/%.sql) > $@

#------------------------------------------------------------------------
# the library with fault points
#------------------------------------------------------------------------
TESTLIB = build/test/$(EXTENSION)$(DLSUFFIX)

.PHONY: testlib
testlib: $(TESTLIB)

# built from a copy of the sources, with the same rules
$(TESTLIB): $(wildcard src/*.c src/*.h) Makefile
	mkdir -p build/test/src
	cp -p src/*.c src/*.h build/test/src/
	cp Makefile build/test/
	$(MAKE) -C build/test with_llvm=no COPT="$(COPT) -DIDEMPOTENCY_FAULTS" \
		$(EXTENSION)$(DLSUFFIX)

#------------------------------------------------------------------------
# from a bare machine
#------------------------------------------------------------------------
.PHONY: test majors demo demo-stop bench steady report
test:
	REGRESS="$(REGRESS)" ISOLATION="$(SPECS)" bash test/run.sh
majors:
	REGRESS="$(REGRESS)" ISOLATION="$(SPECS)" bash test/majors.sh
demo:
	bash test/demo/demo.sh
demo-stop:
	bash test/demo/stop.sh
bench:
	bash test/bench/run.sh
steady:
	bash test/bench/steady.sh
report:
	bash monitoring/report/report.sh $(REPORT)
