// conntrack: Keep connections that are in use in hardware.
//
// A connection may be idle in software because hardware forwards its packets.
// While a provider holds it, it stays alive past its time, until the sweep
// has asked the provider when it was last used.  Its expiration is then what
// it would have been, had software seen that packet.
//
// conn_expired() is called in each look-up.  Compilers inline it, but not
// with a bit more in it, unless they are told to.
//
// Expect: exp_alive lib/conntrack.c 1 !conntrack_offload_alive(conn, now)
// Expect: exp_sweep lib/conntrack.c 1 conntrack_offload_sweep_end(offload);

@exp_alive@
typedef bool;
attribute name ALWAYS_INLINE;
identifier conn, now;
expression E;
@@
 static
+inline ALWAYS_INLINE
 bool conn_expired(const struct conn *conn, long long now)
 {
-    return E;
+    return E && !conntrack_offload_alive(conn, now);
 }

@exp_sweep@
identifier ct, list, now;
iterator name RCULIST_FOR_EACH;
expression conn, node;
@@
 ct_sweep(struct conntrack *ct, struct rculist *list, long long now, ...)
 {
 ...
+struct conn_offload_batch *offload = conntrack_offload_begin(NULL);
+
 RCULIST_FOR_EACH (conn, node, list) {
+    conntrack_offload_sweep_conn(offload, ct, conn, now);
     ...
 }
+conntrack_offload_sweep_end(offload);
 ...
 }
