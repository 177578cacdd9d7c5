# Copyright (c) 2026 The Open vSwitch Conntrack Offload Authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at:
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""Policy that changes under traffic, for tests of conntrack offload.

Run it as one of:

    chaos dpdk|dummy SECONDS SEED|random
                                        Change what can be changed at random:
                                        flows, groups, marks, ports, MTU,
                                        queues, connections, configuration,
                                        faults of the provider.
    change drop|delete|rewrite|bucket N [measure]
                                        Change the policy of a connection and
                                        of N others on the same chain.  With
                                        "measure", print how long it took.

There are hosts in the namespaces at_ns0, at_ns1, ... behind devices p0, p1,
..., which are connected to ports ovs-p0, ovs-p1, ... of bridge br0, with the
OpenFlow port numbers 1, 2, ...  Host 0 is the client.  The last host is one
that no policy ever names.

Each packet says when it was sent.  When a change of the policy is known to be
in force, which is when revalidators are done and ct-offload/barrier has
returned, no packet that is sent after that may arrive where only an older
policy wants it.
"""

import bisect
import collections
import contextlib
import ctypes
import importlib.machinery
import importlib.util
import json
import os
import random
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import time


def load_traffic():
    sys.dont_write_bytecode = True
    loader = importlib.machinery.SourceFileLoader(
        "ct_traffic", os.path.join(os.path.dirname(__file__),
                                   "ct-traffic.py"))
    spec = importlib.util.spec_from_loader("ct_traffic", loader)
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


T = load_traffic()

CLIENT_MAC = "02:00:00:00:00:01"
SERVER_MAC = "02:00:00:00:00:02"
KERNEL_PORT = 1234              # Connections of hosts themselves.
FIRST_PORT = 2000
FIRST_SPORT = 10000
PAYLOAD = struct.Struct("!4sBBQ")
MAGIC = b"ctpo"
RECORD = struct.Struct("!BBBQQ")        # Host, class, direction, sent, came.
FOREIGN = 255                   # The class of packets that nobody should see.
WAIT = 60

# The priority of rules of paths in hardware.
PATH_PRIORITY = "1"

PR_SET_PDEATHSIG = 1            # From linux/prctl.h.

# From linux/if_packet.h and asm-generic/socket.h.
SOL_PACKET = 263
PACKET_IGNORE_OUTGOING = 23
SO_RCVBUFFORCE = 33


def host_device(i):
    """Returns the network namespace and the device of a host."""
    return f"at_ns{i}", f"p{i}"


def now():
    return time.monotonic_ns()


def run(*argv):
    p = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                       stderr=subprocess.STDOUT, check=False, timeout=WAIT,
                       encoding="utf-8", errors="replace")
    if p.returncode:
        sys.exit(f"{' '.join(argv)} failed: {p.stdout}")
    return p.stdout


def ofctl(command, *args):
    return run("ovs-ofctl", command, "br0", *args)


def appctl(*argv):
    return run("ovs-appctl", *argv)


def emunic(*argv):
    return run(sys.executable, os.environ["EMUNIC_CTL"], *argv)


def wait_until(what, condition, seconds=WAIT):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            sys.exit(f"{what}: not within {seconds} s\n"
                     + appctl("ct-offload/show"))
        time.sleep(0.1)


def hasten_revalidators():
    """Has revalidators not be what takes longest before a policy is in
    force."""
    run("ovs-vsctl", "set", "Open_vSwitch", ".",
        "other_config:max-revalidator=100")


def forwarding():
    """Returns the numbers of paths and chains."""
    m = re.search(r"^forwarding: .*?(\d+) paths in (\d+) chains",
                  appctl("ct-offload/show"), re.M)
    return (int(m[1]), int(m[2])) if m else (0, 0)


# Packets.

class Class:
    """Connections with a policy in common."""

    def __init__(self, number, proto, zones, servers, nat=None, marked=False):
        self.number = number
        self.proto = proto              # "udp", "tcp", "udp6" or "tcp6".
        self.zones = zones
        self.servers = servers          # Hosts that policy may ever name.
        self.nat = nat                  # "src", "dst" or None.
        self.marked = marked            # The mark decides.
        self.port = FIRST_PORT + number
        prefix = "fc00:2::" if self.is_ipv6() else "10.2.0."
        self.client, self.server = prefix + "1", prefix + "2"
        self.nat_address = prefix + "3"

    def is_ipv6(self):
        return self.proto.endswith("6")

    def is_tcp(self):
        return self.proto.startswith("tcp")


class Connection:
    """A connection from host 0."""

    def __init__(self, klass, sport, client=None, direction=0):
        self.klass = klass
        self.sport = sport
        self.src = T.address(client or klass.client)
        self.dst = T.address(klass.server)
        self.direction = direction
        self.established = not klass.is_tcp()
        self.expires = time.monotonic() + random.uniform(1, 8)

    def packet(self, flags=0x18):
        k = self.klass
        data = PAYLOAD.pack(MAGIC, k.number, self.direction, now())
        if not k.is_tcp():
            return T.udp(self.src, self.dst, self.sport, k.port, data)
        if not self.established:
            return T.tcp(self.src, self.dst, self.sport, k.port, 100, 0, 2)
        return T.tcp(self.src, self.dst, self.sport, k.port, 101, 501, flags,
                     data if flags & 8 else b"")


class Packet:
    """A packet that was received."""

    def __init__(self, frame):
        self.ipv6 = frame[12:14] == b"\x86\xdd"
        self.proto = frame[20 if self.ipv6 else 23]
        if self.ipv6:
            self.src, self.dst = frame[22:38], frame[38:54]
        else:
            self.src, self.dst = frame[26:30], frame[30:34]
        l4 = frame[54 if self.ipv6 else 34:]
        self.sport, self.dport = struct.unpack_from("!HH", l4)
        self.tcp = self.proto == socket.IPPROTO_TCP
        self.flags = l4[13] if self.tcp else 0
        data = l4[(l4[12] >> 4) * 4 if self.tcp else 8:]
        self.klass, self.direction, self.sent = FOREIGN, 0, now()
        if data.startswith(MAGIC):
            _, self.klass, self.direction, self.sent = PAYLOAD.unpack_from(
                data)
        elif frame[12:14] in (b"\x86\xdd", b"\x08\x00"):
            # Without a time, it counts as sent right now: only changes that
            # are long in force forbid it, and that is not for sure.
            self.direction = int(self.sport < FIRST_SPORT)
            port = self.sport if self.direction else self.dport
            if port == KERNEL_PORT:
                self.klass = KERNEL
            elif FIRST_PORT <= port < FIRST_PORT + KERNEL:
                self.klass = port - FIRST_PORT
                self.sent = 0

    def answer(self):
        """Returns what a server answers, or nothing."""
        data = PAYLOAD.pack(MAGIC, self.klass, 1, now())
        args = self.dst, self.src, self.dport, self.sport
        if not self.tcp:
            return T.udp(*args, data)
        if self.flags & 4:
            return b""
        if self.flags & 2:
            return T.tcp(*args, 500, 101, 0x12)
        if self.flags & 1:
            return T.tcp(*args, 501, 102, 0x11)
        if self.flags & 8:
            return T.tcp(*args, 501, 101 + PAYLOAD.size, 0x18, data)
        return b""


CLASSES = [
    Class(0, "udp", [1], [1]),
    Class(1, "tcp", [1], [2]),
    Class(2, "udp6", [2], [1, 2]),
    Class(3, "tcp6", [2], [1, 2]),
    Class(4, "udp", [3, 4], [1, 2], nat="dst"),
    Class(5, "tcp", [3, 4], [1, 2], nat="src"),
    Class(6, "udp", [5], [1, 2], marked=True),
    Class(7, "tcp", [5], [1, 2], marked=True),
]
KERNEL = len(CLASSES)


class Traffic:
    """A process that sends and answers packets until it is stopped."""

    def __init__(self, n_hosts, connections, period, renew):
        self.n_hosts = n_hosts
        self.connections = connections
        self.period = period            # Between packets of a connection.
        self.renew = renew              # Do connections end?
        self.next_sport = FIRST_SPORT + 20000
        self.records = []
        self.ready, writer = os.pipe()
        self.pid = os.fork()
        if self.pid:
            os.close(writer)
            if os.read(self.ready, 1) != b"r":
                sys.exit("there is no traffic")
            return
        try:
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            self.main(writer)
            os._exit(0)
        except BaseException as e:
            print(f"traffic: {e!r}", file=sys.stderr, flush=True)
            os._exit(1)

    def open(self):
        self.socks = []
        for i in range(self.n_hosts):
            sock = T.device_socket(*host_device(i))
            sock.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
            sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
            sock.setblocking(False)
            self.socks.append(sock)
        self.by_fd = {sock.fileno(): i for i, sock in enumerate(self.socks)}
        self.poll = select.poll()
        for sock in self.socks:
            self.poll.register(sock, select.POLLIN)

    def main(self, writer):
        stopped = []
        signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
        self.open()
        os.write(writer, b"r")
        os.close(writer)
        self.go(stopped)
        while self.receive(1):
            pass
        with open("records", "wb") as f:
            f.write(b"".join(self.records))

    def go(self, stopped):
        step = self.period / len(self.connections)
        due = time.monotonic()
        i = 0
        while not stopped:
            self.receive(max(0, due - time.monotonic()))
            # Not too many at a time, on a slow machine.
            for _ in range(10):
                if time.monotonic() < due:
                    break
                self.send_next(i % len(self.connections))
                i += 1
                due += step
            due = max(due, time.monotonic() - 0.1)

    def send(self, host, data):
        macs = (CLIENT_MAC, SERVER_MAC)
        src, dst = (macs if host == 0 else macs[::-1])
        frame = (bytes.fromhex((dst + src).replace(":", ""))
                 + (b"\x86\xdd" if data[0] >> 4 == 6 else b"\x08\x00") + data)
        with contextlib.suppress(OSError):      # No room, or no carrier.
            self.socks[host].send(frame)

    def send_next(self, i):
        conn = self.connections[i]
        if self.renew and time.monotonic() > conn.expires:
            if conn.klass.is_tcp() and conn.established:
                # By FIN, by RST, or without a word.
                flags = random.choice([0x11, 0x04, 0])
                if flags:
                    self.send(0, conn.packet(flags))
            self.next_sport += 1
            conn = Connection(conn.klass, self.next_sport)
            self.connections[i] = conn
        self.send(0, conn.packet())

    def receive(self, timeout):
        """Waits for packets, and returns whether there were any."""
        ready = self.poll.poll(timeout * 1000)
        for fd, _ in ready:
            host = self.by_fd[fd]
            for _ in range(64):
                try:
                    frame = self.socks[host].recv(2048)
                except OSError:
                    break
                self.received(host, frame)
        return bool(ready)

    def record(self, host, packet):
        self.records.append(RECORD.pack(host, packet.klass, packet.direction,
                                        packet.sent, now()))

    def received(self, host, frame):
        packet = Packet(frame)
        self.record(host, packet)
        if packet.klass >= KERNEL:
            return
        if packet.direction == 0 and host:
            answer = packet.answer()
            if answer:
                self.send(host, answer)
        elif packet.direction == 1 and host == 0 and packet.flags & 3:
            for conn in self.connections:
                if conn.sport == packet.dport:
                    conn.established = True
                    self.send(0, conn.packet(0x10))

    def stop(self):
        """Returns a list of (host, class, direction, sent, came)."""
        os.kill(self.pid, signal.SIGTERM)
        if os.waitpid(self.pid, 0)[1]:
            sys.exit("the traffic has ended with an error")
        with open("records", "rb") as f:
            return list(RECORD.iter_unpack(f.read()))


WITNESS = 2                     # In place of a direction.


class Stream(Traffic):
    """Packets of the first connection, one each millisecond, after all of
    'connections' have become paths in the direction to servers: they are
    established by packets as fast as possible until start() is called.
    Packets of the others come one after the other then, in an order that has
    nothing to do with that of the paths.  Software sees all packets of
    witnesses, which nobody answers."""

    BATCH = 256                 # Packets: no more than fit into queues.
    STEP = 7919                 # A prime number.

    def __init__(self, n_hosts, connections):
        self.n_received = collections.Counter()
        self.streams = []
        # Some of them go to each bucket.
        self.witnesses = [Connection(CLASSES[0], FIRST_SPORT,
                                     f"10.2.1.{i + 1}", WITNESS)
                          for i in range(16)]
        signal.signal(signal.SIGUSR1, lambda *_: self.streams.append(1))
        super().__init__(n_hosts, connections, 0, False)

    def start(self):
        os.kill(self.pid, signal.SIGUSR1)

    def establish(self, stopped):
        """Sends a packet of each connection."""
        n = len(self.connections)
        for begin in range(0, n, self.BATCH):
            for i in range(begin, min(begin + self.BATCH, n)):
                self.send_next(i)
            while self.receive(0.001):
                pass
            if stopped or self.streams:
                break

    def go(self, stopped):
        while not stopped and not self.streams:
            self.establish(stopped)
            # Not more than idle machines need.
            while self.receive(0.1):
                pass
        i = 0
        due = time.monotonic()
        while not stopped:
            self.receive(max(0, due - time.monotonic()))
            if time.monotonic() >= due:
                self.send_next(0)
                self.send(0, self.witnesses[i % len(self.witnesses)].packet())
                self.send_next(i * self.STEP % len(self.connections))
                i += 1
                due = max(due + 0.001, time.monotonic() - 0.01)

    def needs_answer(self, frame):
        """Two answers have a connection established, and known to hardware.
        With another one, the other direction would be a path, too.  Some may
        be lost."""
        addresses_and_sport = frame[26:36]
        self.n_received[addresses_and_sport] += 1
        n = self.n_received[addresses_and_sport]
        return n <= 2 or n % 16 == 0

    def received(self, host, frame):
        if self.streams:
            self.record(host, Packet(frame))
        elif host and self.needs_answer(frame):
            self.send(host, Packet(frame).answer())


# What policy is in force.

class Version:
    def __init__(self, hosts):
        self.hosts = hosts              # That may get packets.
        self.begin = now()
        self.end = None                 # In force for sure since.


class History:
    """The versions of the policy, by (class, direction)."""

    def __init__(self):
        self.versions = collections.defaultdict(list)
        self.lenient = []       # Times in which hardware keeps rules.
        self.lenient_since = None

    @contextlib.contextmanager
    def change(self, policies):
        """A change is made meanwhile: 'policies' are sets of hosts by class
        and direction."""
        for key, hosts in policies.items():
            self.versions[key].append(Version(frozenset(hosts)))
        yield

    def barrier(self):
        # What was changed before is known after that.
        open_versions = [v for versions in self.versions.values()
                         for v in versions if v.end is None]
        appctl("revalidator/wait")
        appctl("ct-offload/barrier")
        for version in open_versions:
            version.end = now()

    def be_lenient(self):
        if self.lenient_since is None:
            self.lenient_since = now()

    def be_strict(self):
        if self.lenient_since is not None:
            self.lenient.append((self.lenient_since, now()))
            self.lenient_since = None

    def allowed(self, key, sent, came):
        versions = self.versions.get(key, [])
        if sent == 0 or any(a <= came and sent <= b for a, b in self.lenient):
            return frozenset().union(*(v.hosts for v in versions))
        known = [v.end for v in versions if v.end is not None]
        first = max(bisect.bisect_left(known, sent) - 1, 0)
        return frozenset().union(*(v.hosts for v in versions[first:]
                                   if v.begin <= came))

    def check(self, records):
        """Returns how many packets came where they must not, and prints
        some of them."""
        bad = 0
        for host, klass, direction, sent, came in records:
            allowed = self.allowed((klass, direction), sent, came)
            if host in allowed:
                continue
            bad += 1
            if bad <= 10:
                print(f"host {host} got a packet of class {klass}, direction "
                      f"{direction}, sent at {sent / 1e9:.6f}, received at "
                      f"{came / 1e9:.6f}, allowed are {sorted(allowed)}")
                for v in self.versions.get((klass, direction), []):
                    if abs(v.begin - sent) < 3e9:
                        end = f"{v.end / 1e9:.6f}" if v.end else "never"
                        print(f"    {sorted(v.hosts)} from "
                              f"{v.begin / 1e9:.6f}, for sure from {end}")
        return bad


# Flows.

GROUP = 1
POLICY = {"drop": "drop", "deleted": None, "group": f"group:{GROUP}"}


def output(what):
    """Returns the actions for a policy: a host, or one of POLICY."""
    return POLICY[what] if what in POLICY else f"output:{what + 1}"


def group_text(hosts):
    return f"group_id={GROUP},type=select" + "".join(
        f",bucket=bucket_id:{host},actions=output:{host + 1}"
        for host in sorted(hosts))


def orig_flow(k):
    return f"table=3,priority=10,{k.proto},tp_dst={k.port}"


def reply_flow(k):
    return f"table=2,priority=10,ct_state=+est+trk,{k.proto},tp_src={k.port}"


def mark_flow(k):
    return f"table=1,priority=10,ct_state=+est+trk,{k.proto},tp_dst={k.port}"


def mark_actions(k, mark):
    return (f"ct(commit,zone={k.zones[-1]},table=3,"
            f"exec(set_field:{mark}->ct_mark))")


def class_flows(k, orig, reply, mark, servers):
    """Returns the flows of class 'k'.  The packets of clients go through all
    of its zones, table 1, and table 3, those of servers back through the zones
    and table 2."""
    nat = ",nat" if k.nat else ""
    first, last = k.zones[0], k.zones[-1]
    to_server = f"{k.proto},tp_dst={k.port}"
    to_client = f"{k.proto},tp_src={k.port}"
    commit = f"commit,zone={last}"
    if k.nat:
        commit += f",nat({k.nat}={k.nat_address})"
    flows = [f"table=0,priority=10,in_port={host + 1},{to_client},"
             f"actions=ct(table={2 if first == last else 6},zone={last}{nat})"
             for host in servers]
    if first == last:
        flows.append(f"table=0,priority=10,in_port=1,{to_server},"
                     f"actions=ct(table=1,zone={last}{nat})")
    else:
        go = f"ct(table=1,zone={last}{nat})"
        flows += [
            f"table=0,priority=10,in_port=1,{to_server},"
            f"actions=ct(table=5,zone={first})",
            f"table=5,priority=10,ct_state=+new+trk,{to_server},"
            f"actions=ct(commit,zone={first}),{go}",
            f"table=5,priority=10,ct_state=+est+trk,{to_server},actions={go}",
            f"table=6,priority=10,ct_state=+est+trk,{to_client},"
            f"actions=ct(table=2,zone={first})"]
    new = f"table=1,priority=10,ct_state=+new+trk,{to_server}"
    if k.marked:
        flows += [f"{new},actions={mark_actions(k, mark)}",
                  f"{mark_flow(k)},actions={mark_actions(k, mark)}"]
        flows += [f"{orig_flow(k)},ct_mark={host},actions={output(host)}"
                  for host in k.servers]
    else:
        flows += [f"{new},actions=ct({commit}),goto_table:3",
                  f"{mark_flow(k)},actions=goto_table:3"]
        if output(orig):
            flows.append(f"{orig_flow(k)},actions={output(orig)}")
    if output(reply):
        flows.append(f"{reply_flow(k)},actions={output(reply)}")
    return flows


# What differs between providers.

class Dpdk:
    """DPDK ports of the emulated NIC."""

    counters = {"ambiguous": 0, "stale": 0, "forwarded": 0}

    def start(self):
        self.devargs = {}

    def read_counters(self):
        """Adds up what the NIC has counted: ports that go take that with
        them."""
        for port in json.loads(emunic("json"))["ports"]:
            for name in self.counters:
                self.counters[name] += port["counters"][name]
        emunic("reset-counters")

    def readd(self, hosts, rng):
        self.read_counters()
        for host in hosts:
            self.devargs[host] = run(
                "ovs-vsctl", "get", "Interface", f"ovs-p{host}",
                "options:dpdk-devargs").strip()
            run("ovs-vsctl", "del-port", f"ovs-p{host}")
        time.sleep(rng.uniform(0, 0.2))
        for host in rng.sample(hosts, len(hosts)):
            run("ovs-vsctl", "add-port", "br0", f"ovs-p{host}", "--", "set",
                "Interface", f"ovs-p{host}", "type=dpdk",
                f"ofport_request={host + 1}",
                f"options:dpdk-devargs={self.devargs[host]}")

    def restart(self, hosts):
        """Has ports forget how often they have failed."""
        for n_rxq in 2, 1:
            for host in hosts:
                run("ovs-vsctl", "set", "Interface", f"ovs-p{host}",
                    f"options:n_rxq={n_rxq}")

    def change_port(self, host, rng):
        what = rng.choice(["n_rxq", "mtu", "state"])
        if what == "n_rxq":
            run("ovs-vsctl", "set", "Interface", f"ovs-p{host}",
                f"options:n_rxq={rng.choice([1, 2])}")
        elif what == "mtu":
            run("ovs-vsctl", "set", "Interface", f"ovs-p{host}",
                f"mtu_request={rng.choice([1400, 1450, 1500])}")
        else:
            for state in "down", "up":
                appctl("netdev-dpdk/set-admin-state", f"ovs-p{host}", state)

    def faults(self, history, rng):
        what = rng.choice(["all", "create", "destroy", "query", "latency"])
        if what == "latency":
            emunic("latency", "all", "200")
            return
        if what in ("all", "destroy"):
            # Rules may stay for a while.
            history.be_lenient()
        # Only of rules of paths: dpif-offload-dpdk keeps a device when it has
        # failed to destroy a rule, and ovs-vswitchd aborts when that rule's
        # megaflow changes.
        which = ["priority", PATH_PRIORITY] * (what in ("all", "destroy"))
        emunic("fail", *which, what, "probability", "0.1",
               rng.choice(["EIO", "ENOSPC", "EAGAIN"]))

    def no_faults(self, history):
        emunic("fail", "all", "off")
        emunic("latency", "all", "0")
        if history.lenient_since is not None:
            wait_until("rules that could not be destroyed", lambda:
                       not re.search(r"[1-9]\d* rules that do not go",
                                     appctl("ct-offload/show")))
            history.barrier()
            history.be_strict()

    def left(self):
        self.read_counters()
        rules = [rule for port in json.loads(emunic("json"))["ports"]
                 for rule in port["rules"] if rule["domain"] == "transfer"
                 and rule["priority"] == int(PATH_PRIORITY)]
        print(f"NIC: {self.counters}, {len(rules)} rules left")
        return bool(rules or self.counters["ambiguous"]
                    or self.counters["stale"]
                    or not self.counters["forwarded"])


class Dummy:
    """The dummy provider, and ports of Linux."""

    def start(self):
        appctl("ct-offload-dummy/claim", "all")
        appctl("ct-offload-dummy/forward", "on")

    def readd(self, hosts, rng):
        for host in hosts:
            run("ovs-vsctl", "del-port", f"ovs-p{host}")
        time.sleep(rng.uniform(0, 0.2))
        for host in rng.sample(hosts, len(hosts)):
            run("ovs-vsctl", "add-port", "br0", f"ovs-p{host}", "--", "set",
                "Interface", f"ovs-p{host}", f"ofport_request={host + 1}")

    def restart(self, hosts):
        """Has ports be followed again: software sees all packets here, which
        counts against hardware."""
        self.readd(list(hosts), random)

    def change_port(self, host, rng):
        if rng.random() < 0.5:
            run("ovs-vsctl", "set", "Interface", f"ovs-p{host}",
                f"mtu_request={rng.choice([1400, 1450, 1500])}")
        else:
            appctl("ct-offload-dummy/forward", "off")
            appctl("ct-offload-dummy/forward", "on")

    def faults(self, _history, rng):
        what = rng.choice(["add", "est", "stats", "delay"])
        if what == "delay":
            appctl("ct-offload-dummy/set-delay", "2000")
        else:
            appctl(f"ct-offload-dummy/set-{what}-error",
                   rng.choice(["5", "28"]))

    def no_faults(self, _history):
        appctl("ct-offload-dummy/set-delay", "0")
        for what in "add", "est", "stats":
            appctl(f"ct-offload-dummy/set-{what}-error", "0")

    def left(self):
        counters = appctl("ct-offload-dummy/counters").strip()
        paths = appctl("ct-offload-dummy/paths")
        print(f"provider: {counters}, {len(paths.splitlines())} paths left")
        return bool(paths) or "held=0 misused=0" not in counters


# Chaos.

N_HOSTS = 4


class Downloads:
    """Real downloads, one after the other, from host 1 to host 0."""

    def __init__(self):
        self.sport = 40000
        self.n_done = 0
        self.client = None
        self.server = self.start("at_ns1", "serve", "tcp", "10.1.1.2",
                                 str(KERNEL_PORT))

    @staticmethod
    def start(netns, *argv):
        return subprocess.Popen(
            ["ip", "netns", "exec", netns, sys.executable, T.__file__, *argv],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, encoding="utf-8")

    def begin(self, megabytes, *rate):
        self.sport += 1
        self.client = self.start("at_ns0", "get", "10.1.1.2",
                                 str(KERNEL_PORT), str(self.sport),
                                 str(megabytes), *rate)

    def go_on(self):
        """Begins another one if the last one has ended."""
        if self.client and self.client.poll() is None:
            return
        if self.client and not self.client.returncode:
            self.n_done += 1
        self.begin(3, "1")

    def end(self):
        """Has a last one succeed."""
        self.client.kill()
        self.client.wait()
        self.begin(1)
        output = self.client.communicate(timeout=WAIT)[0]
        if "intact" not in output:
            sys.exit(f"the last download has failed: {output}")
        self.server.kill()
        self.server.wait()


class Chaos:
    def __init__(self, provider, seconds, seed):
        self.provider = provider
        self.seconds = seconds
        self.rng = random.Random(seed)
        self.history = History()
        self.orig = {k.number: k.servers[0] for k in CLASSES}
        self.mark = {k.number: k.servers[0] for k in CLASSES}
        self.reply = {k.number: 0 for k in CLASSES}
        self.buckets = {1, 2}
        self.faulty = False
        self.n_changes = 0

    def named(self, k):
        """Which hosts policy names for packets to servers of class 'k'."""
        if k.marked:
            return {self.mark[k.number]}
        orig = self.orig[k.number]
        if orig == "group":
            return self.buckets
        return set() if orig in POLICY else {orig}

    def policies(self, classes):
        policies = {}
        for k in classes:
            policies[k.number, 0] = self.named(k)
            policies[k.number, 1] = {0} if self.reply[k.number] == 0 else set()
        return policies

    def flows(self):
        flows = ["table=0,priority=0,actions=drop",
                 f"table=0,priority=20,in_port=1,tcp,tp_dst={KERNEL_PORT},"
                 "actions=ct(table=7,zone=6)",
                 f"table=0,priority=20,in_port=2,tcp,tp_src={KERNEL_PORT},"
                 "actions=ct(table=7,zone=6)",
                 "table=7,ct_state=+new+trk,in_port=1,tcp,"
                 "actions=ct(commit,zone=6),output:2",
                 "table=7,ct_state=+est+trk,in_port=1,tcp,actions=output:2",
                 "table=7,ct_state=+est+trk,in_port=2,tcp,actions=output:1"]
        for k in CLASSES:
            flows += class_flows(k, self.orig[k.number], self.reply[k.number],
                                 self.mark[k.number], (1, 2))
        return flows

    def replace_flows(self):
        with open("flows", "w", encoding="utf-8") as f:
            f.write("\n".join(self.flows()) + "\n")
        run("ovs-ofctl", "--bundle", "replace-flows", "br0", "flows")

    def set_flow(self, match, what):
        if output(what) is None:
            ofctl("del-flows", match.replace("priority=10,", ""))
        elif self.rng.random() < 0.5:
            ofctl("add-flow", f"{match},actions={output(what)}")
        else:
            # Without the flow, mod-flows adds it in this version of OpenFlow.
            ofctl("mod-flows", f"{match},actions={output(what)}")

    # Changes.  Each returns what it does.

    def change_orig(self):
        k = self.rng.choice(CLASSES)
        if k.marked:
            mark = self.rng.choice(k.servers)
            self.mark[k.number] = mark
            with self.history.change(self.policies([k])):
                for state in "+est", "+new":
                    ofctl("mod-flows", mark_flow(k).replace("+est", state)
                          + f",actions={mark_actions(k, mark)}")
            return f"class {k.number}: mark {mark}"
        choices = k.servers + ["drop", "deleted"]
        if len(k.servers) > 1:
            choices.append("group")
        what = self.rng.choice(choices)
        self.orig[k.number] = what
        with self.history.change(self.policies([k])):
            self.set_flow(orig_flow(k), what)
        return f"class {k.number}: to servers: {what}"

    def change_reply(self):
        k = self.rng.choice(CLASSES)
        what = self.rng.choice([0, 0, 0, "drop", "deleted"])
        self.reply[k.number] = what
        with self.history.change(self.policies([k])):
            self.set_flow(reply_flow(k), what)
        return f"class {k.number}: to the client: {what}"

    def change_group(self):
        self.buckets = set(self.rng.choice([[1], [2], [1, 2]]))
        users = [k for k in CLASSES if self.orig[k.number] == "group"]
        with self.history.change(self.policies(users)):
            ofctl("mod-group", group_text(self.buckets))
        return f"group: {sorted(self.buckets)}"

    def change_all_flows(self):
        for k in CLASSES:
            self.orig[k.number] = self.rng.choice(k.servers)
            self.mark[k.number] = self.rng.choice(k.servers)
            self.reply[k.number] = 0
        with self.history.change(self.policies(CLASSES)):
            self.replace_flows()
        return "all flows"

    def flush(self):
        zone = self.rng.choice([None, 1, 2, 3, 4, 5, 6])
        appctl("dpctl/flush-conntrack", *([f"zone={zone}"] if zone else []))
        return f"flush zone {zone or 'all'}"

    def purge(self):
        appctl("revalidator/purge")
        return "purge megaflows"

    def change_port(self):
        host = self.rng.randrange(N_HOSTS)
        self.provider.change_port(host, self.rng)
        return f"port {host}"

    def readd_ports(self):
        hosts = self.rng.sample(range(N_HOSTS), self.rng.choice([1, 2, 4]))
        self.provider.readd(hosts, self.rng)
        return f"ports {hosts} removed and added"

    def configure(self):
        key = self.rng.choice(["hw-offload-ct", "hw-offload-ct-forward"])
        for value in "false", "true":
            run("ovs-vsctl", "set", "Open_vSwitch", ".",
                f"other_config:{key}={value}")
            time.sleep(self.rng.uniform(0, 0.3))
        return f"{key} off and on"

    def change_faults(self):
        if self.faulty:
            self.provider.no_faults(self.history)
        else:
            self.provider.faults(self.history, self.rng)
        self.faulty = not self.faulty
        return f"faults: {self.faulty}"

    def show(self):
        appctl("ct-offload/chains", "-m")
        appctl("ct-offload/explain")
        ofctl("dump-flows")
        return "show"

    # How often, in comparison.
    CHANGES = {change_orig: 10, change_reply: 3, change_group: 4,
               change_all_flows: 1, flush: 3, purge: 1, change_port: 2,
               readd_ports: 1, configure: 1, change_faults: 3, show: 1}

    def change(self):
        function, = self.rng.choices(list(self.CHANGES),
                                     list(self.CHANGES.values()))
        start = time.monotonic()
        what = function(self)
        barrier = self.rng.random() < 0.5
        if barrier:
            self.history.barrier()
        self.n_changes += 1
        print(f"{start:.3f}: {what}"
              + (f", in force at {time.monotonic():.3f}" if barrier else ""),
              flush=True)
        time.sleep(self.rng.choice([0, 0.05, 0.2]))

    def run(self):
        self.provider.start()
        hasten_revalidators()
        ofctl("add-group", group_text(self.buckets))
        with self.history.change(self.policies(CLASSES)):
            self.replace_flows()
        with self.history.change({(KERNEL, 0): {1}, (KERNEL, 1): {0}}):
            self.history.barrier()
        connections = [Connection(k, FIRST_SPORT + i)
                       for i, k in enumerate(CLASSES * 3)]
        traffic = Traffic(N_HOSTS, connections, 0.02, True)
        end = time.monotonic() + self.seconds
        downloads = Downloads()
        while time.monotonic() < end:
            downloads.go_on()
            self.change()

        # Then everything works again.
        if self.faulty:
            self.change_faults()
        self.provider.restart(range(N_HOSTS))
        self.change_all_flows()
        self.history.barrier()
        wait_until("paths", lambda: forwarding()[0] > 0)
        downloads.end()
        print(appctl("ct-offload/show"))
        records = traffic.stop()
        ofctl("del-flows")
        appctl("revalidator/wait")
        appctl("dpctl/flush-conntrack")
        appctl("ct-offload/barrier")
        wait_until("no paths and chains", lambda: forwarding() == (0, 0))
        wait_until("no connections", lambda: re.search(
            "^connections: 0 offloaded", appctl("ct-offload/show"), re.M))
        left = self.provider.left()
        bad = self.history.check(records)
        n = collections.Counter(r[0] for r in records)
        print(f"{self.n_changes} changes, {downloads.n_done} downloads, "
              f"packets received: {dict(n)}, "
              f"{bad} where policy does not name the host")
        return bad or left or not all(n[i] for i in range(N_HOSTS - 1))


def chaos(provider, seconds, seed):
    if seed == "random":
        seed = str(random.randrange(1 << 32))
    print(f"seed {seed}", flush=True)
    providers = {"dpdk": Dpdk, "dummy": Dummy}
    if Chaos(providers[provider](), float(seconds), seed).run():
        sys.exit("chaos: failed")
    print("chaos: ok")


# A change that is timed.

OLD, NEW = 1, 2                 # Hosts.


class Change:
    def __init__(self, what, n, measured):
        self.what = what
        self.measured = measured
        # Some of them go to each bucket.
        self.n = max(n, 15) if what == "bucket" else n
        self.klass = CLASSES[0]
        self.history = History()
        # Groups look at addresses only.
        self.connections = [
            Connection(self.klass, FIRST_SPORT,
                       f"10.{3 + i // 50000}.{i // 250 % 200}.{i % 250 + 1}")
            for i in range(self.n + 1)]

    def add_flows(self):
        ofctl("add-group", group_text({OLD, NEW}))
        hosts = {OLD, NEW} if self.what == "bucket" else {OLD}
        with self.history.change({(0, 0): hosts, (0, 1): {0},
                                  (0, WITNESS): {OLD, NEW}}):
            with open("flows", "w", encoding="utf-8") as f:
                f.write("\n".join(class_flows(
                    self.klass, "group" if self.what == "bucket" else OLD, 0,
                    0, (OLD, NEW))) + "\n")
            run("ovs-ofctl", "--bundle", "replace-flows", "br0", "flows")
        self.history.barrier()

    def change_policy(self):
        new = {NEW} if self.what in ("rewrite", "bucket") else set()
        flow = orig_flow(self.klass)
        with self.history.change({(0, 0): new}):
            if self.what == "bucket":
                ofctl("mod-group", group_text(new))
            elif self.what == "delete":
                ofctl("del-flows", flow.replace("priority=10,", ""))
            else:
                ofctl("mod-flows", f"{flow},actions="
                      + output(NEW if new else "drop"))

    @staticmethod
    def count_paths():
        """Returns the number of paths to servers."""
        m = re.search(r"^  port ovs-p0:.*\n *paths: (\d+) from here",
                      appctl("ct-offload/show"), re.M)
        return int(m[1]) if m else 0

    def wait_for_paths(self):
        # Of many, the first ones may be idle before the last ones are there.
        least = self.n + 1 if self.n <= 1000 else self.n * 9 // 10
        wait_until("paths", lambda: self.count_paths() >= least,
                   WAIT + self.n / 500)

    @staticmethod
    def measure_delete():
        """Returns how many paths per second go when forwarding ends."""
        key = "other_config:hw-offload-ct-forward"
        n = forwarding()[0]
        start = now()
        run("ovs-vsctl", "--no-wait", "set", "Open_vSwitch", ".",
            f"{key}=false")
        while forwarding()[0]:
            pass
        seconds = (now() - start) / 1e9
        run("ovs-vsctl", "set", "Open_vSwitch", ".", f"{key}=true")
        return n / seconds

    def run(self):
        hasten_revalidators()
        self.add_flows()
        stream = Stream(3, self.connections)
        self.wait_for_paths()
        if self.measured:
            self.rate = self.measure_delete()
            self.wait_for_paths()
        stream.start()
        time.sleep(1)
        n_paths = self.count_paths()
        begin = now()
        self.change_policy()
        self.history.barrier()
        end = now()
        time.sleep(0.5)
        records = stream.stop()
        old = [r for r in records if r[:3] == (OLD, 0, 0)]
        print(f"{self.what}: {n_paths} paths, {len(old)} packets under the "
              f"old policy, in force after {(end - begin) / 1e6:.0f} ms")
        if not any(begin - 2e8 < r[3] < begin for r in old):
            sys.exit("there were no packets before the change")
        if self.history.check(records):
            sys.exit("there were packets under the old policy after it")
        if self.measured:
            self.print_times(records, max(r[3] for r in old), end)

    def print_times(self, records, last, end):
        """Prints how long after the change of the megaflow packets have gone
        on under the old policy, and it was in force for sure."""
        # Witnesses have megaflows of their own, which change with the others.
        changed = max(r[3] for r in records if r[:3] == (OLD, 0, WITNESS))
        print(f"last-packet-ms {(last - changed) / 1e6:.1f}")
        print(f"in-force-ms {(end - changed) / 1e6:.1f}")
        print(f"delete-ms {(self.n + 1) / self.rate * 1e3:.1f}")


def change(what, n, measure=""):
    c = Change(what, int(n), bool(measure))
    c.run()
    print("change: ok")


ROLES = {"chaos": chaos, "change": change}

if __name__ == "__main__":
    ROLES[sys.argv[1]](*sys.argv[2:])
