// dpif-netdev: Remember what packets were like on the wire.
//
// The tuple that ct() sees is on the wire only if nothing has changed it since
// the packet was received.  Hardware that matches packets has to know.  So,
// while connections are offloaded, each packet gets a fingerprint when it is
// received, in what was padding of its metadata, that of the packet at ct() is
// compared with.
//
// Overlay: lib/ct-offload-wire.c lib/ct-offload-wire.h
//
// Expect: wire_init lib/packets.h 1 md->ct_wire = 0;
// Expect: wire_active lib/dpif-netdev.c 1 ct_active = ct_offload_is_active();
// Expect: wire_receive lib/dpif-netdev.c 1 ct_offload_wire_receive(packet,
// Expect: wire_include lib/dpif-netdev.c 1 #include "ct-offload-wire.h"

@wire_init@
identifier md;
@@
 pkt_metadata_init(struct pkt_metadata *md, ...)
 {
 ...
 md->conn = NULL;
+md->ct_wire = 0;
 ...
 }

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

@wire_include depends on wire_receive@
@@
 #include "ct-offload.h"
+#include "ct-offload-wire.h"
