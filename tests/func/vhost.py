# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""A small vhost-user front-end with a driver of the virtio block device, one request at a time or several."""
import array
import mmap
import os
import select
import socket
import struct

F_RO, F_FLUSH, F_INDIRECT, F_EVENT_IDX, F_PROTOCOL, F_VERSION_1 = 5, 9, 28, 29, 30, 32
P_MQ, P_REPLY_ACK, P_BACKEND_REQ, P_CONFIG, P_INFLIGHT = 0, 3, 5, 9, 12
IN, OUT, FLUSH, GET_ID, DISCARD, WRITE_ZEROES = 0, 1, 4, 8, 11, 13
OK, IOERR, UNSUPP = 0, 1, 2
NEXT, WRITE, INDIRECT = 1, 2, 4
GUEST = 1 << 30  # the address of the memory for the guest
USER = 1 << 40  # and for the client
RINGS = 0x10000  # bytes of a queue


class Guest:
    """Memory that stays, whatever becomes of the daemon."""

    def __init__(self, size=8 << 20, queues=1, queue_size=64):
        self.size, self.queues, self.queue_size = size, queues, queue_size
        self.fd = os.memfd_create("guest")
        os.ftruncate(self.fd, size)
        self.memory = mmap.mmap(self.fd, size)
        self.inflight = None
        self.kicks = [os.eventfd(0) for _ in range(queues)]
        self.calls = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(queues)]
        self.used = [0] * queues
        self.free = [list(range(queue_size)) for _ in range(queues)]
        self.waiting = [{} for _ in range(queues)]
        self.results = {}
        self.next = queues * RINGS
        self.sequence = 0

    def close(self):
        for fd in self.kicks + self.calls + [self.fd] + ([self.inflight[0]] if self.inflight else []):
            os.close(fd)
        self.memory.close()

    def get(self, form, at):
        return struct.unpack_from("<" + form, self.memory, at)[0]

    def put(self, form, at, *values):
        struct.pack_into("<" + form, self.memory, at, *values)

    def room(self, length):
        """Where there is room for so many bytes; memory is not used again."""
        at = self.next
        self.next += (length + 511) // 512 * 512
        assert self.next <= self.size
        return at

    def has_room(self, length):
        return self.next + length <= self.size

    def reuse(self):
        """Memory is used again; no request may be in flight."""
        self.next = self.queues * RINGS

    def desc(self, queue, i):
        return queue * RINGS + 16 * i

    def avail(self, queue):
        return queue * RINGS + 0x8000

    def used_ring(self, queue):
        return queue * RINGS + 0xa000

    def submit(self, descriptors, queue=0, indirect=False, head=None):
        """Adds a chain of (address, length, flags); what identifies it."""
        n = 1 if indirect else len(descriptors)
        slots = [self.free[queue].pop(0) for _ in range(n)]
        if indirect:
            table = self.room(16 * len(descriptors))
            for i, (at, length, flags) in enumerate(descriptors):
                last = i == len(descriptors) - 1
                self.put("QIHH", table + 16 * i, at, length, flags | (0 if last else NEXT), i + 1)
            descriptors = [(GUEST + table, 16 * len(descriptors), INDIRECT)]
        for i, (at, length, flags) in enumerate(descriptors):
            last = i == n - 1
            self.put("QIHH", self.desc(queue, slots[i]), at, length, flags | (0 if last else NEXT),
                     0 if last else slots[i + 1])
        return self.make_available(queue, slots if head is None else [head])

    def make_available(self, queue, slots):
        at = self.avail(queue)
        idx = self.get("H", at + 2)
        self.put("H", at + 4 + 2 * (idx % self.queue_size), slots[0])
        self.put("H", at + 2, (idx + 1) & 0xffff)
        self.sequence += 1
        self.waiting[queue][slots[0]] = (self.sequence, slots)
        return self.sequence

    def request(self, kind, sector=0, data=b"", length=0, queue=0, indirect=False, parts=1):
        """Adds a request; (what identifies it, where its data are, where its status is)."""
        at = self.room(16 + 512 + max(len(data), length))
        self.put("IIQ", at, kind, 0, sector)
        status, begin = at + 16, at + 512
        self.memory[status] = 0xff
        chain = [(GUEST + at, 16, 0)]
        n = max(len(data), length)
        if data:
            self.memory[begin:begin + n] = data
        for i in range(parts if n else 0):
            step = n // parts
            chain.append((GUEST + begin + i * step, step, 0 if data else WRITE))
        chain.append((GUEST + status, 1, WRITE))
        return self.submit(chain, queue, indirect), begin, status

    def kick(self, queue=0):
        os.eventfd_write(self.kicks[queue], 1)

    def reap(self, queue=0):
        at = self.used_ring(queue)
        while self.used[queue] != self.get("H", at + 2):
            place = at + 4 + 8 * (self.used[queue] % self.queue_size)
            sequence, slots = self.waiting[queue].pop(self.get("I", place))
            self.results[sequence] = self.get("I", place + 4)
            self.free[queue] += slots
            self.used[queue] = (self.used[queue] + 1) & 0xffff
        self.put("H", self.avail(queue) + 4 + 2 * self.queue_size, self.used[queue])  # used_event

    def wait(self, sequence, queue=0, seconds=60):
        """Until it is used: the bytes that the device has written."""
        for _ in range(seconds * 10):
            self.reap(queue)
            self.reap(queue)  # what was used before the event was asked for
            if sequence in self.results:
                return self.results.pop(sequence)
            if select.select([self.calls[queue]], [], [], 0.1)[0]:
                os.eventfd_read(self.calls[queue])
        raise AssertionError("request %d is not used" % sequence)

    def do(self, kind, sector=0, data=b"", length=0, **more):
        """One request: (status, data)."""
        sequence, begin, status = self.request(kind, sector, data, length, **more)
        self.kick(more.get("queue", 0))
        self.wait(sequence, more.get("queue", 0))
        return self.memory[status], bytes(self.memory[begin:begin + length])

    def read(self, sector, length, **more):
        status, data = self.do(IN, sector, length=length, **more)
        assert status == OK, status
        return data

    def write(self, sector, data, **more):
        status, _ = self.do(OUT, sector, data, **more)
        assert status == OK, status

    def range(self, kind, sector, sectors, flags=0):
        return self.do(kind, 0, struct.pack("<QII", sector, sectors, flags))[0]


class Client:
    """A connection for a guest."""

    def __init__(self, path, guest, features=(F_VERSION_1, F_PROTOCOL, F_FLUSH, F_INDIRECT, F_EVENT_IDX),
                 start=True):
        self.guest, self.protocol = guest, 0
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(60)
        self.socket.connect(path)
        self.offered = self.u64(1)
        self.ask(3)
        self.protocol = self.u64(15)
        self.ask(16, struct.pack("<Q", self.protocol))
        self.ask(2, struct.pack("<Q", sum(1 << f for f in features)))
        self.mine, theirs = socket.socketpair()
        self.ask(21, b"", [theirs.fileno()])
        theirs.close()
        if start:
            self.start()

    def close(self):
        self.socket.close()
        self.mine.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def send(self, request, payload=b"", fds=(), flags=1):
        extra = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.socket.sendmsg([struct.pack("<III", request, flags, len(payload)) + payload], extra)

    def receive(self):
        head, fds, _, _ = socket.recv_fds(self.socket, 12, 1)
        if not head:
            raise ConnectionError("the daemon has disconnected")
        _, _, size = struct.unpack("<III", head)
        return (self.socket.recv(size, socket.MSG_WAITALL) if size else b""), fds

    def reply(self, request, payload=b"", fds=()):
        self.send(request, payload, fds)
        return self.receive()[0]

    def u64(self, request):
        return struct.unpack("<Q", self.reply(request))[0]

    def ask(self, request, payload=b"", fds=(), ok=True):
        """With an answer that says whether it is done, once that is negotiated."""
        if not self.protocol or request == 16:
            self.send(request, payload, fds)
            return
        self.send(request, payload, fds, 9)
        result = struct.unpack("<Q", self.receive()[0])[0]
        assert (result == 0) == ok, (request, result)

    def config(self, offset=0, size=60):
        answer = self.reply(24, struct.pack("<III", offset, size, 0) + bytes(size))
        return answer[12:]

    def set_memory(self, ok=True, size=None, offset=0, twice=False):
        region = struct.pack("<QQQQ", GUEST, size or self.guest.size, USER, offset)
        n = 2 if twice else 1
        self.ask(5, struct.pack("<II", n, 0) + region * n, [self.guest.fd] * n, ok)

    def slot(self, request, offset, size, ok=True):
        """Adds (37) or removes (38) a region of the guest's memory."""
        self.ask(request, struct.pack("<QQQQQ", 0, GUEST + offset, size, USER + offset, offset), [self.guest.fd], ok)

    def area(self, queue_size):
        """Memory for requests in flight: (descriptor, what describes it)."""
        self.send(31, struct.pack("<QQHH4x", 0, 0, self.guest.queues, queue_size))
        info, fds = self.receive()
        assert len(info) == 24, info  # as QEMU expects it
        return fds[0], info

    def set_area(self):
        self.ask(32, self.guest.inflight[1], [self.guest.inflight[0]])

    def set_size(self, i=0):
        self.ask(8, struct.pack("<II", i, self.guest.queue_size))

    def set_base(self, i=0):
        self.ask(10, struct.pack("<II", i, self.guest.get("H", self.guest.used_ring(i) + 2)))

    def set_rings(self, i=0):
        g = self.guest
        self.ask(9, struct.pack("<IIQQQQ", i, 0, USER + g.desc(i, 0), USER + g.used_ring(i), USER + g.avail(i), 0))

    def set_call(self, i=0):
        self.ask(13, struct.pack("<Q", i), [self.guest.calls[i]])

    def set_kick(self, i=0):
        self.ask(12, struct.pack("<Q", i), [self.guest.kicks[i]])

    def enable(self, i=0, on=1):
        self.ask(18, struct.pack("<II", i, on))

    def start(self):
        g = self.guest
        if not g.inflight:
            g.inflight = self.area(g.queue_size)
        self.set_area()
        self.set_memory()
        for i in range(g.queues):
            for step in (self.set_size, self.set_base, self.set_rings, self.set_call, self.set_kick, self.enable):
                step(i)

    def stop(self, queue=0):
        return struct.unpack("<II", self.reply(11, struct.pack("<II", queue, 0)))[1]
