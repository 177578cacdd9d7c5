// ct-offload: Keep chains of megaflows that packets go through.
//
// Megaflows, one after the other, with ct() between them, are compiled once
// for all connections whose packets meet them.  Each megaflow knows in which
// of such chains it is, and what hardware has done for it there.
//
// A chain that ends may have very many paths.  One rule, a fence, has their
// packets come to software at once.
//
// Overlay: lib/ct-offload-chain.c lib/ct-offload-chain.h
// Overlay: lib/ct-offload-fence.c lib/ct-offload-fence.h
//
// Expect: path_new lib/dpif-netdev.c 1 atomic_init(&flow->ct_path, NULL);
// Expect: path_free lib/dpif-netdev.c 1 ct_path_flow_free(
// Expect: chain_include lib/dpif-netdev.c 1 #include "ct-offload-chain.h"

@path_new@
identifier flow;
@@
 dp_netdev_flow_add(...)
 {
 ...
 flow->batch = NULL;
+atomic_init(&flow->ct_path, NULL);
 ...
 }

@path_free@
identifier flow;
@@
 dp_netdev_flow_free(struct dp_netdev_flow *flow)
 {
 ...
+ct_path_flow_free(dp_netdev_flow_get_ct_path(flow));
 free(flow->dp_extra_info);
 ...
 }

@chain_include depends on path_new@
@@
+#include "ct-offload-chain.h"
 #include "ct-offload.h"
