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
"""Compare two runs of a test with the same traffic.

    ct-compare.py [--streams | --programs] A B

A and B are folders with what two runs left behind:

    PORT-in.pcap    What a host has received from port PORT of the bridge.
    PORT-out.pcap   What it has sent to it.
    ports           "ovs-ofctl dump-ports" of the bridge.
    flows           "ovs-ofctl dump-flows".
    ports-before    The same from before that traffic.
    flows-before
    began           The time of that, in seconds: captures may have begun
                    earlier.
    conntrack       "ovs-appctl dpctl/dump-conntrack -m".

Says what the first difference is, and ends with status 1, unless

  - hosts have received the same packets, every byte of them, other than in
    their order, and with right checksums, or wrong ones where the sender's
    were;
  - ports have counted the packets that hosts have sent and received, and
    lost none;
  - counters of flows and ports are the same;
  - connections are the same, but for the flags that say that they are
    offloaded.

The identification of IPv4 packets is chosen at random by whoever sends them
and does not count.  Neither do ARP and the control messages of IPv6, which
hosts send at times of their own, ICMPv6 with link-local addresses, which they
use until their others are ready, and flows for these.

With --streams, the traffic is that of the kernel's TCP, which chooses sequence
numbers, segments and acknowledgements as time goes.  TCP is compared by
connection and direction then: the stream of data, SYN, FIN and RST, and every
byte of the headers below TCP.  Of flows and ports, it is compared whether they
have been used at all, and packets may be lost on the way to or from a port.

With --programs, the traffic is that of programs that choose ports, write the
time and other numbers into what they send, and try again when nobody answers.
The same as with --streams is compared then, but of all that was received only
which kinds there are: every byte of headers, with any port from 32768 on being
the same, and data, with any number being the same.  Where programs send what
is different each time, as ping does, only headers are compared.  Of TCP, the
data of streams that are whole is compared.  Captures of a test begin with it,
so that flows-before, ports-before and began may be absent.
"""

import collections
import glob
import hashlib
import os
import re
import struct
import sys

ARP, IPV4, IPV6 = 0x806, 0x800, 0x86dd
VLANS = (0x8100, 0x88a8)
HOP_BY_HOP, ICMP, TCP, UDP, FRAGMENT, ICMPV6 = 0, 1, 6, 17, 44, 58
FIN, SYN, RST = 1, 2, 4
CHECKSUM_OFFSET = {ICMP: 2, TCP: 16, UDP: 6, ICMPV6: 2}

VXLAN_PORT = 4789

# MLD, router and neighbor discovery.
IPV6_CONTROL = set(range(130, 138)) | {143}

PORT_COUNTERS = ("pkts", "drop", "errs")
FLOW_COUNTERS = ("n_packets", "n_bytes")

# What programs choose at random: ports, from this one on, and, of data, all
# that is a number, a date, the name of a temporary file, or a list of files.
ANY_PORT = 32768
ANY_DATA = re.compile(rb"^Date: [^\r\n]*|\b\w+\.pid\b|\d+"
                      rb"|(?:^[-bcdlps][-rwxsStT]{9} .*\n?)+", re.M)

# How many messages a host may send by itself, when its device comes up, before
# the captures of a test with programs begin.
EARLY = 3

# How many bytes of the header of a protocol are not chosen by programs.
FIXED_HEADER = {ICMP: 2, ICMPV6: 2}

# Flows for what hosts send at times of their own.
CONTROL_FLOW = re.compile(r"\barp\b|\bicmp6\b.*\bicmp_type=1(3[0-7]|43)\b")


class Difference(Exception):
    pass


def read_began(folder):
    """Returns when the traffic of a run began, in microseconds."""
    try:
        with open(os.path.join(folder, "began")) as f:
            return int(float(f.read()) * 1000000)
    except FileNotFoundError:
        return 0


def read_pcap(name, began):
    """Returns the frames in a file of tcpdump since 'began'."""
    with open(name, "rb") as f:
        data = f.read()
    if data[:4] not in (b"\xd4\xc3\xb2\xa1", b"\x4d\x3c\xb2\xa1"):
        sys.exit(f"{name}: not a capture of this machine")
    frames, at = [], 24
    while at < len(data):
        seconds, us, size, length = struct.unpack_from("<IIII", data, at)
        if size != length:
            sys.exit(f"{name}: a packet is cut off")
        if data[:1] == b"\x4d":
            us //= 1000
        if seconds * 1000000 + us >= began:
            frames.append(data[at + 16:at + 16 + size])
        at += 16 + size
    return frames


def checksum(data):
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return total


class Packet:
    """A frame: where its headers are, and whether its checksums are right."""

    def __init__(self, frame):
        self.frame = bytearray(frame)
        self.type, self.l3 = struct.unpack("!H", frame[12:14])[0], 14
        while self.type in VLANS:
            self.type = struct.unpack_from("!H", frame, self.l3 + 2)[0]
            self.l3 += 4
        self.protocol = self.l4 = None
        self.end = len(frame)
        if self.type == IPV4:
            self.parse_ipv4()
        elif self.type == IPV6:
            self.parse_ipv6()

    def parse_ipv4(self):
        f, at = self.frame, self.l3
        size = (f[at] & 0xf) * 4
        self.end = at + struct.unpack_from("!H", f, at + 2)[0]
        self.addresses = bytes(f[at + 12:at + 20])
        fragment = struct.unpack_from("!H", f, at + 6)[0]
        self.replace_checksum(at + 10, checksum(f[at:at + size]) == 0xffff)
        f[at + 4:at + 6] = bytes(2)
        if not fragment & 0x3fff:
            self.parse_l4(f[at + 9], at + size)

    def parse_ipv6(self):
        f, at = self.frame, self.l3
        self.end = at + 40 + struct.unpack_from("!H", f, at + 4)[0]
        self.addresses = bytes(f[at + 8:at + 40])
        if f[at + 6] == FRAGMENT:
            f[at + 44:at + 48] = bytes(4)
        elif f[at + 6] == HOP_BY_HOP:
            self.parse_l4(f[at + 40], at + 48 + f[at + 41] * 8)
        else:
            self.parse_l4(f[at + 6], at + 40)

    def parse_l4(self, protocol, at):
        if protocol not in CHECKSUM_OFFSET or self.end > len(self.frame):
            return
        self.protocol, self.l4 = protocol, at
        data = bytes(self.frame[at:self.end])
        if protocol != ICMP:
            data = self.addresses + struct.pack("!II", len(data),
                                                protocol) + data
        where = at + CHECKSUM_OFFSET[protocol]
        if protocol == UDP and self.is_vxlan():
            f = self.frame
            f[at + 16:self.end] = Packet(f[at + 16:self.end]).frame
        none = protocol == UDP and self.frame[where:where + 2] == bytes(2)
        if not none:
            self.replace_checksum(where, checksum(data) == 0xffff)

    def is_vxlan(self):
        return (self.end - self.l4 >= 16 + 34
                and struct.unpack_from("!H", self.frame,
                                       self.l4 + 2)[0] == VXLAN_PORT)

    def replace_checksum(self, at, ok):
        self.frame[at:at + 2] = b"\x0c\x0c" if ok else b"\xba\xad"

    def is_control(self):
        return (self.type == ARP
                or self.protocol == ICMPV6
                and (self.frame[self.l4] in IPV6_CONTROL
                     or self.is_link_local()))

    def is_link_local(self):
        """Has it such an address, as hosts use whose others are not ready?"""
        return b"\xfe\x80" in (self.addresses[:2], self.addresses[16:18])


def dump(frame):
    return "\n".join(f"    {i:04x}  " + frame[i:i + 16].hex(" ")
                     for i in range(0, len(frame), 16))


def nearest(frame, others):
    """Returns that of 'others' which differs from 'frame' the least, or None,
    and where it does first."""
    best, least = None, None
    for other in others:
        different = [i for i in range(min(len(frame), len(other)))
                     if frame[i] != other[i]]
        n = len(different) + abs(len(frame) - len(other))
        if least is None or n < least[0]:
            first = different[0] if different else min(len(frame), len(other))
            best, least = other, (n, first)
    return best, least and least[1]


def compare_packets(what, runs, packets):
    """Compares lists of packets: all bytes, in any order."""
    for a, b in ((0, 1), (1, 0)):
        left = collections.Counter(packets[b])
        for number, frame in enumerate(packets[a], 1):
            if left[frame]:
                left[frame] -= 1
                continue
            text = (f"{what}: packet {number} of {len(packets[a])} in "
                    f"{runs[a]} is not among the {len(packets[b])} in "
                    f"{runs[b]}:\n{dump(frame)}")
            other, at = nearest(frame, +left)
            if other:
                text += (f"\n  The nearest differs from byte 0x{at:04x} "
                         f"on:\n{dump(other)}")
            raise Difference(text)


class Stream:
    """One direction of a TCP connection, as far as it does not depend on
    time."""

    def __init__(self):
        self.headers = set()
        self.segments = {}
        self.flags = set()
        self.isn = None

    def add(self, packet):
        f, l4 = packet.frame, packet.l4
        seq = struct.unpack_from("!I", f, l4 + 4)[0]
        flags = f[l4 + 13]
        data = bytes(f[l4 + (f[l4 + 12] >> 4) * 4:packet.end])
        if self.isn is None or flags & SYN:
            self.isn = seq if flags & SYN else seq - 1
        header = bytearray(f[:l4 + 4])
        at = packet.l3 + (2 if packet.type == IPV4 else 4)
        header[at:at + 2] = bytes(2)
        right = f[l4 + 16:l4 + 18] == b"\x0c\x0c"
        self.headers.add((header.hex(" "), right,
                          bytes(f[packet.end:]).strip(b"\0").hex()))
        if data:
            self.segments.setdefault((seq - self.isn) & 0xffffffff, data)
            if len(self.segments[(seq - self.isn) & 0xffffffff]) < len(data):
                self.segments[(seq - self.isn) & 0xffffffff] = data
        for flag, name in ((SYN, "SYN"), (FIN, "FIN"), (RST, "RST")):
            if flags & flag:
                self.flags.add(name)

    def assemble(self):
        """Returns all data, and None or why it is not whole."""
        data = bytearray()
        for seq in sorted(self.segments):
            segment = self.segments[seq]
            at = seq - 1
            if at > len(data):
                return data, f"a hole at byte {len(data)}"
            again = data[at:at + len(segment)]
            if again != segment[:len(again)]:
                return data, f"two versions of byte {at}"
            data += segment[len(again):]
        return data, None

    def summary(self):
        data, problem = self.assemble()
        return problem or (f"{len(data)} bytes, "
                           f"{' '.join(sorted(self.flags))}, "
                           f"{hashlib.sha256(data).hexdigest()}")


def compare_streams(what, runs, packets):
    streams = [collections.defaultdict(Stream) for _ in runs]
    for run, some in zip(streams, packets):
        for packet in some:
            ports = struct.unpack_from("!HH", packet.frame, packet.l4)
            run[(packet.addresses.hex(), *ports)].add(packet)
    for key in sorted(set(streams[0]) | set(streams[1])):
        name = f"{what}: TCP from port {key[1]} to {key[2]}"
        for run, other in ((0, 1), (1, 0)):
            if key not in streams[run]:
                raise Difference(f"{name} is in {runs[other]}, not in "
                                 f"{runs[run]}")
        a, b = (run[key] for run in streams)
        if a.headers != b.headers:
            header = sorted(a.headers ^ b.headers)[0]
            raise Difference(
                f"{name}: only in {runs[header in b.headers]}:\n    "
                f"{header[0]}, checksum {'right' if header[1] else 'wrong'}, "
                f"trailer \"{header[2]}\"")
        if a.summary() != b.summary():
            raise Difference(f"{name}: {a.summary()} in {runs[0]}, "
                             f"{b.summary()} in {runs[1]}")


def any_data(data):
    return repr(ANY_DATA.sub(b"#", bytes(data)))


def any_port(header, at):
    """Returns a header with ports at 'at', as text."""
    ports = (str(port) if port < ANY_PORT else "*"
             for port in struct.unpack_from("!HH", header, at))
    return f"{bytes(header[:at]).hex(' ')}, ports {' to '.join(ports)}"


def kinds(packets):
    """Returns the kinds of packets that there are, as text."""
    result = set()
    streams = collections.defaultdict(Stream)
    for p in packets:
        f = p.frame
        if p.protocol == TCP:
            ports = struct.unpack_from("!HH", f, p.l4)
            streams[(p.addresses, *ports)].add(p)
        elif p.protocol == UDP:
            result.add(f"UDP: {any_port(f, p.l4)}, "
                       f"checksum {bytes(f[p.l4 + 6:p.l4 + 8]).hex()}, "
                       f"data {any_data(f[p.l4 + 8:p.end])}")
        elif p.type in (IPV4, IPV6):
            end = (p.l4 + FIXED_HEADER[p.protocol] if p.protocol
                   else p.l3 + (20 if p.type == IPV4 else 40))
            header = bytearray(f[:end])
            at = p.l3 + (2 if p.type == IPV4 else 4)
            header[at:at + 2] = bytes(2)
            result.add(f"IP: {header.hex(' ')}")
    for stream in streams.values():
        for header, right, trailer in stream.headers:
            header = bytes.fromhex(header)
            result.add(f"TCP: {any_port(header, len(header) - 4)}, "
                       f"checksum {'right' if right else 'wrong'}, "
                       f"trailer \"{trailer}\"")
        data, problem = stream.assemble()
        if not problem and {"SYN", "FIN"} <= stream.flags:
            result.add(f"TCP: data {any_data(data)}")
    return result


def compare_kinds(what, runs, packets):
    sets = [kinds(some) for some in packets]
    for a, b in ((0, 1), (1, 0)):
        for kind in sorted(sets[a] - sets[b]):
            raise Difference(f"{what}: only in {runs[a]}:\n    {kind}")


def numbers(line, names):
    return {name: int(value)
            for name, value in re.findall(r"\b(\w+)=(\d+)", line)
            if name in names}


def read_ports(name):
    """Returns the counters of ports, by "PORT rx" and "PORT tx"."""
    counters, port = {}, None
    with open(name, encoding="utf-8") as f:
        for line in f:
            match = re.match(r'\s*(?:port\s+"?([^":]+)"?:)?\s*([rt]x) (.*)',
                             line)
            if match:
                port = match.group(1) or port
                key = f"{port} {match.group(2)}"
                counters[key] = numbers(match.group(3), PORT_COUNTERS)
    return counters


def read_flows(name):
    """Returns the counters of flows, by what the flow is.  Flows of several
    bridges that are the same are counted as one."""
    counters = collections.defaultdict(collections.Counter)
    with open(name, encoding="utf-8") as f:
        for line in f:
            if "n_packets=" in line and not CONTROL_FLOW.search(line):
                key = re.sub(r"\b(cookie|duration|n_packets|n_bytes|idle_age"
                             r"|hard_age)=[^, ]*, ?", "", line)
                counters[key.strip()].update(numbers(line, FLOW_COUNTERS))
    return counters


def other_status(match):
    flags = set(match.group(1).split("|")) - {"0", "OFFLOAD", "HW_OFFLOAD"}
    return ",status=" + "|".join(sorted(flags)) if flags else ""


def connection_port(match):
    return (match.group(0) if int(match.group(2)) < ANY_PORT
            else f"{match.group(1)}=*")


def read_connections(name, mode):
    """Returns what is the same in two runs.  In other modes than "exact", a
    connection that is closing may be in any state of that: hardware may have
    forwarded the last ACK before it was told."""
    with open(name, encoding="utf-8") as f:
        lines = f.read().splitlines()
    if mode != "exact":
        lines = [re.sub(r"=(CLOSING|FIN_WAIT_2|TIME_WAIT)\b", "=closing", line)
                 for line in lines]
    lines = [re.sub(r",status=([^,]*)", other_status,
                    re.sub(r",(id|timeout)=\d+", "", line))
             for line in lines]
    if mode == "programs":
        lines = {re.sub(r"\b([sd]?port)=(\d+)", connection_port, line)
                 for line in lines}
    return sorted(lines)


def subtract(counters, before):
    return {name: n - before.get(name, 0) for name, n in counters.items()}


class Run:
    """What one run has left behind."""

    def __init__(self, folder, mode):
        self.folder = folder
        self.mode = mode
        self.packets, self.control = {}, {}
        began = read_began(folder)
        for name in sorted(glob.glob(os.path.join(folder, "*.pcap"))):
            what = os.path.basename(name)[:-len(".pcap")]
            packets = [Packet(frame) for frame in read_pcap(name, began)]
            self.packets[what] = [p for p in packets if not p.is_control()]
            self.control[what] = [p for p in packets if p.is_control()]

    def path(self, name):
        return os.path.join(self.folder, name)

    def before(self, read, name):
        name = self.path(name + "-before")
        return (read(name) if self.mode != "programs" or os.path.exists(name)
                else {})

    def flows(self):
        before = self.before(read_flows, "flows")
        return {key: subtract(counters, before.get(key, {}))
                for key, counters in
                read_flows(self.path("flows")).items()}

    def ports(self):
        """Returns what ports have counted, without control messages.  Checks
        that it is what was captured, or less than was sent if TCP can send
        again what queues have no room for."""
        exact = self.mode == "exact"
        before = self.before(read_ports, "ports")
        ports = read_ports(self.path("ports"))
        result = {}
        for what, packets in self.packets.items():
            port, direction = what.rsplit("-", 1)
            name = f"ovs-{port}" if f"ovs-{port} rx" in ports else port
            key = f"{name} {'tx' if direction == 'in' else 'rx'}"
            if key not in ports:
                if self.mode == "programs":
                    continue
                raise Difference(f"{self.folder}: ports: no {key}")
            counters = subtract(ports[key], before.get(key, {}))
            if not counters:
                continue    # The port does not know.
            n = counters["pkts"]
            control = len(self.control[what])
            captured = len(packets) + control
            lost = n - captured if direction == "in" else captured - n
            if self.mode == "programs" and -EARLY <= lost < 0:
                lost = 0
            if lost < 0 or lost and exact:
                raise Difference(
                    f"{self.folder}: ports: {key}: {n} packets, but "
                    f"{captured} were captured")
            result[key] = (dict(counters, pkts=n - control) if exact
                           else {"pkts": n - control})
        return result


def compare_counters(what, runs, counters, used_only=False):
    for key in sorted(set(counters[0]) | set(counters[1])):
        for run, other in ((0, 1), (1, 0)):
            if key not in counters[run]:
                raise Difference(f"{what}: \"{key}\" is in {runs[other]}, "
                                 f"not in {runs[run]}")
        a, b = (run[key] for run in counters)
        for name in sorted(set(a) & set(b)):
            x, y = a[name], b[name]
            if (bool(x) != bool(y)) if used_only else x != y:
                raise Difference(f"{what}: \"{key}\": {name} is {x} in "
                                 f"{runs[0]}, {y} in {runs[1]}")


def compare(folders, mode):
    runs = [Run(folder, mode) for folder in folders]
    names = [set(run.packets) for run in runs]
    if names[0] != names[1] or not names[0]:
        raise Difference("these are not the same captures: "
                         f"{sorted(names[0])}, {sorted(names[1])}")
    for what in sorted(names[0]):
        if not what.endswith("-in"):
            continue
        packets = [run.packets[what] for run in runs]
        if mode == "programs":
            compare_kinds(what, folders, packets)
            continue
        if mode == "streams":
            compare_streams(what, folders, [
                [p for p in some if p.protocol == TCP] for some in packets])
            packets = [[p for p in some if p.protocol != TCP]
                       for some in packets]
        compare_packets(what, folders, [
            [bytes(p.frame) for p in some] for some in packets])
    compare_counters("ports", folders, [run.ports() for run in runs],
                     used_only=mode != "exact")
    compare_counters("flows", folders, [run.flows() for run in runs],
                     used_only=mode != "exact")
    a, b = (read_connections(run.path("conntrack"), mode) for run in runs)
    for x, y, other in ((a, b, 1), (b, a, 0)):
        missing = collections.Counter(x) - collections.Counter(y)
        if missing:
            raise Difference(f"conntrack: not in {folders[other]}:\n    "
                             f"{sorted(missing)[0]}")


def main():
    args = sys.argv[1:]
    modes = [arg[2:] for arg in args if arg in ("--streams", "--programs")]
    folders = [arg for arg in args if arg[2:] not in modes]
    if len(folders) != 2 or len(modes) > 1:
        sys.exit(__doc__)
    try:
        compare(folders, modes[0] if modes else "exact")
    except Difference as difference:
        print(difference)
        sys.exit(1)


if __name__ == "__main__":
    main()
