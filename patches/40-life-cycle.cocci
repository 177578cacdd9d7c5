// conntrack: Tell hardware about connections.
//
// conntrack calls conntrack-offload where something happens to a connection:
// it is committed, sees a reply, or goes.
//
// Expect: ct_init lib/conntrack.c 1 conntrack_offload_init(ct);
// Expect: ct_destroy lib/conntrack.c 1 conntrack_offload_destroy(ct);
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

@ct_new@
expression nc, ct, pkt, key;
@@
 nc = new_conn(ct, pkt, ...);
 ...
 conn_key_reverse(key);
+conntrack_offload_conn_init(ct, nc, pkt);

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
