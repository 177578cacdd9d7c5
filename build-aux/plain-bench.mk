# SPDX-License-Identifier: Apache-2.0
#
# For make in a tree without the overlay, after its own Makefile: the benchmark
# $(BENCH_SOURCE), which is part of tests/ovstest in a tree that has the
# overlay.

bench_objects = tests/ct-offload-bench.o tests/ovstest.o

tests/ct-offload-bench: $(bench_objects) lib/libopenvswitch.la
	$(AM_V_CCLD)$(LINK) $(bench_objects) lib/libopenvswitch.la $(LIBS)

tests/ct-offload-bench.o: $(BENCH_SOURCE) $(BENCH_SOURCE:.c=.h)
	$(AM_V_CC)$(COMPILE) -Itests -DCT_BENCH_PLAIN -c -o $@ $<
