// ct-offload: Trace which megaflows and connections a packet meets.
//
// To have hardware forward the packets of a connection, one has to know
// which way they go through the datapath.  So the thread that processes a
// packet can note that, for one packet in each direction.  Its number among
// those that are traced is in what was padding of the packet's metadata.
//
// Overlay: lib/ct-offload-trace.c lib/ct-offload-trace.h
//
// Expect: trace_init lib/packets.h 1 md->ct_trace = 0;

@trace_init@
identifier md;
@@
 pkt_metadata_init(struct pkt_metadata *md, ...)
 {
 ...
 md->conn = NULL;
+md->ct_trace = 0;
 ...
 }
