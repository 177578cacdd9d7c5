// dpif-netdev: Remember what packets were like on the wire.
//
// While connections are offloaded, packets get their fingerprint when they
// are received, and what is in a tunnel when it is taken out of that.
//
// Expect: wire_active lib/dpif-netdev.c 1 ct_active = ct_offload_is_active();
// Expect: wire_receive lib/dpif-netdev.c 1 ct_offload_wire_receive(packet, ct_a
// Expect: wire_tunnel lib/dpif-netdev.c 1 ct_offload_wire_receive(packet, ct_o
// Expect: wire_include lib/dpif-netdev.c 1 #include "ct-offload-wire.h"

@wire_active@
expression depth;
@@
 dfc_processing(...)
 {
 ...
 const uint32_t recirc_depth = depth;
+const bool ct_active = ct_offload_is_active();
 ...
 }

@wire_receive depends on wire_active@
identifier packet;
@@
 dfc_processing(...)
 {
 <...
 pkt_metadata_init(&packet->md, ...);
+ct_offload_wire_receive(packet, ct_active);
 ...>
 }

@wire_tunnel depends on wire_receive@
identifier packet;
expression portno;
@@
 dp_execute_cb(...)
 {
 <...
 packet->md.in_port.odp_port = portno;
+ct_offload_wire_receive(packet, ct_offload_is_active());
 ...>
 }

@wire_include depends on wire_receive@
@@
 #include "ct-offload.h"
+#include "ct-offload-wire.h"
