# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""A domain of libvirt whose one disk is a qcow2 image, measured as the servers are: for tools that back up domains.

The domain is paused and has no operating system: QEMU's monitor writes its disk. As root, libvirt runs as the user
nobody, in a session of its own, and touches nothing of the machine's."""
import os
import shutil
import signal
import subprocess

import servers

NEEDS = ["libvirtd", "virsh", "qemu-system-x86_64", "qemu-img", "setpriv"]
NOBODY = 65534
XML = """<domain type='qemu'><name>bench</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='pc'>hvm</type></os><devices><emulator>%s</emulator><disk type='file' device='disk'>
<driver name='qemu' type='qcow2'/><source file='%s'/><target dev='vda' bus='virtio'/></disk></devices></domain>"""


class Domain(servers.Server):
    """Started on a node of the driver `file`: its disk is a copy of that file."""

    name, program = "libvirt", "virtnbdbackup"

    def __init__(self, programs, directory):
        super().__init__(programs, directory)
        missing = [program for program in NEEDS if not shutil.which(program)]
        if missing:
            raise servers.Unavailable("%s is not here" % ", ".join(missing))
        self.domain = None

    def start(self, node):
        try:
            import libvirt
            import libvirt_qemu
        except ImportError:
            raise servers.Unavailable("libvirt's Python module is not here")
        self.hmp = libvirt_qemu.qemuMonitorCommand
        try:
            self.start_domain(libvirt, node)
        except (libvirt.libvirtError, RuntimeError) as why:
            self.stop()
            raise servers.Unavailable("libvirt does not start: %s" % why)
        return self

    def start_domain(self, libvirt, node):
        servers.running.append(self)
        self.reachable()
        disk = os.path.join(self.dir, "disk.qcow2")
        self.run("qemu-img", "convert", "-W", "-O", "qcow2", "-f", "raw", node["filename"], disk)
        self.run("virsh", "-c", "qemu:///session", "version")  # which starts libvirtd
        runtime = os.path.join(self.dir, "libvirt")
        self.connection = libvirt.open("qemu+unix:///session?socket=%s/libvirt-sock" % runtime)
        self.domain = self.connection.createXML(XML % (shutil.which("qemu-system-x86_64"), disk),
                                                libvirt.VIR_DOMAIN_START_PAUSED)

    def reachable(self):
        """Makes the directory, which libvirt's user gets to."""
        shutil.rmtree(self.dir, ignore_errors=True)
        os.makedirs(self.dir)
        self.user = []
        if os.geteuid() == 0:
            os.chmod(os.path.dirname(self.dir), 0o755)
            os.chown(self.dir, NOBODY, NOBODY)
            self.user = ["setpriv", "--reuid=%d" % NOBODY, "--regid=%d" % NOBODY, "--clear-groups"]

    def run(self, *command):
        env = {"PATH": os.environ["PATH"], "HOME": self.dir, "XDG_RUNTIME_DIR": self.dir, "LC_ALL": "C.UTF-8",
               "XDG_CONFIG_HOME": self.dir + "/c", "XDG_CACHE_HOME": self.dir + "/k"}
        done = subprocess.run([*self.user, *command], env=env, cwd=self.dir, stdin=subprocess.DEVNULL,
                              capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError("%s: %s" % (command[0], done.stderr.strip()))

    def monitor(self):
        pass  # libvirt has it

    def pwrite(self, data, offset):
        """Has the device write as many bytes: with some other content."""
        said = self.hmp(self.domain, 'qemu-io -d /machine/peripheral/virtio-disk0/virtio-backend "write -q -P 103 %d %d"'
                        % (offset, len(data)), 1)
        if "rror" in said or "failed" in said:
            raise RuntimeError("libvirt's domain: " + said.strip())

    def pid_of(self, name):
        with open(os.path.join(self.dir, "libvirt", name)) as file:
            return int(file.read())

    @property
    def pid(self):
        return self.pid_of("qemu/run/bench.pid")

    def processes(self):
        return [self.pid, self.pid_of("libvirtd.pid")]

    def stop(self):
        if self in servers.running:
            servers.running.remove(self)
        if self.domain:
            self.domain.destroy()
            self.connection.close()
            self.domain = None
        try:
            os.kill(self.pid_of("libvirtd.pid"), signal.SIGTERM)
        except OSError:
            pass
        shutil.rmtree(self.dir, ignore_errors=True)
