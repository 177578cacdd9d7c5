// conntrack: Remove connections from hardware in batches.
//
// Where many connections are removed at once, the providers hear of them in
// batches.  From the removal of a connection until the providers have heard
// of it, the thread is inside of conntrack_offload_begin() and _end(), so
// that a barrier can wait for it.
//
// Expect: batch_zone lib/conntrack.c 1 conntrack_offload_begin(NULL);
// Expect: batch_tuple lib/conntrack.c 1 conntrack_offload_begin(NULL);
// Expect: batch_destroy lib/conntrack.c 1 conntrack_offload_begin(NULL);

@batch_zone@
identifier ct;
iterator name CMAP_FOR_EACH;
statement S;
expression keyn, cm_node, conns;
@@
 conntrack_flush_zone(struct conntrack *ct, ...)
 {
 ...
+struct conn_offload_batch *offload = conntrack_offload_begin(NULL);
+
 CMAP_FOR_EACH (keyn, cm_node, conns) S
+conntrack_offload_end(offload);
 ...
 }

@batch_tuple@
expression ct, conn;
@@
 conn_lookup(...);
 ...
 if (conn) {
+    struct conn_offload_batch *offload = conntrack_offload_begin(NULL);
+
     conn_clean(ct, conn);
+    conntrack_offload_end(offload);
 } else { ... }

@batch_destroy@
identifier ct;
statement S;
@@
 conntrack_destroy(struct conntrack *ct)
 {
 ...
+struct conn_offload_batch *offload = conntrack_offload_begin(NULL);
+
 for (unsigned i = 0; i < N_EXP_LISTS; i++) S
+conntrack_offload_end(offload);
 ...
 }
