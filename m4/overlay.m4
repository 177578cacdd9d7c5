# SPDX-License-Identifier: Apache-2.0

dnl OVERLAY_NEED_PROG(VARIABLE, PROGRAM, PACKAGE)
dnl
dnl Looks for PROGRAM, and stops with the name of the Debian PACKAGE that has
dnl it if it is not there.
AC_DEFUN([OVERLAY_NEED_PROG],
  [AC_PATH_PROG([$1], [$2])
   if test -z "$$1"; then
     AC_MSG_ERROR([$2 is needed: install it (Debian package $3)])
   fi])

dnl OVERLAY_CHECK_PYTHON3
dnl
dnl Looks for a Python that works: the first one in PATH may be a stub of a
dnl version manager.
AC_DEFUN([OVERLAY_CHECK_PYTHON3],
  [AC_ARG_VAR([PYTHON3], [Python 3.7 or later])
   AC_CACHE_CHECK([for Python 3.7 or later], [overlay_cv_python3],
     [overlay_cv_python3=no
      for python in "$PYTHON3" /usr/bin/python3 python3; do
        if test -n "$python" &&
           "$python" -c 'import sys; sys.exit(sys.version_info < (3, 7))' \
             >/dev/null 2>&1; then
          overlay_cv_python3=$python
          break
        fi
      done])
   if test "$overlay_cv_python3" = no; then
     AC_MSG_ERROR([Python 3.7 is needed: install it (Debian package python3)])
   fi
   PYTHON3=$overlay_cv_python3])

dnl OVERLAY_CHECK_DPDK
dnl
dnl Sets DPDK to the value for Open vSwitch's option --with-dpdk, and
dnl DPDK_COMPAT to "yes" if DPDK lacks functions that include/ provides.
AC_DEFUN([OVERLAY_CHECK_DPDK],
  [AC_ARG_WITH([dpdk],
     [AS_HELP_STRING([--with-dpdk=shared|static|no],
        [link DPDK into Open vSwitch @<:@default: shared if it is there@:>@])],
     [], [with_dpdk=auto])
   AS_CASE([$with_dpdk],
     [yes], [with_dpdk=shared],
     [auto|shared|static|no], [],
     [AC_MSG_ERROR([--with-dpdk takes shared, static or no])])
   DPDK=no
   DPDK_COMPAT=no
   if test "$with_dpdk" != no; then
     AC_MSG_CHECKING([for DPDK])
     dpdk_version=`$PKG_CONFIG --modversion libdpdk 2>/dev/null`
     AC_MSG_RESULT([${dpdk_version:-no}])
     if test -n "$dpdk_version"; then
       if $PKG_CONFIG --atleast-version=22.11 libdpdk; then
         DPDK=$with_dpdk
         if test "$DPDK" = auto; then DPDK=shared; fi
         $PKG_CONFIG --atleast-version=23.07 libdpdk || DPDK_COMPAT=yes
       else
         AC_MSG_ERROR(m4_normalize([DPDK $dpdk_version is too old, 22.11 or
           later is needed (package libdpdk-dev), or --with-dpdk=no]))
       fi
     elif test "$with_dpdk" != auto; then
       AC_MSG_ERROR(m4_normalize([DPDK is not there: install it (Debian
         package libdpdk-dev) or give --with-dpdk=no]))
     fi
   fi
   AC_SUBST([DPDK])
   AC_SUBST([DPDK_COMPAT])])

dnl OVERLAY_CHECK_OVS_SOURCE
dnl
dnl Sets OVS_SOURCE to the source tree that the user gave, if any.
AC_DEFUN([OVERLAY_CHECK_OVS_SOURCE],
  [AC_ARG_WITH([ovs-source],
     [AS_HELP_STRING([--with-ovs-source=DIR],
        [graft onto a copy of the Open vSwitch source in DIR @<:@default: that
         of the Debian package openvswitch-source, which is downloaded if it
         is not installed@:>@])],
     [], [with_ovs_source=])
   OVS_SOURCE=
   AS_CASE([$with_ovs_source],
     [yes|no], [AC_MSG_ERROR([--with-ovs-source needs the name of a folder])],
     [''], [],
     [OVS_SOURCE=`cd "$with_ovs_source" 2>/dev/null && pwd`
      if test -z "$OVS_SOURCE"; then
        AC_MSG_ERROR([$with_ovs_source: no such folder])
      fi
      AC_MSG_CHECKING([for the version of Open vSwitch])
      ovs_version=`$PYTHON3 "$srcdir/build-aux/graft" --print-version \
                     "$OVS_SOURCE" 2>&1`
      if test $? != 0; then
        AC_MSG_RESULT([unsupported])
        AC_MSG_ERROR([$ovs_version])
      fi
      AC_MSG_RESULT([$ovs_version])])
   AC_SUBST([OVS_SOURCE])])
