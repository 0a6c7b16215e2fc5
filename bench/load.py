# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""What is done to a server, and what it costs: one measurement a function, each returns figures.

Figures: iops, gib_s, extents_s (a second); p50_us, p99_us; cpu (the server's CPU, by `per`)."""
import json
import os
import shutil
import subprocess
import time

GIB = 1 << 30
TIMEOUT = 120


def run_json(command, what):
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=TIMEOUT)
    start = done.stdout.find("{")
    if done.returncode != 0 or start < 0:
        said = (done.stderr + done.stdout).strip().splitlines()
        raise RuntimeError("%s: %s" % (what, said[-1] if said else "failed"))
    return json.loads(done.stdout[start:])


def fio(server, rw, block, depth, connections, seconds, *more):
    """One round of fio, which is libnbd: a connection for each job; or of the server's file, if it has one.
    @rw: randread, write, ...; @more: options."""
    before = server.cpu()
    client = (["--ioengine=libaio", "--direct=1", "--filename=" + server.file] if server.file
              else ["--ioengine=nbd", "--uri=" + server.uri])
    result = run_json(
        ["fio", "--name=x", *client, "--rw=" + rw,
         "--bs=%d" % block, "--iodepth=%d" % depth, "--numjobs=%d" % connections, "--thread",
         "--time_based", "--runtime=%dms" % (seconds * 1000), "--randrepeat=0", "--norandommap",
         "--group_reporting", "--lat_percentiles=1", "--clat_percentiles=0",
         "--output-format=json", *more], "fio on " + server.name)
    cpu = server.cpu() - before
    job = result["jobs"][0]
    side = job["read" if "read" in rw else "write"]
    if job["error"] or not side["total_ios"]:
        raise RuntimeError("fio on %s: error %d" % (server.name, job["error"]))
    # From queueing to completion: without it, what the server did while fio was still sending
    # would be missing.
    latency = side["lat_ns"].get("percentile", {})
    figures = {"iops": side["iops"], "gib_s": side["bw_bytes"] / GIB,
               "p50_us": latency.get("50.000000", 0) / 1e3,
               "p99_us": latency.get("99.000000", 0) / 1e3}
    figures["cpu"] = (cpu / (side["total_ios"] / 1e6) if block < 65536
                      else cpu / (side["io_bytes"] / GIB))
    return figures


def vhost(program, name, target, seconds, rw, block, depth, queues):
    """One round of tests/vhost/load.c: a thread for each queue. @target: what it loads."""
    result = run_json([program, "--block=%d" % block, "--depth=%d" % depth, "--queues=%d" % queues,
                       "--seconds=%g" % seconds, *(["--write"] if rw == "write" else []), *target],
                      "vhost-load on " + name)
    cpu = result["server_cpu_us"]
    return {"iops": result["iops"], "gib_s": result["iops"] * block / GIB, "p50_us": result["p50_us"],
            "p99_us": result["p99_us"], "cpu": cpu if block < 65536 else cpu / 1e6 * GIB / block}


def nbdcopy(server, size):
    """The whole disk, with nbdcopy's own defaults."""
    before, began = server.cpu(), time.monotonic()
    done = subprocess.run(["nbdcopy", server.uri, "null:"], stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=TIMEOUT)
    if done.returncode != 0:
        raise RuntimeError("nbdcopy from %s: %s" % (server.name, done.stderr.strip()))
    return {"gib_s": size / GIB / (time.monotonic() - began),
            "cpu": (server.cpu() - before) / (size / GIB)}


def credentials(directory):
    """Keys and certificates in @directory/psk and @directory/x509, as all servers and clients take
    them; RuntimeError: certtool is not here."""
    psk, x509 = (os.path.join(directory, kind) for kind in ("psk", "x509"))
    if not shutil.which("certtool"):
        raise RuntimeError("certtool is not here")
    for path in (psk, x509):
        os.makedirs(path, exist_ok=True)
    with open(os.path.join(psk, "keys.psk"), "w") as file:
        file.write("bench:%s\n" % os.urandom(32).hex())

    def certtool(*arguments):
        subprocess.run(["certtool", *arguments], check=True, capture_output=True, cwd=x509)

    for name, template in (("ca", "cn = bench\nca\ncert_signing_key\n"),
                           ("server", "cn = localhost\ndns_name = localhost\ntls_www_server\n"
                                      "signing_key\nencryption_key\n"),
                           ("client", "cn = bench\ntls_www_client\nsigning_key\nencryption_key\n")):
        with open(os.path.join(x509, name + ".info"), "w") as file:
            file.write(template)
        certtool("--generate-privkey", "--key-type", "ecdsa", "--outfile", name + "-key.pem")
        signed = (["--generate-self-signed"] if name == "ca" else
                  ["--generate-certificate", "--load-ca-certificate", "ca-cert.pem",
                   "--load-ca-privkey", "ca-key.pem"])
        certtool(*signed, "--load-privkey", name + "-key.pem", "--template", name + ".info",
                 "--outfile", name + "-cert.pem")
    return {"psk": ("psk", psk), "x509": ("x509", x509)}


def walk(program, server, *arguments):
    """One run of bench/walk.c: its figures and the server's CPU seconds."""
    before = server.cpu()
    result = run_json([program, arguments[0], server.uri, *map(str, arguments[1:])],
                      "walk on " + server.name)
    result["cpu_s"] = server.cpu() - before
    return result


def walk_extents(program, server, context, times):
    result = walk(program, server, "extents", context, times)
    return {"extents_s": result["extents"] / result["seconds"], "extents": result["extents"],
            "cpu": result["cpu_s"] / (result["extents"] / 1e6)}


def fill(path, size):
    """A file full of data, in the page cache."""
    block = os.urandom(1 << 20)
    with open(path, "wb") as file:
        for _ in range(size >> 20):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())


def fragment(path, extents):
    """A file of @extents extents: data and holes of 4 KiB by turns."""
    with open(path, "wb", buffering=0) as file:
        for offset in range(0, extents * 4096, 8192):
            os.pwrite(file.fileno(), b"x" * 4096, offset)
        file.truncate(extents * 4096)
