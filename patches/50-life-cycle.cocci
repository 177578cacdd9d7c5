// conntrack: Tell hardware about connections.
//
// Network hardware that can track connections has to be told about them.  A
// provider for such hardware registers with ct-offload.  conntrack calls
// conntrack-offload where something happens to a connection: it is committed,
// sees a reply, or goes.
//
// Overlay: lib/ct-offload.c lib/ct-offload.h
// Overlay: lib/ct-offload-module.c
// Overlay: lib/ct-offload-private.h
// Overlay: lib/ct-offload-room.c lib/ct-offload-room.h
// Overlay: lib/ct-offload-stats.c lib/ct-offload-stats.h
// Overlay: lib/conntrack-offload.c lib/conntrack-offload.h
// Overlay: lib/conntrack-offload-state.c lib/conntrack-offload-state.h
// Overlay: lib/ct-offload-port.c lib/ct-offload-port.h
// Overlay: lib/ct-offload-submit.c
// Overlay: lib/ct-offload-thread.c lib/ct-offload-thread.h
// Overlay: lib/ct-offload-dummy.c lib/ct-offload-dummy.h
//
// Expect: conn_state lib/conntrack-private.h 1 atomic_uint32_t offload_state;
// Expect: ct_include lib/conntrack.c 1 #include "conntrack-offload.h"
// Expect: ct_init lib/conntrack.c 1 conntrack_offload_init(ct);
// Expect: ct_destroy lib/conntrack.c 1 conntrack_offload_destroy(ct);
// Expect: ct_begin lib/conntrack.c 1 conntrack_offload_begin(netdev_in);
// Expect: ct_end lib/conntrack.c 1 conntrack_offload_end(offload);
// Expect: ct_new lib/conntrack.c 1 conntrack_offload_conn_init(
// Expect: ct_mark lib/conntrack.c 1 conntrack_offload_conn_mark(
// Expect: ct_label lib/conntrack.c 1 conntrack_offload_conn_label(
// Expect: ct_uninit lib/conntrack.c 1 conntrack_offload_conn_uninit(conn);
// Expect: ct_seen lib/conntrack.c 1 conntrack_offload_conn_seen(
// Expect: ct_seen_assigned lib/conntrack.c 0 conntrack_offload_conn_seen(
// Expect: ct_forced lib/conntrack.c 2 conntrack_offload_conn_forced(
// Expect: ct_removing lib/conntrack.c 1 conntrack_offload_conn_removing(conn);
// Expect: ct_gone lib/conntrack.c 1 conntrack_offload_conn_postpone(delete_conn,
// Expect: ct_status lib/conntrack.c 1 = conntrack_offload_conn_status(

@conn_state@
@@
 struct conn {
 ...
 uint16_t nat_action;
+
+/* See conntrack-offload.h. */
+atomic_uint32_t offload_state;
+
 ...
 };

@ct_init@
identifier ct;
@@
 conntrack_init(void)
 {
 ...
 ct->ipf = ipf_init();
+conntrack_offload_init(ct);
 ...
 }

@ct_include depends on ct_init@
@@
 #include "conntrack.h"
+#include "conntrack-offload.h"

@ct_destroy@
identifier ct;
@@
 conntrack_destroy(struct conntrack *ct)
 {
 ...
+conntrack_offload_destroy(ct);
 free(ct);
 ...
 }

@ct_begin@
@@
 conntrack_execute(...)
 {
 ...
+struct conn_offload_batch *offload = conntrack_offload_begin(netdev_in);
+
 ipf_preprocess_conntrack(...);
 ...
 }

@ct_end@
@@
+conntrack_offload_end(offload);
 ipf_postprocess_conntrack(...);

@ct_new@
expression nc, ct, pkt;
@@
 nc = new_conn(ct, pkt, ...);
+conntrack_offload_conn_init(ct, nc, pkt);

@ct_uninit@
identifier conn;
@@
 delete_conn__(struct conn *conn)
 {
+conntrack_offload_conn_uninit(conn);
 free(conn->alg);
 ...
 }

@ct_seen@
expression ct, conn, pkt, ctx, now;
identifier res;
@@
 enum ct_update_res res = conn_update(ct, conn, pkt, ctx, now);
+conntrack_offload_conn_seen(ct, conn, pkt, &ctx->reply, res);

@ct_seen_assigned depends on !ct_seen@
expression ct, conn, pkt, ctx, now, res;
@@
 res = conn_update(ct, conn, pkt, ctx, now);
+conntrack_offload_conn_seen(ct, conn, pkt, &ctx->reply, res);

@ct_mark@
expression conn, pkt;
@@
+conntrack_offload_conn_mark(conn, pkt->md.ct_mark);
 conn->mark = pkt->md.ct_mark;

@ct_label@
expression conn, pkt;
@@
+conntrack_offload_conn_label(conn, pkt->md.ct_label);
 conn->label = pkt->md.ct_label;

@ct_forced@
expression conn;
@@
 conn_force_expire(conn);
+conntrack_offload_conn_forced(conn);

@ct_removing@
identifier ct, conn;
expression lock;
@@
 conn_clean(struct conntrack *ct, struct conn *conn)
 {
 ...
+conntrack_offload_conn_removing(conn);
 ovs_mutex_lock(lock);
 ...
 }

@ct_gone@
expression conn;
@@
-ovsrcu_postpone(delete_conn, conn);
+conntrack_offload_conn_postpone(delete_conn, conn);

@ct_status@
identifier conn, entry;
@@
 conn_to_ct_dpif_entry(const struct conn *conn, struct ct_dpif_entry *entry,
                       ...)
 {
 ...
 entry->mark = conn->mark;
+entry->status = conntrack_offload_conn_status(conn);
 ...
 }
