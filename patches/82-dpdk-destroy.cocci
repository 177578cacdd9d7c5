// netdev-dpdk: Try again where a rule cannot be destroyed now.
//
// dpif-offload-dpdk aborts sooner or later when it could not destroy a rule,
// so errors that may be gone the next time do not reach it.
//
// Expect: destroy lib/netdev-dpdk.c 1 ret = -dpdk_flow_rule_destroy_retry(
// Expect: destroy_include lib/netdev-dpdk.c 1 #include "ct-offload-dpdk-flow.h"

@destroy@
expression dev, rte_flow, error, ret;
@@
 netdev_dpdk_rte_flow_destroy(...)
 {
 <...
- ret = rte_flow_destroy(dev->port_id, rte_flow, error);
+ ret = -dpdk_flow_rule_destroy_retry(dev->port_id, rte_flow, error);
 ...>
 }

@destroy_include depends on destroy@
@@
+#include "ct-offload-dpdk-flow.h"
 #include "dirs.h"
