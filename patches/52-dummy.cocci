// ct-offload-dummy: Add a provider in software.
//
// It is for tests, and for reading: it does what a provider has to do, keeps
// the connections in a table, and complains of what a caller must not do.
//
// Overlay: lib/ct-offload-dummy.c lib/ct-offload-dummy.h
//
// Expect: act_dummy lib/dummy.c 1 ct_offload_dummy_enable();
// Expect: act_dummy_include lib/dummy.c 1 #include "ct-offload-dummy.h"

@act_dummy@
@@
 dummy_enable(...)
 {
 ...
 dpif_dummy_register(...);
+ct_offload_dummy_enable();
 ...
 }

@act_dummy_include depends on act_dummy@
@@
+#include "ct-offload-dummy.h"
 #include "util.h"
