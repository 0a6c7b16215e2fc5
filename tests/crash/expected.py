# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""What a bitmap must and may say while requests are in flight and nobody knows whether an operation has
happened: two bits a granule, in a byte each."""
import copy

NOT_YET = float("inf")


class Bits:
    """What a bitmap must and may say: a byte a granule."""

    def __init__(self, size, granularity, enabled, persistent):
        self.size, self.granularity = size, granularity
        self.enabled, self.persistent = enabled, persistent
        self.open = enabled  # requests issued now may get in,
        self.grain = granularity  # as granules of this size
        self.since = NOT_YET if enabled else 0  # requests issued later have to
        granules = -(-size // granularity)
        self.must, self.may = bytearray(granules), bytearray(granules)

    def mark(self, bits, offset, length):
        first, last = offset // self.granularity, (offset + length - 1) // self.granularity
        bits[first:last + 1] = b"\1" * (last + 1 - first)

    def empty(self):
        self.must, self.may = bytearray(len(self.must)), bytearray(len(self.may))

    def absorb(self, other):
        for mine, its in ((self.must, other.must), (self.may, other.may)):
            for offset, length in runs(its, other.granularity, self.size):
                self.mark(mine, offset, length)
        if other.open:
            self.open, self.grain = True, max(self.grain, other.grain)

    def may_be(self, offset, length):
        first, last = offset // self.grain, (offset + length - 1) // self.grain
        offset = first * self.grain
        self.mark(self.may, offset, min((last + 1) * self.grain, self.size) - offset)

    def resized(self, size):
        """Another disk size; what has grown is dirty."""
        granules, old, self.size = -(-size // self.granularity), self.size, size
        self.must, self.may = [bits[:granules] + bytes(max(0, granules - len(bits)))
                               for bits in (self.must, self.may)]
        if size > old:
            self.mark(self.must, old, size - old)
            self.mark(self.may, old, size - old)
        return self

    def settle(self, extents):
        """From now on it is known exactly."""
        self.empty()
        for offset, length in extents:
            self.mark(self.must, offset, length)
            self.mark(self.may, offset, length)


def runs(bits, granularity, size):
    found, at = [], 0
    while (first := bits.find(1, at)) >= 0:
        at = bits.find(0, first)
        at = len(bits) if at < 0 else at
        found.append((first * granularity, min(at * granularity, size) - first * granularity))
    return found


def simulate(bitmaps, actions, size, in_flight):
    """The bitmaps as these actions leave them, while requests are in flight and more are issued."""
    bitmaps = copy.deepcopy(bitmaps)
    for action in actions:
        kind, data = action["type"].rpartition("-")[2], action["data"]
        bitmap = bitmaps.get(data.get("name") or data.get("target"))
        if kind == "add":
            bitmap = bitmaps[data["name"]] = Bits(size, data["granularity"], not data.get("disabled"),
                                                  data.get("persistent", False))
        elif kind == "remove":
            del bitmaps[data["name"]]
        elif kind == "disable":
            bitmap.enabled = False  # and open until the reply: who knows when it happens
        elif kind == "enable" and not bitmap.enabled:
            bitmap.enabled, bitmap.open, bitmap.since = True, True, NOT_YET
        elif kind == "clear":
            bitmap.empty()
            bitmap.since = NOT_YET
        elif kind == "merge":
            for source in data["bitmaps"]:
                bitmap.absorb(bitmaps[source])
        # What was in flight when a bitmap was disabled gets in when it is done, also after a clear.
        if bitmap.open or kind == "clear":
            for offset, length in in_flight:
                bitmap.may_be(offset, length)
    return bitmaps


def settled(bitmaps, now):
    """The reply has come."""
    for bitmap in bitmaps.values():
        bitmap.open, bitmap.grain = bitmap.enabled, bitmap.granularity
        if bitmap.since == NOT_YET:
            bitmap.since = now
    return bitmaps
