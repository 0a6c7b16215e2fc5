# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""'tidemark serve', for tests."""
from harness import *


class Serve:
    """'tidemark serve' in the foreground, in a runtime directory of its own, with its --json answer in .answer."""

    def __init__(self, tmp, *args):
        self.env = runtime(tmp)
        self.process = subprocess.Popen([TIDEMARK, "serve", "--json", *args], stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, text=True, cwd=tmp,
                                        env=dict(os.environ, **self.env))
        text = ""
        while not text.endswith("}\n") or text.count("{") != text.count("}"):
            line = self.process.stdout.readline()
            if not line:
                fail("serve ended: %s" % self.process.communicate()[1])
            text += line
        self.answer = json.loads(text)
        self.disks = {disk["name"]: disk for disk in self.answer["disks"]}

    def daemon(self):
        """The PID of its daemon."""
        with open("/proc/%d/task/%d/children" % (self.process.pid, self.process.pid)) as f:
            return int(f.read())

    def uri(self, name):
        return self.disks[name]["uri"]

    def tidemark(self, *args, **kwargs):
        return tidemark(*args, env=self.env, **kwargs)

    def end(self, signum=signal.SIGINT, status=0):
        if signum:
            self.process.send_signal(signum)
        out, err = self.process.communicate(timeout=PATIENCE)
        equal(self.process.returncode, status, err)
        return err

    def __enter__(self):
        return self

    def __exit__(self, kind, value, tb):
        if self.process.poll() is None:
            self.end() if kind is None else self.process.terminate()


def runtime(tmp):
    os.makedirs(os.path.join(tmp, "run"), mode=0o700, exist_ok=True)
    return {"XDG_RUNTIME_DIR": os.path.join(tmp, "run"), "XDG_STATE_HOME": os.path.join(tmp, "state"),
            "TIDEMARK_SOCKET": ""}


def gone(pid):
    """Whether the process has ended (it may not be reaped where nobody does that)."""
    try:
        with open("/proc/%d/stat" % pid) as f:
            return f.read().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
