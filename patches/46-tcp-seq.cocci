// conntrack-tcp: Do not check sequences that bypass software.
//
// Where hardware may forward packets without software, what software knows of
// sequence numbers is out of date from the establishment of the connection
// there, and stays so when the connection comes back.
//
// Expect: seq_check lib/conntrack-tcp.c 1 conntrack_offload_no_seq_chk(conn_)

@seq_check@
identifier ct, conn_;
@@
 tcp_conn_update(struct conntrack *ct, struct conn *conn_, ...)
 {
 <...
- tcp_bypass_seq_chk(ct)
+ conntrack_offload_no_seq_chk(conn_) || tcp_bypass_seq_chk(ct)
 ...>
 }
