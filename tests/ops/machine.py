# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""A Debian that systemd boots in a container, with what `make install` installs; what it writes is lost when it ends."""
import atexit

from harness import *

ROOT = os.path.join(SRCDIR, "build-ops", "root")  # scripts/ops-root
PREFIX = "/usr/local"  # systemd finds units, users and directories below it
NSPAWN = "systemd-nspawn"


def needs_container():
    """Skips the case where no container can be booted."""
    if os.geteuid() != 0:
        skip("only root can boot a container")
    for command in (NSPAWN, "nsenter"):
        if not have(command):
            skip("%s is not installed" % command)
    if not os.path.exists(os.path.join(ROOT, "etc", "debian_version")):
        skip("build-ops/root is missing: scripts/ops-root makes it")


def needs_install():
    """Skips the case where the build can't be installed into a container."""
    if not have("meson"):
        skip("meson is not installed")
    options = json.loads(run("meson", "introspect", "--buildoptions", BUILDDIR).stdout)
    prefix = [o["value"] for o in options if o["name"] == "prefix"][0]
    if prefix != PREFIX:
        skip("the build's prefix is %s, not %s" % (prefix, PREFIX))


def installed(tmp):
    """What is installed below the prefix, in a directory of its own."""
    run("meson", "install", "-C", BUILDDIR, "--no-rebuild", "--destdir", tmp)
    return tmp + PREFIX


class Machine:
    """A container that has booted. Its processes are seen from here; its files are below .top."""

    def __init__(self, tmp, *options):
        self.log = os.path.join(tmp, "console")
        with open(self.log, "wb") as out:
            # Without nspawn's filter of system calls, so that the unit's own is the one in force.
            self.process = subprocess.Popen(
                [NSPAWN, "--quiet", "--register=no", "--keep-unit", "--private-network", "--volatile=overlay", "--boot",
                 "--directory=" + ROOT, *options], stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                env=dict(os.environ, SYSTEMD_SECCOMP="0"))
        try:
            self.leader = wait_until(self._leader, "the container's first process")
            self.top = "/proc/%d/root" % self.leader
            wait_until(self._booted, "the container to boot", timeout=3 * PATIENCE)
        except BaseException:
            self.stop()
            raise

    def _leader(self):
        if self.process.poll() is not None:
            with open(self.log, errors="replace") as f:
                skip("no container: " + (f.read().strip().splitlines() or ["it ended"])[-1])
        with open("/proc/%d/task/%d/children" % (self.process.pid, self.process.pid)) as f:
            for pid in f.read().split():
                with open("/proc/%s/comm" % pid) as comm:
                    if comm.read().strip() == "systemd":
                        return int(pid)
        return None

    def _booted(self):
        return self.run("systemctl", "is-system-running", check=False).stdout.strip() in ("running", "degraded")

    def run(self, *command, check=True):
        """Runs a command inside, with an environment of its own."""
        return run("nsenter", "--target", self.leader, "--mount", "--uts", "--ipc", "--net", "--pid", "--root", "--wd",
                   "env", "--ignore-environment", "LC_ALL=C.UTF-8", "PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                   *command, check=check)

    def systemctl(self, *words, check=True):
        return self.run("systemctl", "--no-pager", *words, check=check).stdout

    def show(self, unit, prop):
        return self.systemctl("show", "--value", "--property=" + prop, unit).strip()

    def journal(self, unit):
        """The messages of a unit, a line each."""
        return self.run("journalctl", "--no-pager", "--output=cat", "--unit=" + unit).stdout

    def path(self, inside):
        return self.top + inside

    def write(self, inside, text):
        os.makedirs(os.path.dirname(self.path(inside)), exist_ok=True)
        with open(self.path(inside), "w") as f:
            f.write(text)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


_machines = []


def machine():
    """The machine that all cases of a script share, booted for the first one that asks."""
    if not _machines:
        needs_container()
        needs_install()
        tmp = tempfile.mkdtemp(prefix="ops")
        atexit.register(shutil.rmtree, tmp, ignore_errors=True)
        prefix = installed(os.path.join(tmp, "installed"))
        fuse = ["--bind=/dev/fuse"] if os.path.exists("/dev/fuse") else []
        _machines.append(Machine(tmp, "--bind=%s:%s" % (prefix, PREFIX), *fuse))
        atexit.register(_machines[0].stop)
    return _machines[0]
