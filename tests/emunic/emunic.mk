# SPDX-License-Identifier: Apache-2.0
#
# Builds the emulated NIC, emunic.so, and its test program, in the folder that
# make runs in:
#
#     make -f .../tests/emunic/emunic.mk [check]
#
# EMUNIC_SANITIZE=address builds both with AddressSanitizer.

srcdir := $(dir $(lastword $(MAKEFILE_LIST)))
PKG_CONFIG ?= pkg-config
CFLAGS ?= -O2 -g
EMUNIC_SANITIZE ?=

dpdk_cflags := $(shell $(PKG_CONFIG) --cflags libdpdk)
dpdk_libs := $(shell $(PKG_CONFIG) --libs libdpdk)
emunic_cflags = -I. $(dpdk_cflags) -std=gnu11 -D_GNU_SOURCE \
	-DALLOW_EXPERIMENTAL_API -Wall -Wextra -fPIC -pthread \
	$(if $(EMUNIC_SANITIZE),-fsanitize=$(EMUNIC_SANITIZE) \
	    -fno-omit-frame-pointer)
objects = $(patsubst %,emunic-%.o,check config control ct datapath item \
	object packet port report switch table tunnel wrap)

all: emunic.so test-emunic

# Another DPDK, and other flags, need other objects.
flags := $(CC) $(emunic_cflags) $(CPPFLAGS) $(CFLAGS) $(LDFLAGS) $(dpdk_libs) \
	$(shell $(PKG_CONFIG) --modversion libdpdk)
ifneq ($(flags),$(shell cat emunic.flags 2>/dev/null))
$(shell rm -f emunic.flags)
endif
# Open vSwitch wants <config.h> in all of its sources.  What it has in there is
# not needed here.
config.h:
	@: > $@

emunic.flags:
	@echo '$(flags)' > $@

emunic-%.o: $(srcdir)emunic-%.c $(srcdir)emunic.h emunic.flags | config.h
	$(CC) $(emunic_cflags) -fvisibility=hidden $(CPPFLAGS) $(CFLAGS) \
	    -c -o $@ $<

emunic.so: $(objects)
	$(CC) $(emunic_cflags) $(CFLAGS) $(LDFLAGS) -shared -o $@ $(objects) \
	    $(dpdk_libs) -ldl

# It is not linked with the library, which run-test-emunic preloads.
test-emunic: $(srcdir)test-emunic.c emunic.flags | config.h
	$(CC) $(emunic_cflags) $(CPPFLAGS) $(CFLAGS) $(LDFLAGS) -o $@ $< \
	    $(dpdk_libs) -lrte_bus_vdev -lrte_net_null -lrte_net_ring -lrte_mempool_ring

check: all
	$(srcdir)run-test-emunic .

clean:
	rm -f $(objects) emunic.flags emunic.so test-emunic

.PHONY: all check clean
.DELETE_ON_ERROR:
