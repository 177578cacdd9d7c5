// dp-packet: Remember that a packet is not as its port received it.
//
// The tuple that ct() sees is on the wire only if nothing has changed the
// packet since it was received.  Hardware that matches packets has to know.
// A byte in the packet's metadata, in what was padding, says so.
//
// Expect: rewrite_init lib/packets.h 1 md->ct_rewrite = 0;
// Expect: rewrite_ipf_include lib/ipf.c 1 #include "ct-offload.h"
// Expect: rewrite_ipf lib/ipf.c 2 |= CT_REWRITE_REASSEMBLED;
// Expect: rewrite_nat lib/conntrack.c 1 |= CT_REWRITE_HEADERS;
// Expect: rewrite_set_include lib/odp-execute.c 1 #include "ct-offload.h"
// Expect: rewrite_set lib/odp-execute.c 2 |= CT_REWRITE_HEADERS;
// Expect: rewrite_vlan_include lib/packets.c 1 #include "ct-offload.h"
// Expect: rewrite_vlan lib/packets.c 3 |= CT_REWRITE_HEADERS;

@rewrite_init@
identifier md;
@@
 pkt_metadata_init(struct pkt_metadata *md, ...)
 {
 ...
 md->conn = NULL;
+md->ct_rewrite = 0;
 ...
 }

@rewrite_ipf@
identifier pkt;
@@
 dp_packet_set_l2_pad_size(pkt, 0);
+pkt->md.ct_rewrite |= CT_REWRITE_REASSEMBLED;
 return pkt;

@rewrite_ipf_include depends on rewrite_ipf@
@@
 #include "csum.h"
+#include "ct-offload.h"

@rewrite_nat@
identifier pkt;
@@
 nat_packet(struct dp_packet *pkt, ...)
 {
 ...
+pkt->md.ct_rewrite |= CT_REWRITE_HEADERS;
 }

@rewrite_set@
identifier packet, a;
identifier f =~ "^odp_execute_(masked_)?set_action$";
@@
 f(struct dp_packet *packet, const struct nlattr *a)
 {
 ...
+packet->md.ct_rewrite |= CT_REWRITE_HEADERS;
 }

@rewrite_set_include depends on rewrite_set@
@@
 #include "csum.h"
+#include "ct-offload.h"

@rewrite_vlan@
identifier packet;
identifier f =~ "^(eth_push_vlan|eth_pop_vlan|pop_mpls)$";
@@
 f(struct dp_packet *packet, ...)
 {
 ...
+packet->md.ct_rewrite |= CT_REWRITE_HEADERS;
 }

@rewrite_vlan_include depends on rewrite_vlan@
@@
 #include "csum.h"
+#include "ct-offload.h"
