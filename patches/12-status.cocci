// ct-dpif: Name the flags of offloaded connections.
//
// The kernel sets IPS_OFFLOAD for a connection that a flow table holds and
// IPS_HW_OFFLOAD for one that hardware holds.  Show them, for the kernel
// datapath and for any other that sets them.  IPS_HELPER has the bit before
// them.
//
// Expect: status_mask lib/ct-dpif.h 1 ((CT_DPIF_STATUS_HW_OFFLOAD << 1) - 1)

@status_mask@
@@
 #define CT_DPIF_STATUS_MASK \
- ((CT_DPIF_STATUS_UNTRACKED << 1) - 1)
+ ((CT_DPIF_STATUS_HW_OFFLOAD << 1) - 1)
