// conntrack: Keep the offload state of a connection.
//
// Several threads may have to say something about a connection to the
// hardware at once: that of its packets, that of the reply's, the sweep, an
// offload thread.  A word in each connection says what is known of it and
// what is to be done, and who of them does it.  A block that hangs off
// connections that are offloaded has what providers store.
//
// Providers see a connection through accessors only.  That of TCP tells where
// the connection stands: sequence numbers, windows and their scale, for both
// directions.  Only conntrack-tcp.c knows.
//
// conntrack-offload.h has what conntrack is going to call.
//
// Overlay: lib/conntrack-offload-state.c lib/conntrack-offload-state.h
// Overlay: lib/conntrack-offload.h
//
// Expect: conn_state lib/conntrack-private.h 1 atomic_uint32_t offload_state;
// Expect: seq_include lib/conntrack-tcp.c 1 #include "conntrack-offload.h"

@conn_state@
@@
 struct conn {
 ...
 uint16_t nat_action;
+
+/* See conntrack-offload.h. */
+atomic_uint8_t offload_reason;
+atomic_uint32_t offload_state;
+
 ...
 };

@seq_include@
@@
+#include "conntrack-offload.h"
 #include "conntrack-private.h"
