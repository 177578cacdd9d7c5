// dpif-offload: Activate conntrack offload with hw-offload.
//
// The built-in providers of ct-offload become active when hw-offload does,
// and give up what they hold when the daemon ends.
//
// Expect: act_init lib/dpif-offload.c 1 ct_offload_module_init();
// Expect: act_config lib/dpif-offload.c 1 ct_offload_set_config(
// Expect: act_config_smap lib/dpif-offload.c 0 ct_offload_set_config(
// Expect: act_exit vswitchd/ovs-vswitchd.c 1 ct_offload_exit();
// Expect: act_exit_include vswitchd/ovs-vswitchd.c 1 #include "ct-offload.h"

@act_init@
identifier once;
@@
 dpif_offload_module_init(void)
 {
 ...
+ct_offload_module_init();
 ovsthread_once_done(&once);
 ...
 }

@act_config@
identifier cfg;
@@
 dpif_offload_set_global_cfg(const struct ovsrec_open_vswitch *cfg)
 {
 ...
+ct_offload_set_config(&cfg->other_config);
 }

@act_config_smap@
identifier other_cfg;
@@
 dpif_offload_set_global_cfg(const struct smap *other_cfg)
 {
 ...
+ct_offload_set_config(other_cfg);
 }

@act_exit@
@@
+ct_offload_exit();
 ovsrcu_exit();

@act_exit_include depends on act_exit@
@@
 #include "compiler.h"
+#include "ct-offload.h"
