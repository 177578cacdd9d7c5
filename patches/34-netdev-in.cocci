// conntrack: Pass the netdev that packets came from.
//
// Whoever is to offload a connection has to know the port that its packets
// arrive at.  conntrack_execute() gets it from the port cache of the PMD
// thread, which costs a look-up per batch, and only while connections are
// offloaded.  Packets that came out of a tunnel have arrived at the port that
// the tunnel's packets have.
//
// What happens to the connections of a batch is said to the hardware at the
// end of the batch.
//
// Expect: ct_execute lib/conntrack.c 1 struct netdev *netdev_in)
// Expect: ct_execute_proto lib/conntrack.h 1 struct netdev *netdev_in)
// Expect: netdev_in_decl lib/conntrack.h 1 struct netdev;
// Expect: netdev_in_include lib/dpif-netdev.c 1 #include "ct-offload.h"
// Expect: netdev_in_find lib/dpif-netdev.c 1 batch_get_netdev_in(pmd
// Expect: netdev_in_test tests/test-conntrack.c /conntrack_execute\(\w/ , NULL);
// Expect: ct_begin lib/conntrack.c 1 conntrack_offload_begin(netdev_in);
// Expect: ct_end lib/conntrack.c 1 conntrack_offload_end(offload);

@ct_execute@
parameter list params;
@@
 conntrack_execute(params
+                  , struct netdev *netdev_in
                  )
 { ... }

@ct_execute_proto@
parameter list params;
type T;
@@
 T conntrack_execute(params
+                    , struct netdev *netdev_in
                    );

@netdev_in_names@
identifier pmd;
expression aux;
@@
 struct dp_netdev_pmd_thread *pmd = aux->pmd;

@netdev_in_find@
identifier netdev_in_names.pmd;
expression dp, batch;
expression list args;
@@
 conntrack_execute(dp->conntrack, batch, args
+                  , batch_get_netdev_in(pmd, batch)
                  );

@netdev_in_include depends on netdev_in_find@
@@
 #include "ct-dpif.h"
+#include "ct-offload.h"

@netdev_in_decl@
@@
 struct conntrack;
+struct netdev;

@netdev_in_test depends on !netdev_in_find@
expression list args;
@@
 conntrack_execute(args
+                  , NULL
                  );

@ct_begin@
@@
 conntrack_execute(...)
 {
 ...
+struct conn_offload_batch *offload = conntrack_offload_begin(netdev_in);
+
 ipf_preprocess_conntrack(...);
 ...
 }

@ct_end@
@@
+conntrack_offload_end(offload);
 ipf_postprocess_conntrack(...);
