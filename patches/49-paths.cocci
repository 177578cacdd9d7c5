// ct-offload: Have hardware forward packets of established connections.
//
// A trace becomes a chain of megaflows, and one rule for each connection and
// direction.  What hardware has counted is that of the megaflows, too, and
// when one of them is changed or removed, hardware forwards no packets by it
// any more.  Where no packet is traced, and no megaflow is in a chain, that
// costs next to nothing.
//
// Overlay: lib/ct-offload-path.c lib/ct-offload-path.h
// Overlay: lib/ct-offload-path-private.h
//
// Expect: path_execute lib/dpif-netdev.c 1 ct_trace_enter(
// Expect: path_packet_out lib/dpif-netdev.c 1 ct_trace_abandon();
// Expect: path_ct lib/dpif-netdev.c 1 ct_trace_ct(
// Expect: path_put lib/dpif-netdev.c 1 ct_path_flow_changed(netdev_flow)
// Expect: path_remove lib/dpif-netdev.c 1 ct_path_flow_changed(flow)
// Expect: path_stats lib/dpif-netdev.c 1 ct_path_flow_stats(
// Expect: path_sync lib/dpif-netdev.c 1 flow_del_sync(pmd
// Expect: path_committed lib/conntrack.c 1 conntrack_offload_conn_committed(
// Expect: path_include lib/dpif-netdev.c 1 #include "ct-offload-path.h"

@path_execute@
identifier batch, pmd, flow;
expression list args;
@@
 packet_batch_per_flow_execute(struct packet_batch_per_flow *batch,
                               struct dp_netdev_pmd_thread *pmd)
 {
 ...
 struct dp_netdev_flow *flow = batch->flow;
 ...
+ct_trace_enter(flow, &batch->array, *recirc_depth_get());
 dp_netdev_execute_actions(args);
+ct_trace_leave(flow, &flow->flow, *recirc_depth_get(),
+               dp_netdev_pmd_get_netdev, pmd);
 }

@path_packet_out@
@@
 dpif_netdev_execute(...)
 {
 <...
 dp_netdev_execute_actions(...);
+ct_trace_abandon();
 ...>
 }

@path_ct@
expression ct, packets, force, commit, flow;
@@
 conntrack_execute(ct, packets, flow->dl_type, force, commit, ...);
+ct_trace_ct(packets, ct, flow, commit);

@path_put@
expression flow;
identifier new;
@@
 ovsrcu_set(&flow->actions, new);
+ct_path_flow_changed(flow);

@path_remove@
identifier flow;
@@
 dp_netdev_pmd_remove_flow(..., struct dp_netdev_flow *flow)
 {
 ...
 flow->dead = true;
+ct_path_flow_changed(flow);
 ...
 }

@path_stats@
identifier dp, flow_, stats, attrs;
identifier flow;
statement S1, S2;
@@
 get_dpif_flow_status(const struct dp_netdev *dp,
                      const struct dp_netdev_flow *flow_,
                      struct dpif_flow_stats *stats,
                      struct dpif_flow_attrs *attrs)
 {
 ...
 flow = CONST_CAST(...);
 ...
 if (dpif_offload_datapath_flow_stats(...)) S1
 else S2
+ct_path_flow_stats(flow, stats, attrs);
 }

@path_sync@
identifier pmd, stats, del;
expression mutex;
@@
 flow_del_on_pmd(struct dp_netdev_pmd_thread *pmd,
                 struct dpif_flow_stats *stats,
                 const struct dpif_flow_del *del)
 {
 ...
+flow_del_sync(pmd, del);
+
 ovs_mutex_lock(mutex);
 ...
 }

@path_committed@
expression ct, nc;
@@
 conn_not_found(...)
 {
 <...
 conn_expire_push_front(ct, nc);
+conntrack_offload_conn_committed(nc);
 ...>
 }

@path_include depends on path_execute@
@@
 #include "ct-offload.h"
+#include "ct-offload-path.h"
+#include "ct-offload-trace.h"
