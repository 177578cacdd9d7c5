// ct-offload-dpdk: Offload connections with rte_flow.
//
// A provider of ct-offload that programs network hardware through DPDK's
// rte_flow: a rule for each direction of an established connection, with
// hardware's own connection tracking where there is any.
//
// Rules for connections come before those of dpif-offload-dpdk, which
// identify datapath flows.  Both are hit if the latter are in a group of
// their own, so ct-offload-dpdk says which.
//
// The provider becomes active once both DPDK is initialized and hw-offload
// is true.
//
// Overlay: lib/ct-offload-dpdk.c lib/ct-offload-dpdk.h
// Completes: lib/ct-offload-module.c DPDK_NETDEV
//
// Expect: group lib/dpif-offload-dpdk-netdev.c 1 .group = ct_offload_dpdk_ingress_group(netdev),
// Expect: group_include lib/dpif-offload-dpdk-netdev.c 1 #include "ct-offload-dpdk.h"
// Expect: init lib/dpdk.c 1 ct_offload_register_builtins();
// Expect: init_include lib/dpdk.c 1 #include "ct-offload.h"

@group@
identifier patterns, netdev, flow_mark, attr;
identifier f =~ "_mark_rss$";
@@
 f(struct flow_patterns *patterns, struct netdev *netdev, uint32_t flow_mark)
 {
 ...
 const struct rte_flow_attr attr = {
-    .group = 0,
+    .group = ct_offload_dpdk_ingress_group(netdev),
 };
 ...
 }

@group_include depends on group@
@@
+#include "ct-offload-dpdk.h"
 #include "dpif-netdev.h"

@init@
expression enabled;
@@
 dpdk_init(...)
 {
 ...
 atomic_store_relaxed(&dpdk_initialized, enabled);
+if (enabled) {
+    ct_offload_register_builtins();
+}
 }

@init_include depends on init@
@@
+#include "ct-offload.h"
 #include "dirs.h"
