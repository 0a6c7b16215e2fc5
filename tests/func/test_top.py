#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""tidemark top: what it measures, what it draws, its keys, and what becomes of the terminal."""
from backup_kit import *
from terminal import *

INTERVAL = ("--interval", "0.1")


def top(d, *args, env=None, **size):
    return Terminal(TIDEMARK, "top", "--socket", d.qmp_path, *INTERVAL, *args, env=env, **size)


def once(d, *args, **kwargs):
    return tidemark("top", "--socket", d.qmp_path, "--once", *INTERVAL, *args, **kwargs).stdout


def figures(d, *args):
    return json.loads(once(d, "--json", *args))


def two_disks(tmp):
    d = Daemon(tmp, *disk(tmp, "disk0", 8 * MIB), *disk(tmp, "disk1", 8 * MIB))
    d.qmp("block-dirty-bitmap-add", node="disk0", name="月曜日")
    return d


class Lines:
    """tidemark top --json, and its lines so far."""

    def __init__(self, d):
        self.file = tempfile.TemporaryFile()
        self.process = subprocess.Popen([TIDEMARK, "top", "--socket", d.qmp_path, *INTERVAL, "--json"],
                                        stdout=self.file)

    def read(self):
        data = os.pread(self.file.fileno(), 1 << 24, 0)
        return [json.loads(line) for line in data[:data.rfind(b"\n") + 1].splitlines()]

    def __enter__(self):
        return self

    def __exit__(self, kind, value, tb):
        self.process.terminate()
        self.process.wait()
        self.file.close()


class Fake:
    """A QMP server whose answers a case chooses: the command's name (with "+" if it has arguments but "details") to
    what it returns at each call, the last one for ever. Others are not found."""

    def __init__(self, tmp, **answers):
        self.qmp_path = os.path.join(tmp, "fake.qmp")
        self.answers = {k.replace("_", "-"): list(v) for k, v in answers.items()}
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.qmp_path)
        self.listener.listen()
        self.hang = threading.Event()
        self.refused = None  # an argument that it does not know
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            try:
                self._converse(connection)
            except OSError:
                pass  # the client is gone

    def _converse(self, connection):
        with connection, connection.makefile("rw") as f:
            f.write('{"QMP": {"version": {"qemu": {}}, "capabilities": []}}\n')
            f.flush()
            for line in f:
                if self.hang.is_set():
                    self.hang.wait()
                    continue
                f.write(json.dumps(self._answer(json.loads(line))) + "\n")
                f.flush()

    def _answer(self, request):
        if request["execute"] == "qmp_capabilities":
            return {"return": {}}
        if self.refused in request.get("arguments", {}):
            return {"error": {"class": "GenericError", "desc": "Parameter '%s' is unexpected" % self.refused}}
        plus = "+" if set(request.get("arguments", {})) - {"details"} else ""
        answers = self.answers.get(request["execute"] + plus)
        if not answers:
            return {"error": {"class": "CommandNotFound", "desc": "no such command"}}
        return {"return": answers.pop(0) if len(answers) > 1 else answers[0]}

    def close(self):
        self.listener.close()


def nodes(**bitmaps):
    """query-named-block-nodes of one disk with bitmaps of so many dirty bytes."""
    return [{"node-name": "disk0", "image": {"virtual-size": 1 << 30}, "dirty-bitmaps": [
        {"name": name, "count": count, "granularity": 65536, "recording": True} for name, count in bitmaps.items()]}]


def stats(**members):
    return [{"node-name": "disk0", "stats": members}]


@test
def differences_over_time(tmp):
    "figures are the differences of counters, over the time between, and percentiles of histograms"
    bounds = [1000, 10000, 100000]
    fake = Fake(
        tmp,
        **{"query-named-block-nodes+": [nodes(b=65536), nodes(b=10 * 65536, new=65536)],
           "query-blockstats+": [
               stats(rd_operations=100, rd_bytes=1000, rd_total_time_ns=5, failed_rd_operations=1,
                     rd_latency_histogram={"boundaries": bounds, "bins": [5, 5, 5, 0]}, wr_operations=7),
               stats(rd_operations=300, rd_bytes=5000, rd_total_time_ns=400005, failed_rd_operations=1,
                     rd_latency_histogram={"boundaries": bounds, "bins": [105, 95, 15, 0]}, wr_operations=3)]})
    out = figures(fake)
    one, = out["disks"]
    read = one["read"]
    equal((read["requests"], read["bytes"], read["failed"], read["mean-ns"]), (200, 4000, 0, 2000))
    equal(round(read["requests-per-second"] * out["seconds"]), 200)
    equal(round(read["bytes-per-second"] * out["seconds"]), 4000)
    equal((read["p50-ns"], read["worst-ns"]), (1000, 100000))
    equal(read["p99-ns"], 10000 + 90000 * 8 // 10)
    equal(one["worst-ns"], 100000)
    equal(one["write"]["requests"], 3, "a counter that began anew")
    equal("mean-ns" in one["flush"], False, "nothing is said of what did not happen")
    equal([(b["name"], b["dirty"], b["growth"]) for b in one["bitmaps"]],
          [("b", 10 * 65536, 9 * 65536), ("new", 65536, 0)])
    equal((one["bitmap"], one["dirty"]), ("b", 10 * 65536))
    equal((out["sessions"], out["jobs"], out["backups"]), ([], [], []), "what the server does not have")
    fake.close()


@test
def servers_without_histograms(tmp):
    "a server that has no histograms is asked without them"
    fake = Fake(tmp, **{"query-named-block-nodes+": [nodes(b=0)],
                        "query-blockstats+": [stats(rd_operations=1), stats(rd_operations=5)]})
    fake.refused = "details"
    one, = figures(fake)["disks"]
    equal((one["read"]["requests"], "worst-ns" in one["read"]), (4, False))
    fake.close()


@test
def jobs_and_backups(tmp):
    "jobs show their rate and the time left, and backups what was read of what is to be copied"
    fake = Fake(
        tmp,
        **{"query-named-block-nodes+": [nodes(b=0)],
           "query-jobs": [[{"id": "copy", "type": "backup", "status": "running", "current-progress": 1000,
                            "total-progress": 100000}],
                          [{"id": "copy", "type": "backup", "status": "running", "current-progress": 2000,
                            "total-progress": 100000}]],
           "query-block-exports": [[{"id": "e1", "node-name": "disk0", "name": "disk0@nightly"}]],
           "query-blockstats": [[{"device": "e1", "stats": {"rd_bytes": 5 * MIB}}]],
           "query-backups": [[{"id": "nightly", "age": 65, "scratch": {"used": 3 * MIB}, "disks": [
               {"node": "disk0", "export": "disk0@nightly", "dirty": 10 * MIB, "sessions": 1}]}]]})
    out = figures(fake)
    job, = out["jobs"]
    equal(round(job["rate"] * out["seconds"]), 1000)
    equal(job["seconds-left"], int(98000 / job["rate"]))
    backup, = out["backups"]
    equal(backup["disks"][0]["read"], 5 * MIB)
    equal(out["disks"][0]["exports"], [], "the export of a backup is none of the disk")
    text = once(fake)
    matches(text, r"nightly of disk0 +reading +\S+ +50 %")
    matches(text, r"begun 1:05 ago, scratch 3 MiB")
    matches(text, r"copy \(backup\) +running +\S+ +2 %")
    fake.close()


@test
def counts_what_clients_do(tmp):
    "requests, clients and dirt of a daemon are those that its clients made"
    with two_disks(tmp) as d:
        with Lines(d) as lines:
            wait_until(lines.read, "the first line")
            h = d.nbd("disk0")
            for i in range(10):
                h.pwrite(b"x" * 65536, i * 65536)
                h.pread(65536, 0)
            h.flush()

            def sums():
                found = [one for line in lines.read() for one in line["disks"] if one["node"] == "disk0"]
                return [sum(one[op]["requests"] for one in found) for op in ("read", "write", "flush")] + [
                    sum(one["write"]["bytes"] for one in found), sum(one["bitmaps"][0]["growth"] for one in found)]

            wait_until(lambda: sums() == [10, 10, 1, 655360, 655360], "all requests")
            last = lines.read()[-1]
            equal([session["export"] for session in last["sessions"]], ["exp-disk0"])
            equal([(one["node"], one["clients"]) for one in last["disks"]], [("disk0", 1), ("disk1", 0)])
            h.shutdown()


@test
def requests_that_only_exports_count(tmp):
    "what exports count alone, such as reads of holes, doesn't hide the histograms of the others"
    def export(n):
        return [{"device": "e", "node-name": "disk0", "stats": {
            "rd_operations": n, "flush_operations": n,
            "flush_latency_histogram": {"boundaries": [1000], "bins": [n, 0]}}}]

    fake = Fake(tmp, **{"query-named-block-nodes+": [nodes(b=0)], "query-blockstats": [export(1), export(4)],
                        "query-blockstats+": [stats(flush_operations=5), stats(flush_operations=7)]})
    one, = figures(fake)["disks"]
    equal((one["read"]["requests"], one["flush"]["worst-ns"], one["worst-ns"]), (3, 1000, 1000))
    fake.close()


@test
def without_a_terminal(tmp):
    "--once prints lines of at most 80 columns; DISK chooses; --json is one line"
    with two_disks(tmp) as d:
        out = once(d)
        equal([line for line in out.splitlines() if len(line) > 80 or line != line.rstrip()], [])
        matches(out, r"(?m)^  disk0 .*\n  disk1 ")
        equal("\x1b" in out, False)
        equal("disk1" in once(d, "exp-disk0"), False)
        equal([one["node"] for one in figures(d, "disk1")["disks"]], ["disk1"])
        equal(len(once(d, "--json").splitlines()), 1)
        p = tidemark("top", "--socket", d.qmp_path, "disk9", check=False)
        equal((p.returncode, p.stdout, p.stderr), (1, "", "tidemark: no disk 'disk9': did you mean 'disk0'?\n"))
        p = tidemark("top", "--interval", "0", check=False)
        equal(p.returncode, 2)
        matches(p.stderr, "option --interval: '0' is not a number of seconds from 0.1 to 3600")
        p = tidemark("top", "--socket", tmp + "/none", check=False)
        equal((p.returncode, p.stdout), (1, ""))
        matches(p.stderr, "no daemon at socket")


@test
def keys(tmp):
    "keys choose, sort, show one disk, pause, change the interval, help and quit"
    with two_disks(tmp) as d:
        h = d.nbd("disk1")
        with top(d, "--no-color") as t:
            t.sees(r"^> disk0 ")
            t.type("j")
            t.sees(r"^> disk1 ")
            t.type("\x1b[A")
            t.sees(r"^> disk0 ")
            t.type("\x1b[B")
            t.sees(r"^> disk1 ")
            t.type("\r")
            t.sees(r"^  disk1  8 MiB")
            t.sees(r"^  write +0 ")
            t.sees(r"^  exp-disk1 +unix:pid=%d" % os.getpid())
            t.type("k")
            t.sees(r"^  disk0  8 MiB")
            t.sees(r"^  月曜日 +0 +0 +64K +0 % of the disk, recording")
            t.type("\x1b")
            t.sees(r"^> disk0 ")
            t.type("p")
            t.sees("PAUSED")
            h.pwrite(b"x" * 65536, 0)
            t.type("p")
            t.sees(r"every 0.1 s")
            t.type("+")
            t.sees(r"every 0.2 s")
            t.type("-")
            t.sees(r"every 0.1 s")
            t.type("?")
            t.sees("any key goes back")
            t.type("x")
            t.sees(r"^> disk0 ")
            t.type("q")
            t.end()
        h.shutdown()


@test
def sorted_by_a_column(tmp):
    "s sorts by the next column, the greatest first, and marks it; the chosen disk stays chosen"
    quiet = {"node-name": "a", "stats": {}}
    fake = Fake(tmp, **{
        "query-named-block-nodes+": [[{"node-name": n, "dirty-bitmaps": []} for n in "ab"]],
        "query-blockstats+": [[quiet, {"node-name": "b", "stats": {"rd_operations": n * 1000}}] for n in range(999)]})
    with top(fake) as t:
        t.sees(r"^> a .*\n  b ")

        def marked():
            row = next((row for row in t.screen.cells if "".join(c for c, _ in row).startswith("  DISK")), [])
            return "".join(c for c, attributes in row if 4 in attributes).strip()

        wait_until(lambda: t.read() or marked() == "DISK", "the mark")
        t.type("s")
        t.sees(r"^  b .*\n> a ")
        equal(marked(), "READS/S")
        t.type("S")
        t.sees(r"^> a .*\n  b ")
        t.type("q")
        t.end()
    fake.close()


@test
def sizes(tmp):
    "it draws for the size of the terminal, also when that changes, and wide characters keep their columns"
    with two_disks(tmp) as d:
        with top(d) as t:
            t.sees(r"^> disk0 ")
            equal(t.screen.text().splitlines()[-1].startswith(" q quit"), True)
            matches(t.screen.text(), "  DISK .* MEAN  WORST  DIRTY  GROWTH\n")  # 80 columns have all that matters
            for columns, rows in (40, 24), (132, 50), (30, 8), (10, 3), (80, 24):
                t.resize(columns, rows)
                wait_until(lambda: t.read() or not t.screen.overflow and
                           t.screen.text().splitlines()[-1].startswith(" q quit"), "the last line")
                t.type("\r")  # one disk
                t.type("\r")
            t.resize(40, 24)
            t.type("d")
            t.sees("月曜日 +0")
            equal([r for r in t.screen.cells if len(r) != 40], [])
            t.resize(132, 24)
            t.type("d")
            t.sees("FLUSHES/S +DISCARDS/S +MEAN +WORST")
            t.type("q")
            t.end()


@test
def long_names(tmp):
    "a long name is shown before the columns that matter least, and cut where there is no room"
    fake = Fake(tmp, **{"query-named-block-nodes+": [[{"node-name": "a-long-name-16ch", "dirty-bitmaps": []},
                                                      {"node-name": 40 * "x", "dirty-bitmaps": []}]]})
    with top(fake) as t:
        t.sees(r"^> a-long-name-16ch +0 ")
        t.sees(r"^  x+… +0 ")
        t.resize(100, 24)
        t.sees(r"^> a-long-name-16ch +0 .*")
        t.type("q")
        t.end()
    fake.close()


@test
def plain_terminals(tmp):
    "no colours with NO_COLOR; no UTF-8 in other locales; text without a screen on a dumb terminal"
    with two_disks(tmp) as d:
        with top(d, env={"NO_COLOR": "1"}) as t:
            t.sees(r"^> disk0 ")
            equal(re.findall(rb"\x1b\[[0-9;]*m", t.raw), [])
            t.type("q")
            t.end()
        with top(d, env={"LC_ALL": "C"}, columns=40) as t:
            t.sees(r"^> disk0 ")
            t.type("d")
            t.sees("highest")
            equal([b for b in t.raw if b > 126], [])
            t.type("q")
            t.end()
        with top(d, env={"TERM": "dumb"}) as t:
            t.sees(r"(?s)^  disk0 .*^  disk0 ")
            equal(b"\x1b" in t.raw, False)
            t.type("\x03")
            t.end(-signal.SIGINT)


@test
def terminal_is_restored(tmp):
    "signals end it with the terminal as it was; when it is stopped, the terminal is the shell's"
    with two_disks(tmp) as d:
        for signum in signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT:
            with top(d) as t:
                t.sees(r"^> disk0 ")
                equal(t.restored(), False)
                t.process.send_signal(signum)
                t.end(-signum)
        with top(d) as t:
            t.sees(r"^> disk0 ")
            t.process.send_signal(signal.SIGTSTP)
            wait_until(lambda: t.read() or t.restored(), "the terminal")
            wait_until(lambda: open("/proc/%d/stat" % t.process.pid).read().rsplit(")", 1)[1].split()[0] == "T",
                       "the stop")
            t.process.send_signal(signal.SIGCONT)
            wait_until(lambda: t.read() or not t.restored(), "the screen")
            t.sees(r"^> disk0 ")
            t.type("q")
            t.end()
        with top(d) as t:
            t.sees(r"^> disk0 ")
            os.close(t.slave)
            os.close(t.master)
            t.master = t.slave = os.open(os.devnull, os.O_RDWR)
            wait_until(lambda: t.process.poll() is not None, "its end without a terminal")


@test
def death_of_the_daemon(tmp):
    "when the daemon goes it says so, and goes on with the next one"
    args = disk(tmp, "disk0", 8 * MIB)
    d = Daemon(tmp, *args)
    with top(d) as t:
        t.sees(r"^> disk0 ")
        d.kill()
        t.sees(r"NO ANSWER")
        t.sees(r"^ (no daemon at|socket) .*d\.qmp")
        t.sees(r"^> disk0 ")  # the last figures
        t.type("?")
        t.sees("any key goes back")
        t.type("?")
        d = Daemon(tmp, *args)
        t.sees(r"every 0.1 s")
        t.sees(r"^ 1 disk, 0 clients")
        t.type("q")
        t.end()
    with Lines(d) as lines:
        wait_until(lambda: any("disks" in line for line in lines.read()), "figures")
        d.kill()
        wait_until(lambda: "error" in lines.read()[-1], "an error")
        d = Daemon(tmp, *args)
        wait_until(lambda: "disks" in lines.read()[-1], "figures again")


@test
def daemon_that_hangs(tmp):
    "while the daemon doesn't answer, keys work, and it says for how long"
    fake = Fake(tmp, **{"query-named-block-nodes+": [nodes(b=0)]})
    with top(fake) as t:
        t.sees(r"^> disk0 ")
        fake.hang.set()
        t.sees("the daemon has not answered for 3 s")
        t.type("d")
        t.sees(r"^  disk0  1 GiB")
        t.type("q")
        t.end()
    fake.close()


@test
def a_backup_that_runs(tmp):
    "a backup shows how far it is, until it ends"
    with two_disks(tmp) as d:
        h = d.nbd("disk0")
        h.pwrite(b"x" * MIB, 0)
        h.shutdown()
        d.qmp("backup-begin", id="nightly", disks=[{"node": "disk0", "from": "月曜日"}],
              scratch={"directory": tmp}, timeout=0)
        h = d.nbd("disk0")
        with top(d, columns=100) as t:
            t.sees(r"^  nightly of disk0 +waiting +\S+ +0 %")
            matches(t.screen.text(), r"2 disks(.|\n)*\n> disk0 .* 1\n  disk1 .* 0\n\n  BACKUPS")  # their clients
            b = d.nbd("disk0@nightly")
            b.pread(MIB // 2, 0)
            t.sees(r"^  nightly of disk0 +reading +\S+ +50 %")
            b.shutdown()
            d.qmp("backup-end", id="nightly", success=True)
            wait_until(lambda: t.read() or "nightly" not in t.screen.text(), "its end")
            h.shutdown()
            t.type("q")
            t.end()


@test(needs=["qemu-storage-daemon"])
def of_qemu(tmp):
    "it shows the disks and bitmaps of qemu-storage-daemon, too"
    with Daemon(tmp, *disk(tmp, "disk0", 8 * MIB), binary=QSD) as d:
        d.qmp("block-dirty-bitmap-add", node="disk0", name="b")
        h = d.nbd("disk0")
        h.pwrite(b"x" * 65536, 0)
        one, = figures(d)["disks"]
        equal((one["node"], one["exports"][0]["id"], one["dirty"]), ("disk0", "exp-disk0", 65536))
        h.shutdown()


main()
