// conntrack: Remember the timeout that was applied last.
//
// A connection that is found to be in use by others than software is to live
// on by the timeout that its last packet in software has got.
//
// Expect: exp_init lib/conntrack-tp.c 1 atomic_init(&conn->timeout, tm);
// Expect: exp_update lib/conntrack-tp.c 1 atomic_store_relaxed(&conn->timeout, tm);

@exp_init@
identifier ct, conn, tm, now;
expression tp;
@@
 conn_init_expiration(struct conntrack *ct, struct conn *conn,
                      enum ct_timeout tm, long long now)
 {
 ...
+atomic_init(&conn->timeout, tm);
 tp = timeout_policy_lookup(ct, conn->tp_id);
 ...
 }

@exp_update@
identifier ct, conn, tm, now;
expression tp;
@@
 conn_update_expiration(struct conntrack *ct, struct conn *conn,
                        enum ct_timeout tm, long long now)
 {
 ...
+atomic_store_relaxed(&conn->timeout, tm);
 tp = timeout_policy_lookup(ct, conn->tp_id);
 ...
 }
