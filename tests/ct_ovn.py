# SPDX-License-Identifier: Apache-2.0
"""A private OVN on two chassis, with emulated NICs or with the provider that
is for tests.

demo-ovn and test-ovn use it.  OVN's programs are those in folder $OVN_BIN.

    ext                    chassis ch1                      chassis ch2
    172.16.0.100 --------- br-ex     vm1, vm2, vm3          vm4
                           br-int    br-phy --------------- br-phy, br-int
                                     192.168.0.1   Geneve   192.168.0.2

Logically vm1 (10.0.1.11), vm2 (.12) and vm4 (.14) are at switch ls1, vm3
(10.0.2.21) is at ls2, and router lr0 joins both with the network of ext.  It
has SNAT for all, and a floating IP for vm2, 172.16.0.12.  vm2 and vm3 are
behind load balancers for 10.0.9.2 and .3 at the switches, and for 172.16.0.52
and .53 at the router.  IPv6 is the same with fd00:1::/64, fd00:2::/64 and
fd00:ff::/64.  Each port of a virtual machine has stateful ACLs.
"""

import os
import re
import sys

import programs

HERE = os.path.dirname(os.path.abspath(__file__))

DPDK = programs.load("demo-dpdk")
D = DPDK.D

# Name: MAC address, IPv4 and IPv6 address, logical switch.
VMS = {
    "vm1": ("02:00:00:00:01:11", "10.0.1.11", "fd00:1::11", "ls1"),
    "vm2": ("02:00:00:00:01:12", "10.0.1.12", "fd00:1::12", "ls1"),
    "vm3": ("02:00:00:00:02:21", "10.0.2.21", "fd00:2::21", "ls2"),
    "vm4": ("02:00:00:00:01:14", "10.0.1.14", "fd00:1::14", "ls1"),
}
GATEWAYS = {"ls1": ("02:00:00:00:01:01", "10.0.1.1", "fd00:1::1"),
            "ls2": ("02:00:00:00:02:01", "10.0.2.1", "fd00:2::1"),
            "pub": ("02:00:00:00:00:01", "172.16.0.1", "fd00:ff::1")}
EXT = ("02:00:00:00:00:99", "172.16.0.100", "fd00:ff::100")
# Load balancers of the switches and of the router, by backend.
VIRTUAL = {"vm2": ("10.0.9.2", "fd00:9::2"), "vm3": ("10.0.9.3", "fd00:9::3")}
EXTERNAL = {"vm2": ("172.16.0.52", "fd00:ff::52"),
            "vm3": ("172.16.0.53", "fd00:ff::53")}
FLOATING = ("172.16.0.12", "fd00:ff::12")       # vm2.
BRIDGES = ("br-int", "br-ex", "br-phy")
MTU = 1400                      # Geneve needs the rest.


class Chassis:
    """The daemons of Open vSwitch and ovn-controller on a host, with an
    emulated NIC."""

    forwards = True

    def __init__(self, net, name, underlay):
        self.net = net
        self.name = name
        self.underlay = underlay
        self.folder = os.path.join(net.folder, name)
        os.mkdir(self.folder)
        self.ctl = f"{self.folder}/vswitchd.ctl"
        self.db = f"unix:{self.folder}/db.sock"
        self.env = [f"{v}={self.folder}" for v in (
            "OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR",
            "OVN_RUNDIR", "OVN_LOGDIR", "OVN_DBDIR")]
        self.controller = None

    def start_daemon(self, name, *argv):
        return self.net.start(f"{name} of {self.name}", "env", *self.env,
                              *argv, ns=self.name,
                              log=f"{self.name}/{name}.err")

    def vsctl(self, *argv):
        return self.net.run("ovs-vsctl", "--timeout=20", f"--db={self.db}",
                            *argv)

    def appctl(self, *argv):
        return self.net.run("ovs-appctl", "--timeout=20", "-t", self.ctl,
                            *argv)

    def start_ovs(self, ovs_build):
        db = f"{self.folder}/conf.db"
        self.net.run("ovsdb-tool", "create", db,
                     f"{ovs_build}/vswitchd/vswitch.ovsschema")
        self.start_daemon("ovsdb-server", "ovsdb-server", db, "--no-chdir",
                          f"--remote=punix:{self.folder}/db.sock",
                          f"--unixctl={self.folder}/ovsdb.ctl")
        self.net.wait_for("ovsdb-server is ready", lambda: os.path.exists(
            f"{self.folder}/db.sock"))
        self.vsctl("--no-wait", "init", "--", "set", "Open_vSwitch", ".",
                   f"external_ids:system-id={self.name}",
                   f"external_ids:ovn-remote=unix:{self.net.folder}/sb.sock",
                   "external_ids:ovn-encap-type=geneve",
                   f"external_ids:ovn-encap-ip={self.underlay}",
                   "external_ids:ovn-bridge-datapath-type=netdev",
                   "external_ids:ovn-bridge-mappings=phys:br-ex",
                   "external_ids:ovn-monitor-all=true",
                   "other_config:hw-offload=true", *self.config(),
                   *[f"other_config:{c}" for c in self.net.ovs_config])
        self.start_vswitchd()
        for bridge in BRIDGES:
            self.vsctl("add-br", bridge, "--", "set", "bridge", bridge,
                       "datapath_type=netdev", *(
                           ["fail-mode=secure"] if bridge == "br-int" else []))
        self.set_sweeps()

    def config(self):
        return DPDK.dpdk_config()

    def interface(self, name):
        return DPDK.interface(name)

    def start_vswitchd(self, *options):
        self.vswitchd = self.start_daemon(
            "ovs-vswitchd", f"LD_PRELOAD={os.environ['EMUNIC_PRELOAD']}",
            f"EMUNIC_SOCKET={self.folder}/emunic.sock",
            f"EMUNIC_LOG={self.folder}/emunic.log", "ovs-vswitchd", self.db,
            "--no-chdir", "--disable-system", f"--unixctl={self.ctl}",
            "-vconsole:err", f"--log-file={self.folder}/ovs-vswitchd.log",
            *options)
        self.net.wait_for("ovs-vswitchd is ready",
                          lambda: os.path.exists(self.ctl), 20)

    def set_sweeps(self):
        # What was taken back, as when its mark has changed, waits for a sweep:
        # for up to 20 s unless this says otherwise.
        self.appctl("dpctl/ct-set-sweep-interval", "1000")

    def add_underlay(self):
        """Gives br-phy its address, if it does not have it."""
        self.net.run("ip", "addr", "replace", f"{self.underlay}/24", "dev",
                     "br-phy", ns=self.name)
        self.net.run("ip", "link", "set", "br-phy", "up", ns=self.name)

    def restart_vswitchd(self):
        self.appctl("exit")
        self.net.wait_for("ovs-vswitchd ends",
                          lambda: self.vswitchd.poll() is not None)
        self.start_vswitchd()
        self.vsctl("wait-until", "Open_vSwitch", ".", "cur_cfg>0")
        self.add_underlay()
        self.set_sweeps()

    def ofctl(self, command, bridge, *argv):
        return self.net.run("ovs-ofctl", command,
                            f"unix:{self.folder}/{bridge}.mgmt", *argv)

    def stop_controller(self):
        """As when it is upgraded: what it has put into Open vSwitch stays."""
        self.net.run(self.net.ovn("ovn-appctl"), "--timeout=20", "-t",
                     f"{self.folder}/ovn-controller.ctl", "exit", "--restart")
        self.net.wait_for("ovn-controller ends",
                          lambda: self.controller.poll() is not None)

    def start_controller(self):
        self.controller = self.start_daemon(
            "ovn-controller", self.net.ovn("ovn-controller"), self.db,
            "--no-chdir", f"--unixctl={self.folder}/ovn-controller.ctl",
            "-vconsole:err", f"--log-file={self.folder}/ovn-controller.log")

    def add_port(self, bridge, name, *args):
        self.vsctl("add-port", bridge, name, "--", "set", "Interface", name,
                   *self.interface(name), *args)

    def ask_nic(self, program, *argv):
        return self.net.run(
            "env", f"EMUNIC_SOCKET={self.folder}/emunic.sock", sys.executable,
            f"{HERE}/emunic/{program}", *argv)

    def nic(self, *command):
        return self.ask_nic("emunic-ctl", *command)

    def take_down(self):
        """Removes all bridges.  Returns what there is to say of what is left,
        and whether that is nothing."""
        for bridge in BRIDGES:
            self.vsctl("del-br", bridge)
        return self.left()

    def left(self):
        line = self.nic("show").splitlines()[0]
        return line, DPDK.is_empty(line)

    def rules(self, port):
        """Returns the NIC's rules for TCP from and to a client's port."""
        return [line for line in self.ask_nic(
                    "emunic-rules", "--transfer", "--priority=1").splitlines()
                if re.search(rf" tcp .*\b(src|dst) is {port}\b", line)]

    def seen(self):
        """Returns how many packets hardware has forwarded, and how many
        software has seen."""
        counters = DPDK.counters(self.nic("json")).values()
        return [sum(c[i] for c in counters) for i in (0, 1)]


class DummyChassis(Chassis):
    """The same, with the provider that is for tests: it has paths, but no
    hardware that forwards packets."""

    forwards = False

    def __init__(self, *args):
        super().__init__(*args)
        self.ports = []

    def config(self):
        return []

    def interface(self, _name):
        return ["type=\"\""]

    def start_vswitchd(self, *options):
        super().start_vswitchd("--enable-dummy", *options)
        self.appctl("ct-offload-dummy/forward", "on")

    def add_port(self, bridge, name, *args):
        super().add_port(bridge, name, *args)
        self.ports.append(name)
        self.appctl("ct-offload-dummy/claim", *self.ports)

    def rules(self, port):
        return [line for line in self.appctl("ct-offload-dummy/paths")
                .splitlines() if re.search(rf"\btp_(src|dst)={port}\b", line)]

    def left(self):
        left = (self.appctl("ct-offload-dummy/paths")
                + self.appctl("ct-offload-dummy/dump"))
        return left, not left

    def seen(self):
        return [0, 0]


class Network(D.Network):
    """All of the above."""

    ovs_config = ()
    chassis_type = Chassis

    def __init__(self, signals):
        super().__init__(signals)
        self.chassis = {}
        self.n_downloads = 0

    def ovn(self, program):
        return os.path.join(os.environ["OVN_BIN"], program)

    def nbctl(self, *argv):
        return self.run(self.ovn("ovn-nbctl"), "--timeout=20",
                        f"--db=unix:{self.folder}/nb.sock", *argv)

    def sync(self):
        """Waits until all chassis have what the northbound database says."""
        self.nbctl("--timeout=60", "--wait=hv", "sync")

    def add_namespace(self, name):
        unique = f"cto-{os.getpid()}-{name}"
        with self.signals:
            self.run("ip", "netns", "add", unique)
            self.namespaces[name] = unique
        self.run("ip", "link", "set", "lo", "up", ns=name)

    def set_up(self, ovs_build):
        with self.signals:
            self.folder = D.tempfile.mkdtemp(prefix="cto-", dir="/tmp")
        os.environ["OVS_RUNDIR"] = os.environ["OVN_RUNDIR"] = self.folder
        self.add_namespace("central")
        share = os.path.join(os.environ["OVN_BIN"], "../share/ovn")
        for db in "nb", "sb":
            self.run("ovsdb-tool", "create", f"{self.folder}/{db}.db",
                     f"{share}/ovn-{db}.ovsschema")
            self.start(f"ovsdb-server of ovn-{db}", "ovsdb-server",
                       f"{self.folder}/{db}.db", "--no-chdir",
                       f"--remote=punix:{self.folder}/{db}.sock",
                       f"--unixctl={self.folder}/{db}.ctl",
                       ns="central", log=f"ovsdb-{db}.err")
            self.wait_for(f"ovn-{db} is ready", lambda db=db: os.path.exists(
                f"{self.folder}/{db}.sock"))
        self.nbctl("init")
        self.run(self.ovn("ovn-sbctl"), f"--db=unix:{self.folder}/sb.sock",
                 "init")
        self.start("ovn-northd", self.ovn("ovn-northd"), "--no-chdir",
                   f"--ovnnb-db=unix:{self.folder}/nb.sock",
                   f"--ovnsb-db=unix:{self.folder}/sb.sock",
                   f"--unixctl={self.folder}/ovn-northd.ctl", "-vconsole:err",
                   f"--log-file={self.folder}/ovn-northd.log",
                   ns="central", log="ovn-northd.err")
        for i in 1, 2:
            name = f"ch{i}"
            self.add_namespace(name)
            self.chassis[name] = c = self.chassis_type(self, name,
                                                       f"192.168.0.{i}")
            c.start_ovs(ovs_build)
        self.add_underlay()
        self.add_hosts()
        for c in self.chassis.values():
            c.start_controller()
        self.add_logical()
        self.wait_for("all ports are bound", lambda: "false" not in self.nbctl(
            "--bare", "--columns=up", "find", "Logical_Switch_Port",
            "type=\"\""), 30)
        self.sync()

    def add_link(self, name, ns, peer, peer_ns, *args):
        """Adds two devices that are joined."""
        ns, peer_ns = self.namespaces[ns], self.namespaces[peer_ns]
        self.run("ip", "-n", ns, "link", "add", name, "type", "veth", "peer",
                 "name", peer, *args, "netns", peer_ns)
        for device, where in (name, ns), (peer, peer_ns):
            # What comes from a packet socket needs its checksums.
            self.run("ip", "netns", "exec", where, "ethtool", "-K", device,
                     "tx", "off", "tso", "off", "gso", "off", "gro", "off")
            self.run("ip", "-n", where, "link", "set", device, "up")

    def add_underlay(self):
        self.add_link("phy", "ch1", "phy", "ch2")
        for i, c in enumerate(self.chassis.values()):
            c.vsctl("set", "bridge", "br-phy",
                    f"other_config:hwaddr=02:00:00:00:aa:0{i}")
            c.add_port("br-phy", "phy")
            c.add_underlay()

    def plug(self, chassis, name, mac, addresses, gateways):
        self.add_namespace(name)
        self.add_link(name, chassis.name, "eth0", name, "address", mac)
        self.run("ip", "link", "set", "eth0", "mtu", str(MTU), ns=name)
        self.run("sysctl", "-q", "-w", f"net.ipv6.conf.{name}.disable_ipv6=1",
                 ns=chassis.name)
        self.limit_buffers(name)
        for address in addresses:
            self.run("ip", "addr", "add", address, "dev", "eth0",
                     *(["nodad"] if ":" in address else []), ns=name)
        for gateway in gateways:
            self.run("ip", "-6" if ":" in gateway else "-4", "route", "add",
                     "default", "via", gateway, ns=name)

    def add_hosts(self):
        for name, (mac, ipv4, ipv6, switch) in VMS.items():
            c = self.chassis["ch2" if name == "vm4" else "ch1"]
            self.plug(c, name, mac, (f"{ipv4}/24", f"{ipv6}/64"),
                      GATEWAYS[switch][1:])
            c.add_port("br-int", name, f"external_ids:iface-id={name}")
        c = self.chassis["ch1"]
        self.plug(c, "ext", EXT[0], (f"{EXT[1]}/24", f"{EXT[2]}/64"),
                  GATEWAYS["pub"][1:])
        c.add_port("br-ex", "ext")

    def add_logical(self):
        def router_port(switch):
            mac, ipv4, ipv6 = GATEWAYS[switch]
            return ["--", "ls-add", switch,
                    "--", "lrp-add", "lr0", f"lr0-{switch}", mac,
                    f"{ipv4}/24", f"{ipv6}/64",
                    "--", "lsp-add", switch, f"{switch}-lr0",
                    "--", "lsp-set-type", f"{switch}-lr0", "router",
                    "--", "lsp-set-addresses", f"{switch}-lr0", "router",
                    "--", "lsp-set-options", f"{switch}-lr0",
                    f"router-port=lr0-{switch}"]

        self.nbctl("lr-add", "lr0", *[word for switch in GATEWAYS
                                      for word in router_port(switch)],
                   "--", "lsp-add", "pub", "ln",
                   "--", "lsp-set-type", "ln", "localnet",
                   "--", "lsp-set-addresses", "ln", "unknown",
                   "--", "lsp-set-options", "ln", "network_name=phys",
                   "--", "lrp-set-gateway-chassis", "lr0-pub", "ch1", "20")
        for name, (mac, ipv4, ipv6, switch) in VMS.items():
            self.nbctl("lsp-add", switch, name,
                       "--", "lsp-set-addresses", name,
                       f"{mac} {ipv4} {ipv6}",
                       "--", "lsp-set-port-security", name,
                       f"{mac} {ipv4} {ipv6}")
        self.nbctl(
            "lr-nat-add", "lr0", "snat", GATEWAYS["pub"][1], "10.0.0.0/16",
            "--", "lr-nat-add", "lr0", "snat", GATEWAYS["pub"][2],
            "fd00:1::/64",
            "--", "lr-nat-add", "lr0", "dnat_and_snat", FLOATING[0],
            VMS["vm2"][1],
            "--", "lr-nat-add", "lr0", "dnat_and_snat", FLOATING[1],
            VMS["vm2"][2])
        self.nbctl("pg-add", "vms", *VMS)
        for priority, direction, match, action in (
                (1002, "from-lport", "inport == @vms && ip", "allow-related"),
                (1002, "to-lport", "icmp4 || icmp6", "allow-related"),
                (1003, "to-lport", "tcp.dst == {80, 8000}", "allow-related"),
                (1003, "to-lport", "udp.dst == 7", "allow-related"),
                (1000, "to-lport", "ip", "drop")):
            if direction == "to-lport":
                match = f"outport == @vms && ({match})"
            self.nbctl("acl-add", "vms", direction, str(priority), match,
                       action)
        for lbs, at in (VIRTUAL, ("ls1", "ls2")), (EXTERNAL, ("lr0",)):
            for vm, addresses in lbs.items():
                for i, vip in enumerate(addresses):
                    for port, proto in (80, "tcp"), (7, "udp"):
                        self.add_lb(at, vip, VMS[vm][1 + i], port, proto)

    def add_lb(self, places, vip, backend, port, proto):
        name = f"lb-{vip}-{proto}"
        vip, backend = (f"[{a}]:{port}" if ":" in a else f"{a}:{port}"
                        for a in (vip, backend))
        self.nbctl("lb-add", name, vip, backend, proto)
        for place in places:
            self.nbctl("ls-lb-add" if place.startswith("ls") else "lr-lb-add",
                       place, name)

    def find_acl(self):
        """Returns the ACL that allows TCP."""
        return self.nbctl("--bare", "--columns=_uuid", "find", "ACL",
                          "match=\"outport == @vms && (tcp.dst == {80, 8000})"
                          "\"").strip()

    # Running things.

    def check_running(self):
        """Programs must not have failed, other than downloads."""
        for what, process, _ in self.processes:
            if "download" not in what and process.poll():
                raise D.Failed(f"{what} has ended: {process.poll()}")

    def cancel(self, process):
        """Ends a program that need not have succeeded."""
        self.stop(process)
        self.processes = [p for p in self.processes if p[1] != process]

    # Traffic.

    def count_differences(self):
        """Returns, for each virtual machine, how many packets more OpenFlow
        table 0 has counted than its port."""
        differences = {}
        for c in self.chassis.values():
            flows = c.ofctl("dump-flows", "br-int", "table=0", "--names")
            ports = c.ofctl("dump-ports", "br-int", "--names")
            for vm, n in re.findall(r'port +"?(vm\d)"?: rx pkts=(\d+)', ports):
                differences[vm] = sum(map(int, re.findall(
                    rf'n_packets=(\d+).*in_port="?{vm}\b', flows))) - int(n)
        return differences

    def start_servers(self, size):
        """Starts servers on all hosts: HTTP with a file of 'size' bytes, and
        UDP echo.  Returns the checksum of the file."""
        www = os.path.join(self.folder, "www")
        os.mkdir(www)
        checksum = D.make_file(www, size)
        for ns in *VMS, "ext":
            self.start_server("HTTP server", "Serving HTTP", "-m",
                              "http.server", "80", "--bind", "::",
                              "--directory", www, ns=ns)
            self.start_server("UDP echo server", "ready", "-c", D.ECHO_SERVER,
                              ns=ns)
        return checksum


class Path:
    """A kind of path."""

    def __init__(self, name, client, addresses, tunnel=False):
        self.name = name
        self.client = client
        self.addresses = addresses      # IPv4, IPv6
        self.tunnel = tunnel


def vm_addresses(vm):
    return VMS[vm][1:3]


PATHS = [
    Path("same switch", "vm1", vm_addresses("vm2")),
    Path("load balancer, same switch", "vm1", VIRTUAL["vm2"]),
    Path("load balancer, behind router", "vm1", VIRTUAL["vm3"]),
    Path("router", "vm1", vm_addresses("vm3")),
    Path("SNAT", "vm1", EXT[1:]),
    Path("load balancer of router", "ext", EXTERNAL["vm3"]),
    Path("load balancer of router, floating IP", "ext", EXTERNAL["vm2"]),
    Path("floating IP, inbound", "ext", FLOATING),
    Path("floating IP, outbound", "vm2", EXT[1:]),
    Path("load balancer, hairpin", "vm2", VIRTUAL["vm2"]),
    Path("Geneve", "vm1", vm_addresses("vm4"), True),
    Path("Geneve, other way", "vm4", vm_addresses("vm2"), True),
]


class Measurement:
    """A download over a kind of path, and who has forwarded its packets."""

    def __init__(self, net, path, address, rate="0", options=()):
        self.net = net
        self.path = path
        self.chassis = [c for c in net.chassis.values()
                        if path.tunnel or c.name == "ch1"]
        self.before = [c.seen() for c in self.chassis]
        net.n_downloads += 1
        self.port = 20000 + net.n_downloads
        name = re.sub(r"[:, ]+", "-", f"{path.name} {address} {self.port}")
        self.download = D.Transfer(
            net, name, address, 80, "", rate, ns=path.client,
            options=("--local-port", str(self.port), *options))

    def wait_established(self):
        """Waits until hardware has rules for both directions.  Returns false
        if the download has ended before that."""
        self.net.wait_for("rules for both directions", lambda: all(
            len(c.rules(self.port)) == 2 for c in self.chassis)
            or self.download.ended(), 20)
        self.begin = [c.seen() for c in self.chassis]
        return not self.download.ended()

    def got(self):
        """Returns how many bytes have come."""
        try:
            return os.path.getsize(self.download.path)
        except FileNotFoundError:
            return 0

    def wait_end(self):
        """Waits for the download.  Returns its checksum."""
        self.net.wait_for(f"download over {self.path.name}",
                          self.download.ended, 60)
        self.net.check_alive()
        self.end = [c.seen() for c in self.chassis]
        return self.download.checksum()

    def counts(self, chassis, since):
        """Returns how many packets hardware has forwarded, and how many
        software has seen, since 'since'."""
        i = self.chassis.index(chassis)
        return [b - a for a, b in zip(since[i], self.end[i])]
