// conntrack: Find the connections that share a tuple.
//
// A connection may be created while another one with the same tuple is still
// there, expired or about to be removed.  Hardware can have but one of them,
// so conntrack has to be able to find the others.
//
// Expect: ct_include lib/conntrack.c 1 #include "conntrack-offload.h"

@ct_include@
@@
 #include "conntrack.h"
+#include "conntrack-offload.h"
