# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""An NBD server that stops to answer, for tests of who waits for it."""
from harness import *

REQUEST = b"\x25\x60\x95\x13\0\0\0"
WRITE, BLOCK_STATUS = REQUEST + b"\1", REQUEST + b"\7"


class Deaf:
    """Passes connections on to the server at target, until the client sends swallow: that and what follows is not
    answered. The first connections, as many as after says, are passed on whole."""

    def __init__(self, path, target, swallow, after=0):
        if os.path.exists(path):
            os.unlink(path)
        self.path, self.target, self.swallow, self.after = path, target, swallow, after
        self.asked, self.listener = threading.Event(), socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen(8)
        threading.Thread(target=self.serve, daemon=True).start()

    def uri(self, export="disk0"):
        return "nbd+unix:///%s?socket=%s" % (export, self.path)

    def serve(self):
        for number in range(100):
            client, _ = self.listener.accept()
            swallow = self.swallow if number >= self.after else None
            if swallow == b"":
                self.asked.set()
                self.keep = client
                continue
            server = socket.socket(socket.AF_UNIX)
            server.connect(self.target)
            for source, sink, what in (client, server, swallow), (server, client, None):
                threading.Thread(target=self.pump, args=(source, sink, what), daemon=True).start()

    def pump(self, source, sink, swallow):
        try:
            while data := source.recv(1 << 16):
                if swallow and swallow in data:
                    self.asked.set()
                if not (swallow and self.asked.is_set()):
                    sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:  # the other end has gone
            pass

    def end(self, process, signum, pattern):
        """Sends the process a signal once the server is deaf: that ends it, and it says what the state is in one line."""
        equal(self.asked.wait(PATIENCE), True)
        process.send_signal(signum)
        err = process.communicate(timeout=PATIENCE)[1]
        matches(err, pattern)
        equal((process.returncode, err.count("\n")), (128 + signum, 1), err)
