# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""A small Linux under QEMU: its kernel, its root disk, its life, and what its files must be.

The root disk is an ext4 file system with busybox and tests/vm/guest/init, which says how files are written and reported.
Kernel and initramfs come from outside, so that a disk needs no boot loader."""
import contextlib
import hashlib
import importlib.util
import platform

from harness import *

HERE = os.path.join(SRCDIR, "tests", "vm", "guest")
EMULATOR = "qemu-system-x86_64"
MODULES = ["virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci", "virtio_blk"]
# An emulated processor that does not get its time is neither stuck nor has it a broken timer.
KERNEL_OPTIONS = "console=ttyS0 loglevel=5 panic=-1 nowatchdog no_timer_check"
DISK_SIZE = "192M"
MIB = 1 << 20
FIRST, SLOTS = 100000, 128  # as tests/vm/guest/init has them
STARTED = time.monotonic()
BOOT = 5 * PATIENCE  # an emulated machine that shares its processor
TROUBLE = re.compile(r".*(?:I/O error|EXT4-fs (?:error|warning)|JBD2: |Kernel panic|Oops|blocked for more than"
                     r"|Remounting filesystem read-only).*")


# ---- what it boots


def needs():
    """Skips the case where a guest can't be made."""
    if platform.machine() != "x86_64":
        skip("the guest is a Debian for x86_64, and this is %s" % platform.machine())
    for command in (EMULATOR, "busybox", "mke2fs", "e2fsck", "nbdcopy", "qemu-img"):
        if not have(command):
            skip("%s is not installed" % command)
    if not importlib.util.find_spec("nbd"):
        skip("libnbd's Python module is not installed")


def kernel():
    """The directory of the kernel and its modules, which are fetched for the first case that needs them."""
    where = os.path.join(BUILDDIR, "vm-kernel")
    done = run(os.path.join(SRCDIR, "scripts", "vm-kernel"), where, check=False, timeout=10 * PATIENCE)
    if done.returncode:
        skip(done.stderr.strip())
    return where


def install(top, *programs):
    """Copies programs to /bin of a root directory, and the libraries that they need if they are not static."""
    for program in programs:
        shutil.copy(program, os.path.join(top, "bin"))
        for library in re.findall(r"(/\S+) \(", run("ldd", program, check=False).stdout):
            os.makedirs(os.path.dirname(top + library), exist_ok=True)
            shutil.copy(library, top + library)


def tree(top, init, *directories):
    """A root directory with busybox and that init."""
    for name in ("bin", "dev") + directories:
        os.makedirs(os.path.join(top, name))
    install(top, shutil.which("busybox"))
    for applet in run("busybox", "--list").stdout.split():
        if applet != "busybox":
            os.symlink("busybox", os.path.join(top, "bin", applet))
    shutil.copy(os.path.join(HERE, init), os.path.join(top, "init"))
    return top


def make_initramfs(tmp, where):
    top = tree(os.path.join(tmp, "initramfs.d"), "initramfs", "root")
    for module in MODULES:
        path = os.path.join(where, module + ".ko")
        if os.path.exists(path):  # others are part of the kernel
            shutil.copy(path, top)
    names = "\n".join(os.path.relpath(os.path.join(at, name), top) for at, dirs, files in os.walk(top)
                      for name in dirs + files)
    path = os.path.join(tmp, "initramfs")
    with open(path, "wb") as out:
        subprocess.run(["busybox", "cpio", "-o", "-H", "newc"], cwd=top, stdout=out, stderr=subprocess.DEVNULL,
                       input=names.encode() + b"\n", check=True)
    return path


def make_disk(tmp):
    """The image of a root disk on which nothing has run yet."""
    return disk_of(tmp, tree(os.path.join(tmp, "disk.d"), "init", "proc", "data/0", "data/1"), "new.img")


def disk_of(tmp, top, name, size=DISK_SIZE):
    """The image of a root disk with what is in a directory."""
    path = os.path.join(tmp, name)
    run("mke2fs", "-q", "-t", "ext4", "-b", "4096", "-d", top, path, size)
    return path


# ---- its life


def say(text, *args):
    print("# %3d s: %s" % (time.monotonic() - STARTED, text % args), flush=True)


@contextlib.contextmanager
def kept(tmp, name):
    """If the case fails, what guests, emulators and daemons said is kept."""
    try:
        yield
    except Skip:
        raise
    except BaseException:
        where = os.path.join(BUILDDIR, "test-logs", "vm", name)
        shutil.rmtree(where, ignore_errors=True)
        os.makedirs(where)
        for file in os.listdir(tmp):
            if file.endswith((".console", ".reports", ".qemu", ".log")):
                shutil.copy(os.path.join(tmp, file), where)
        say("the consoles are in %s", where)
        raise


def increment(daemon, said, context, path):
    """Writes what is dirty at a backup's point into the image of the backup before."""
    h = daemon.nbd(said["export"], [context])
    dirty = 0
    with open(path, "r+b") as f:
        for offset, length, flags in extents(h, context):
            for at in range(offset, offset + length * (flags & 1), MIB):
                n = min(MIB, offset + length - at)
                f.seek(at)
                f.write(bytes(n) if flags & 2 else h.pread(n, at))
                dirty += n
    h.shutdown()
    equal(dirty, said["dirty"])


class System:
    """What all guests of a case have in common: kernel, initramfs, accelerator."""

    def __init__(self, tmp):
        needs()
        where = kernel()
        self.tmp = tmp
        self.modules = where
        self.kernel, self.initramfs = os.path.join(where, "vmlinuz"), make_initramfs(tmp, where)
        self.new_disk = make_disk(tmp)
        if not os.access("/dev/kvm", os.R_OK | os.W_OK) or not self._runs(["-accel", "kvm", "-cpu", "host"]):
            self.accelerator = ["-accel", "tcg", "-cpu", "max"]

    def _runs(self, accelerator):
        """Whether a kernel boots with it; where a hypervisor is not all that it seems, it may also hang."""
        self.accelerator = accelerator
        path = os.path.join(self.tmp, "probe.img")
        shutil.copy(self.new_disk, path)
        with Guest(self, "probe", "check", file_disk(path)) as guest:
            try:
                wait_until(lambda: "checked" in guest.reports(), "the probe", timeout=20)
            except Failure:
                return False
        return True


# Options of QEMU for the disk.


def block_disk(node):
    return ["-blockdev", node + ",node-name=disk,discard=unmap", "-device", "virtio-blk-pci,drive=disk"]


def file_disk(path):
    return block_disk("driver=file,filename=" + path)


def nbd_disk(daemon, export="disk0"):
    return block_disk("driver=nbd,server.type=unix,server.path=%s,export=%s,reconnect-delay=%d" % (
        daemon.nbd_path, export, 2 * PATIENCE))


def vhost_disk(path, queues):
    return ["-smp", str(queues), "-chardev", "socket,id=disk,reconnect=1,path=" + path,
            "-device", "vhost-user-blk-pci,chardev=disk,num-queues=%d" % queues]


class Guest:
    """One boot of a disk. The kernel's console is in NAME.console, what init reports in NAME.reports."""

    def __init__(self, system, name, job, disk, memory=256):
        self.name = name
        base = os.path.join(system.tmp, name)
        self.paths = {what: "%s.%s" % (base, what) for what in ("console", "reports", "qemu")}
        with open(self.paths["qemu"], "wb") as out:
            self.process = subprocess.Popen(
                [EMULATOR, *system.accelerator, "-m", str(memory), "-machine", "memory-backend=memory",
                 "-object", "memory-backend-memfd,id=memory,share=on,size=%dM" % memory, "-nodefaults", "-no-user-config", "-display", "none",
                 "-no-reboot", "-kernel", system.kernel, "-initrd", system.initramfs,
                 "-append", KERNEL_OPTIONS + " vm.job=" + job,
                 "-serial", "file:" + self.paths["console"], "-serial", "file:" + self.paths["reports"],
                 *disk],
                stdin=subprocess.DEVNULL, stdout=out, stderr=out)

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.process.kill()
        self.process.wait()

    def said(self, what):
        try:
            with open(self.paths[what], errors="replace") as f:
                return f.read()
        except FileNotFoundError:
            return ""

    def reports(self):
        """The lines that are complete."""
        return self.said("reports").replace("\r", "").split("\n")[:-1]

    def well(self):
        """Fails if its kernel or its emulator has met trouble."""
        trouble = TROUBLE.search(self.said("console"))
        if trouble:
            fail("%s: the kernel said: %s" % (self.name, trouble.group(0).strip()))
        if self.process.poll():
            fail("%s: QEMU ended with status %d\n%s" % (self.name, self.process.returncode, self.said("qemu")))

    def fsynced(self):
        """The last number that each writer has reported."""
        self.well()
        last = [FIRST - 1, FIRST - 1]
        for line in self.reports():
            word, *numbers = line.split()
            if word != "fsynced":
                fail("%s: %s" % (self.name, line))
            last[int(numbers[0])] = int(numbers[1])
        return last

    def more(self, count):
        """Waits until each writer has fsynced so many files more, and returns the last numbers."""
        began = self.fsynced()

        def written():
            now = self.fsynced()
            return all(n >= b + count for n, b in zip(now, began)) and now

        return wait_until(written, "files of %s" % self.name, timeout=BOOT)

    def sums(self):
        """Waits for the end of a check; the check sums that it has found, by writer and slot."""
        def ended():
            self.well()
            return self.process.poll() is not None

        wait_until(ended, "the end of %s" % self.name, timeout=BOOT)
        *lines, end = self.reports() or [""]
        equal(end, "checked", "the last report of %s" % self.name)
        found = [{}, {}]
        for line in lines:
            file = re.fullmatch(r"([0-9a-f]{32})  ([01])/(\d+)", line)
            if not file:
                fail("%s reported: %s" % (self.name, line))
            found[int(file.group(2))][int(file.group(3))] = file.group(1)
        return found


# ---- what its files must be


def md5(writer, n):
    """Of the content with that number."""
    slot = n % SLOTS
    pages = slot % 16 + 1 if slot % 2 else n % 13 + 1
    return hashlib.md5(b"writer %d %d\n" % (writer, n) * 256 * pages).hexdigest()


def check_sums(name, found, least, most):
    """Fails unless the files are those of one moment: after number least of each writer was durable, before number most.

    A writer makes one file durable before it touches the next. So if m is the newest that is there, the content of
    every file but that of number m + 1 is known."""
    for writer, sums in enumerate(found):
        there = [n for n in range(FIRST, most[writer] + SLOTS) if sums.get(n % SLOTS) == md5(writer, n)]
        newest = max(there, default=FIRST - 1)
        lost = sorted(set(range(max(FIRST, newest - SLOTS + 2), newest + 1)) - set(there))
        lost += range(newest + 1, least[writer] + 1)
        if lost:
            fail("%s, writer %d: of the files fsynced, up to %d, these are lost or wrong: %s" % (
                name, writer, least[writer], shown(lost, 200)))
        if newest >= most[writer]:
            fail("%s, writer %d: file %d is there, although the backup began before file %d was written" % (
                name, writer, newest, most[writer]))
