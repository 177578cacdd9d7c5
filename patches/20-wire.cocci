// ct-offload: Tell what packets were like on the wire.
//
// The tuple that ct() sees is on the wire only if nothing has changed it
// since the packet was received.  Hardware that matches packets has to
// know.  So each packet can get a fingerprint when it is received, in what
// was padding of its metadata, that of the packet at ct() is compared with.
//
// Overlay: lib/ct-offload-wire.c lib/ct-offload-wire.h
//
// Expect: wire_init lib/packets.h 1 md->ct_wire = 0;

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
