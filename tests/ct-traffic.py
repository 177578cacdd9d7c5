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
"""Traffic for tests of connection tracking.

Run it as one of:

    serve PROTO ADDR PORT               Send back whatever comes, and what
                                        others ask for.
    once PROTO ADDR PORT SPORT          Send a message from port SPORT, get it
                                        back, and end.
    send PROTO ADDR PORT SPORT          Send a message only.
    large udp ADDR PORT SPORT           The same as "once" with a message that
                                        is fragmented.
    grow udp ADDR PORT SPORT            The same as "once", but get a message
                                        back that is fragmented.
    who udp ADDR PORT SPORT             The same as "once", three times, but
                                        get the port of who answers.
    attempt tcp ADDR PORT SPORT         The same as "once", but give up soon if
                                        nobody answers.
    reset tcp ADDR PORT SPORT           The same as "once", but end the
                                        connection by a reset.
    vanish tcp ADDR PORT SPORT          The same as "once", a few times, but
                                        then both sides forget the connection
                                        without a word.
    hold PROTO ADDR PORT SPORT          The same as "once", three times, but do
                                        not end.  Do it again for each SIGUSR1,
                                        and send a segment that is far out of
                                        the window for each SIGUSR2.
    get ADDR PORT SPORT MEGABYTES [RATE]
                                        Download as much over TCP, at RATE
                                        megabytes per second, and compare
                                        checksums.
    many PROTO ADDR PORT SPORT N        N connections from ports SPORT on, all
                                        at the same time, with three messages
                                        each.  End with SIGTERM.
    flood PROTO DEV SRC DST DMAC N      Send N packets that each begin a
                                        connection over the device DEV.
    packet PROTO DEV VLAN DMAC SRC DST SPORT DPORT [FLAGS SEQ ACK]
                                        Send a packet over the device DEV, with
                                        a tag unless VLAN is 0.  FLAGS are some
                                        of the letters FSRPA.
    dialogue NETNS DEV NETNS DEV VLAN SRC DST SPORT DPORT N [MAC]
                                        A connection of TCP, packet by packet,
                                        with N segments of data each way,
                                        between devices in two network
                                        namespaces.  Each packet is sent when
                                        the one before has arrived, and where
                                        that came from.  The first one is sent
                                        to MAC, by default the other device.
    repeat SECONDS ROLE ...             Do one of the above again and again.
    tunnel KIND DEV VNI LOCAL REMOTE [OPTION]
                                        Be the end of a tunnel of KIND, "vxlan"
                                        or "geneve", between two addresses, as
                                        the tap device DEV.  What is sent has
                                        the Geneve OPTION, in hexadecimal
                                        digits.  Says which UDP port packets of
                                        each connection have come from.

PROTO is "tcp" or "udp".
"""

import ctypes
import errno
import fcntl
import hashlib
import os
import select
import signal
import socket
import struct
import sys
import threading
import time

MEGABYTE = 1 << 20
CHUNK = 1 << 16
TIMEOUT = 10
SHORT_TIMEOUT = 0.5

# From linux/tcp.h.
TCP_REPAIR = 19
TCP_REPAIR_QUEUE = 20
TCP_QUEUE_SEQ = 21
TCP_REPAIR_ON = 1
TCP_REPAIR_OFF_NO_WP = -1
TCP_RECV_QUEUE = 1
TCP_SEND_QUEUE = 2


# From linux/if_tun.h.
TUNSETIFF = 0x400454ca
IFF_TAP = 0x0002
IFF_NO_PI = 0x1000

# From RFC 7348 and RFC 8926.
TUNNEL_PORTS = {"vxlan": 4789, "geneve": 6081}
VXLAN_HAS_VNI = 1 << 27
TUNNEL_HEADER = struct.Struct("!II")
ETH_TYPE_TEB = 0x6558

# From linux/udp.h: packets over IPv6 need no checksum.
UDP_NO_CHECK6_RX = 102


def new_socket(proto, addr):
    sock = socket.socket(
        socket.AF_INET6 if ":" in addr else socket.AF_INET,
        socket.SOCK_STREAM if proto == "tcp" else socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return sock


# The server.

def send_file(conn, size):
    """Sends 'size' bytes, and their checksum."""
    digest = hashlib.sha256()
    # The same each time, for tests that compare.
    block = hashlib.shake_128(b"file").digest(CHUNK)
    for i in range(size // CHUNK):
        data = i.to_bytes(8, "big") + block[8:]
        digest.update(data)
        conn.sendall(data)
    conn.sendall(digest.digest())


def vanish_socket(sock):
    """Closes a socket of TCP without sending anything."""
    sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, TCP_REPAIR_ON)
    sock.close()


def serve_conn(conn):
    try:
        while True:
            data = conn.recv(CHUNK)
            if not data:
                break
            if data.startswith(b"get "):
                send_file(conn, int(data.split()[1]) * MEGABYTE)
            else:
                conn.sendall(data)
            if data == b"vanish":
                # What is on its way arrives before.
                time.sleep(0.5)
                vanish_socket(conn)
                return
    except OSError:
        pass
    conn.close()


def serve(proto, addr, port):
    sock = new_socket(proto, addr)
    sock.bind((addr, int(port)))
    if proto == "tcp":
        sock.listen(4096)
    print("listening", flush=True)
    while True:
        if proto == "tcp":
            conn, _ = sock.accept()
            threading.Thread(target=serve_conn, args=(conn,),
                             daemon=True).start()
        else:
            data, peer = sock.recvfrom(CHUNK)
            if data == b"grow":
                data *= 1000
            elif data == b"who":
                data = b"%d" % sock.getsockname()[1]
            sock.sendto(data, peer)


# Clients.

# Enough for a connection to be established and offloaded.
N_MESSAGES = 3


def connect(proto, addr, port, sport, timeout=TIMEOUT):
    sock = new_socket(proto, addr)
    sock.settimeout(timeout)
    sock.bind(("", int(sport)))
    sock.connect((addr, int(port)))
    return sock


def exchange(sock, message=b"hello"):
    sock.send(message)
    answer = sock.recv(CHUNK)
    print(message[:5].decode() if answer == message else "wrong answer",
          flush=True)


def once(proto, addr, port, sport):
    with connect(proto, addr, port, sport) as sock:
        exchange(sock)


def send(proto, addr, port, sport):
    with connect(proto, addr, port, sport) as sock:
        sock.send(b"hello")


def large(proto, addr, port, sport):
    with connect(proto, addr, port, sport) as sock:
        exchange(sock, b"large" * 600)


def grow(proto, addr, port, sport):
    with connect(proto, addr, port, sport) as sock:
        sock.send(b"grow")
        print("grow" if sock.recv(CHUNK) == b"grow" * 1000 else "wrong answer")


def who(proto, addr, port, sport):
    with connect(proto, addr, port, sport) as sock:
        for _ in range(N_MESSAGES):
            sock.send(b"who")
            answer = sock.recv(CHUNK).decode()
        print(answer)


def attempt(proto, addr, port, sport):
    try:
        sock = connect(proto, addr, port, sport, SHORT_TIMEOUT)
    except socket.timeout:
        print("no answer")
        return
    with sock:
        exchange(sock)


def reset(proto, addr, port, sport):
    with connect(proto, addr, port, sport) as sock:
        exchange(sock)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                        struct.pack("ii", 1, 0))


def vanish(proto, addr, port, sport):
    sock = connect(proto, addr, port, sport)
    for message in [b"hello"] * N_MESSAGES + [b"vanish"]:
        sock.send(message)
        answer = sock.recv(CHUNK)
    print(answer.decode(), flush=True)
    time.sleep(1)
    vanish_socket(sock)


def hold(proto, addr, port, sport):
    signals = {signal.SIGUSR1, signal.SIGUSR2}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    sock = connect(proto, addr, port, sport)
    for _ in range(N_MESSAGES):
        exchange(sock)
    while True:
        if signal.sigwait(signals) == signal.SIGUSR1:
            exchange(sock)
        else:
            send_far_segment(sock)


def get(addr, port, sport, megabytes, rate="0"):
    sock = connect("tcp", addr, port, sport)
    exchange(sock)
    size = int(megabytes) * MEGABYTE
    sock.send(b"get %d\n" % int(megabytes))
    digest = hashlib.sha256()
    received = 0
    begin = time.monotonic()
    while received < size:
        data = sock.recv(min(CHUNK, size - received))
        if not data:
            sys.exit(f"the connection ended after {received} bytes")
        digest.update(data)
        received += len(data)
        if float(rate):
            ahead = (received / MEGABYTE / float(rate)
                     - (time.monotonic() - begin))
            time.sleep(max(0, ahead))
    checksum = sock.recv(32, socket.MSG_WAITALL)
    if checksum != digest.digest():
        sys.exit("the data is damaged")
    # Wait until the server has closed its side, too.
    sock.shutdown(socket.SHUT_WR)
    if sock.recv(1):
        sys.exit("there is data after the end")
    print(f"{megabytes} MB, intact")


def many(proto, addr, port, sport, n):
    socks = [connect(proto, addr, port, int(sport) + i) for i in range(int(n))]
    for sock in socks * N_MESSAGES:
        sock.send(b"hello")
        if sock.recv(CHUNK) != b"hello":
            sys.exit("wrong answer")
    print("hello", flush=True)
    signal.pause()


# Packets that are made here.

def checksum(data):
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff


def address(text):
    return socket.inet_pton(
        socket.AF_INET6 if ":" in text else socket.AF_INET, text)


def ip(proto, src, dst, payload):
    if len(src) == 16:
        return (struct.pack("!IHBB", 6 << 28, len(payload), proto, 64)
                + src + dst + payload)
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 0, 0, 64,
                         proto, 0, src, dst)
    return (header[:10] + struct.pack("!H", checksum(header)) + header[12:]
            + payload)


def pseudo_header(proto, src, dst, length):
    return src + dst + struct.pack("!II", length, proto)


def tcp(src, dst, sport, dport, seq, ack, flags, data=b""):
    def segment(csum):
        return struct.pack("!HHIIBBHHH", sport, dport, seq, ack, 5 << 4, flags,
                           4096, csum, 0) + data
    pseudo = pseudo_header(socket.IPPROTO_TCP, src, dst, 20 + len(data))
    return ip(socket.IPPROTO_TCP, src, dst,
              segment(checksum(pseudo + segment(0))))


def udp(src, dst, sport, dport, data):
    def datagram(csum):
        return struct.pack("!HHHH", sport, dport, 8 + len(data), csum) + data
    pseudo = pseudo_header(socket.IPPROTO_UDP, src, dst, 8 + len(data))
    return ip(socket.IPPROTO_UDP, src, dst,
              datagram(checksum(pseudo + datagram(0)) or 0xffff))


def ethernet(sock, mac, src, vlan=0):
    tag = struct.pack("!HH", 0x8100, vlan) if vlan else b""
    return (bytes.fromhex(mac.replace(":", "")) + sock.getsockname()[4] + tag
            + struct.pack("!H", 0x86dd if len(src) == 16 else 0x800))


def packet(proto, device, vlan, mac, saddr, daddr, sport, dport, flags="",
           seq="0", ack="0"):
    src, dst = address(saddr), address(daddr)
    if proto == "tcp":
        bits = sum(1 << "FSRPA".index(flag) for flag in flags)
        data = tcp(src, dst, int(sport), int(dport), int(seq), int(ack), bits)
    else:
        data = udp(src, dst, int(sport), int(dport), b"hello")
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        sock.bind((device, 0))
        sock.send(ethernet(sock, mac, src, int(vlan)) + data)


ETH_P_ALL = 3
CLONE_NEWNET = 0x40000000


def device_socket(netns, device):
    """Returns a packet socket for a device in another network namespace."""
    with open(f"/run/netns/{netns}", "rb") as f:
        if ctypes.CDLL(None).setns(f.fileno(), CLONE_NEWNET):
            sys.exit(f"setns to {netns} failed")
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW,
                         socket.htons(ETH_P_ALL))
    sock.bind((device, ETH_P_ALL))
    sock.settimeout(TIMEOUT)
    return sock


def await_tcp(sock):
    """Waits until TCP over IPv4 or IPv6 is received.  (There is no tag in
    what packet sockets have.)  Returns where an answer goes: addresses of
    Ethernet and IP and ports, of here and of there."""
    while True:
        frame, addr = sock.recvfrom(CHUNK)
        is_ipv4 = frame[12:14] == b"\x08\x00"
        proto = frame[23] if is_ipv4 else frame[20]
        if addr[2] == socket.PACKET_OUTGOING or proto != socket.IPPROTO_TCP:
            continue
        src, dst, l4 = (26, 30, 34) if is_ipv4 else (22, 38, 54)
        sport, dport = struct.unpack_from("!HH", frame, l4)
        return (frame[6:12].hex(":"), (frame[dst:l4], frame[src:dst]),
                (dport, sport))


def dialogue(netns0, dev0, netns1, dev1, vlan, saddr, daddr, sport, dport, n,
             mac=None):
    socks = [device_socket(netns0, dev0), device_socket(netns1, dev1)]
    peers = [(mac or socks[1].getsockname()[4].hex(":"),
              (address(saddr), address(daddr)), (int(sport), int(dport))),
             None]
    seqs = [100, 500]
    steps = ([(0, "S", b""), (1, "SA", b""), (0, "A", b"")]
             + [(0, "PA", b"hello"), (1, "PA", b"hello")] * int(n)
             + [(0, "FA", b""), (1, "FA", b""), (0, "A", b"")])
    for side, flags, data in steps:
        bits = sum(1 << "FSRPA".index(flag) for flag in flags)
        peer_mac, addrs, ports = peers[side]
        segment = tcp(*addrs, *ports, seqs[side],
                      seqs[1 - side] if "A" in flags else 0, bits, data)
        socks[side].send(ethernet(socks[side], peer_mac, addrs[0], int(vlan))
                         + segment)
        peers[1 - side] = await_tcp(socks[1 - side])
        seqs[side] += len(data) + ("S" in flags or "F" in flags)
        # Time for hardware to get its rules.
        time.sleep(0.01)


def queue_seq(sock, queue):
    sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR_QUEUE, queue)
    return sock.getsockopt(socket.IPPROTO_TCP, TCP_QUEUE_SEQ) & 0xffffffff


def send_far_segment(sock):
    """Sends a segment of 'sock', which is IPv4, that its peer cannot take."""
    sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, TCP_REPAIR_ON)
    seq = queue_seq(sock, TCP_SEND_QUEUE)
    ack = queue_seq(sock, TCP_RECV_QUEUE)
    sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, TCP_REPAIR_OFF_NO_WP)

    (saddr, sport), (daddr, dport) = sock.getsockname(), sock.getpeername()
    src, dst = socket.inet_aton(saddr), socket.inet_aton(daddr)
    data = tcp(src, dst, sport, dport, (seq + (1 << 30)) & 0xffffffff, ack,
               0x18, b"far")
    with socket.socket(socket.AF_INET, socket.SOCK_RAW,
                       socket.IPPROTO_RAW) as raw:
        raw.sendto(data, (daddr, 0))
    print("far", flush=True)


def send_waiting(sock, frame):
    """Sends 'frame' as soon as there is room for it."""
    while True:
        try:
            sock.send(frame)
            return
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
        select.select([], [sock], [], 0.01)


def flood(proto, device, saddr, daddr, mac, n):
    src, dst = address(saddr), address(daddr)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        sock.bind((device, 0))
        header = ethernet(sock, mac, src)
        for i in range(int(n)):
            # More would not fit into the queues on the way.
            if i % 500 == 499:
                time.sleep(0.002)
            sport, dport = 1024 + i % 50000, 80 + i // 50000
            if proto == "tcp":
                data = tcp(src, dst, sport, dport, i, 0, 2)
            else:
                data = udp(src, dst, sport, dport, b"flood")
            send_waiting(sock, header + data)


# Tunnels.

def inner_ports(frame):
    """Returns the ports of TCP or UDP over IPv4 in 'frame', or None."""
    if frame[12:14] != b"\x08\x00" or frame[23] not in (6, 17):
        return None
    return struct.unpack_from("!HH", frame, 14 + (frame[14] & 0xf) * 4)


def tunnel(kind, device, vni, local, remote, option=""):
    option = bytes.fromhex(option)
    first = (VXLAN_HAS_VNI if kind == "vxlan"
             else len(option) // 4 << 24 | ETH_TYPE_TEB)
    header = TUNNEL_HEADER.pack(first, int(vni) << 8) + option
    tap = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH", device.encode(),
                                            IFF_TAP | IFF_NO_PI))
    sock = new_socket("udp", local)
    if ":" in local:
        sock.setsockopt(socket.IPPROTO_UDP, UDP_NO_CHECK6_RX, 1)
    sock.bind((local, TUNNEL_PORTS[kind]))
    print("ready", flush=True)
    seen = set()
    while True:
        ready, _, _ = select.select([tap, sock], [], [])
        if tap in ready:
            sock.sendto(header + os.read(tap, CHUNK),
                        (remote, TUNNEL_PORTS[kind]))
        if sock in ready:
            packet, peer = sock.recvfrom(CHUNK)
            n_options = packet[0] & 0x3f if kind == "geneve" else 0
            frame = packet[TUNNEL_HEADER.size + n_options * 4:]
            os.write(tap, frame)
            ports = inner_ports(frame)
            if ports and (ports, peer[1]) not in seen:
                seen.add((ports, peer[1]))
                print(f"{ports[0]} to {ports[1]} in {peer[1]}", flush=True)


def repeat(seconds, role, *arguments):
    while True:
        ROLES[role](*arguments)
        time.sleep(float(seconds))


ROLES = {f.__name__: f for f in (serve, once, send, large, grow, who,
                                 attempt, reset, vanish, hold, get, many,
                                 flood, packet, dialogue, repeat, tunnel)}

if __name__ == "__main__":
    ROLES[sys.argv[1]](*sys.argv[2:])
