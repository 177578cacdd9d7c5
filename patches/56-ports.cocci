// dpif-netdev: Give up the connections of ports that stop.
//
// When a port goes away, is reconfigured, or changes hands, connections that
// came from it are taken back into software first, so that nothing refers to
// its netdev any more.
//
// Expect: port_destroy lib/dpif-netdev.c 1 ct_offload_netdev_stop(port->netdev);
// Expect: port_reconfigure lib/dpif-netdev.c 1 = ct_offload_netdev_stop(netdev);
// Expect: port_reconfigure lib/dpif-netdev.c 1 ct_offload_netdev_start(netdev,
// Expect: port_owner lib/dpif-offload.c 1 ct_offload_netdev_flush(netdev);
// Expect: port_stats lib/dpif-offload.c 1 ct_offload_get_stats(
// Expect: port_include lib/dpif-offload.c 1 #include "ct-offload.h"

@port_destroy@
identifier port;
@@
 port_destroy(struct dp_netdev_port *port)
 {
 ...
+ct_offload_netdev_stop(port->netdev);
 netdev_close(port->netdev);
 ...
 }

@port_reconfigure@
expression netdev, err;
@@
+const struct dpif_offload *owner = ct_offload_netdev_stop(netdev);
+
 err = netdev_reconfigure(netdev);
+ct_offload_netdev_start(netdev, owner);

@port_owner@
identifier netdev, offload;
type T;
@@
 dpif_offload_set_netdev_offload(struct netdev *netdev, T offload)
 {
 ...
+if (!offload) {
+    ct_offload_netdev_flush(netdev);
+}
 }

@port_stats@
identifier dpif, stats_, n_stats;
expression stats, n, S;
@@
 dpif_offload_stats_get(struct dpif *dpif,
                        struct netdev_custom_stats **stats_, size_t *n_stats)
 {
 ...
- stats = xcalloc(n, S);
+ stats = xcalloc(n + 1, S);
+ *n_stats = ct_offload_get_stats(stats);
 ...
 }

@port_include depends on port_owner@
@@
+#include "ct-offload.h"
 #include "dpif-offload.h"
