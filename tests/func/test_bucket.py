#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""Repositories in a bucket, on a server of the test's own: whatever requests fail or are lost, points are whole or not
there; writers are kept apart; and what is wrong is said by name."""
import itertools

from bucket_kit import *
from harness import *
from s3_server import BUCKET, Store

REPO = "s3://%s/host/one" % BUCKET


def store(**options):
    """The server, of which the environment says everything."""
    if "without libcurl" in tidemark("list", REPO, check=False, env=dict(os.environ, AWS_ENDPOINT_URL="x")).stderr:
        skip("built without libcurl")
    s = Store(**options)
    os.environ.update(s.env)
    return s


def keys(s):
    return [key[len("host/one/"):] for key in s.objects]


def refused(pattern, *args, status=1):
    p = tidemark(*args, check=False)
    equal(p.returncode, status, p.stdout + p.stderr)
    equal(p.stderr.count("\n"), 1, p.stderr)
    matches(p.stderr, pattern)


class Gate:
    """A fault that holds the first request that matches, until it is opened."""

    def __init__(self, s, method, pattern):
        self.reached, self.opened = threading.Event(), threading.Event()
        self.method, self.pattern = method, pattern
        s.fault = self

    def __call__(self, method, path):
        if method == self.method and re.search(self.pattern, path) and not self.reached.is_set():
            self.reached.set()
            self.opened.wait(PATIENCE)
        return None


def start(kit, *args):
    return subprocess.Popen(kit.command(*args), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@test
def life(tmp):
    "a full and increments are listed in pages, verified, served, restored, copied and removed"
    s = store(page=3)
    kit = BucketKit(tmp, REPO)
    life_of_a_repository(kit, lambda: keys(s))
    equal(s.uploads, {})
    kit.d.stop()
    s.stop()


@test
def every_request_fails_once(tmp):
    "each request fails in one of the ways before it succeeds: the command does"
    s = store()
    kit = BucketKit(tmp, REPO, size=24 * MIB)
    kit.write("disk0", (0, pattern(1, 20 * MIB)))  # in parts
    kinds = ["500", "cut", "lost", "short", "503"]
    for shift in range(2):
        count, seen = itertools.count(shift * 2), set()

        def fault(method, path):
            if (method, path) in seen:
                return None
            seen.add((method, path))
            return kinds[next(count) % len(kinds)]

        s.fault = fault
        kit.point("p%d" % shift, "--full")
        tidemark("verify", kit.repo)
        s.fault = lambda method, path: None
        equal(len(seen) > 15, True, seen)
        kit.write("disk0", (shift * MIB, b"y"))
    kit.check_all()
    equal(s.uploads, {})
    equal(s.parts != {}, True, "the images went in parts")
    kit.d.stop()
    s.stop()


@test
def a_silent_server(tmp):
    "a request without an answer is repeated after the time that was set"
    s = store()
    kit = BucketKit(tmp, REPO)
    silent = ["silent"]
    s.fault = lambda method, path: silent.pop() if silent and method == "GET" else None
    os.environ["TIDEMARK_S3_TIMEOUT"] = "1"
    kit.point("p0")
    del os.environ["TIDEMARK_S3_TIMEOUT"]
    equal(silent, [])
    kit.check_all()
    kit.d.stop()
    s.stop()


@test
def a_failed_upload_leaves_nothing(tmp):
    "a part is refused: the error names all, the upload is aborted, and the next backup is right"
    s = store()
    kit = BucketKit(tmp, REPO, size=24 * MIB)
    kit.write("disk0", (0, pattern(1, 20 * MIB)))
    s.fault = lambda method, path: "403" if "partNumber=2" in path else None
    p = kit.backup("--name=p0", check=False)
    equal(p.returncode, 1)
    matches(p.stderr, r"PUT of '%s/p0/disk0.qcow2' at %s: the server answered 403 AccessDenied \(said the test\)" % (
        REPO, s.url))
    equal(s.uploads, {})
    equal(sorted(keys(s)), ["lock", "tidemark-repository.json"])
    s.fault = lambda method, path: None
    kit.point("p0")
    kit.check_all()
    kit.d.stop()
    s.stop()


@test
def a_killed_writer_is_passed_over(tmp):
    "killed in an upload: the next command takes the lock, aborts that upload only, and removes the debris"
    s = store()
    kit = BucketKit(tmp, REPO, size=24 * MIB)
    kit.write("disk0", (0, pattern(1, 20 * MIB)))
    gate = Gate(s, "PUT", "partNumber=2")
    p = start(kit, "--name=p0")
    gate.reached.wait(PATIENCE)
    p.kill()
    p.communicate(timeout=PATIENCE)
    gate.opened.set()
    equal(len(s.uploads), 1)
    others = {"other/1": ("host/one/inner/p0/disk0.qcow2", {}), "other/2": ("host/one/x/video", {})}
    s.uploads.update(others)
    matches("\n".join(keys(s)), "p0/manifest.json.partial")
    equal(kit.listed()["incomplete"], ["p0"])
    kit.point("p1")
    equal(s.uploads, others, "what others send is not aborted")
    equal([k for k in keys(s) if k.startswith("p0/")], [])
    kit.check_all()
    kit.d.stop()
    s.stop()


@test
def two_writers(tmp):
    "the second one is refused by the name of the first, which shows what it sends, or waits; who reads needs no lock"
    s = store()
    kit = BucketKit(tmp, REPO)
    kit.point("p0")
    kit.write("disk0", (0, b"y"))
    gate = Gate(s, "PUT", "p1/disk0.qcow2")
    p = start(kit, "--name=p1", "--json")
    gate.reached.wait(PATIENCE)
    event = next(e for e in map(json.loads, p.stdout) if e.get("doing") == "sending")
    equal((event["event"], event["done"] < event["total"]), ("progress", True), event)
    refused(r"repository '%s' is locked by tidemark backup \(process %d on " % (REPO, p.pid), "prune", "--keep=last=9",
            REPO, status=4)
    equal([kit.listed()[k] for k in ("written", "incomplete")], [True, ["p1"]])
    kit.check("p0", "disk0", kit.models["p0"])
    waiting = subprocess.Popen([TIDEMARK, "prune", "--wait=60", "--keep=last=9", REPO], stderr=subprocess.PIPE,
                               text=True)
    matches(waiting.stderr.readline(), "waiting")
    gate.opened.set()
    equal([q.communicate(timeout=PATIENCE) and q.returncode for q in (p, waiting)], [0, 0])
    kit.models["p1"] = kit.content("disk0")
    kit.check_all()
    kit.d.stop()
    s.stop()


@test
def a_writer_that_was_cut_off_is_passed_over(tmp):
    "a lock of another machine that nobody renews: the next one waits as long as it says, by its own clock"
    s = store()
    kit = BucketKit(tmp, REPO)
    kit.point("p0")
    lock = {"format": "tidemark-lock", "version": 1, "held": True, "by": "somebody", "machine": "another", "pid": 1,
            "start": 1, "lease": 1, "token": "x", "count": 1}
    s.objects["host/one/lock"] = json.dumps(lock).encode()
    refused("is locked by somebody: try again .* passed over after 1 s", "prune", "--keep=last=9", REPO, status=4)
    p = tidemark("prune", "--wait=60", "--keep=last=9", REPO)
    matches(p.stderr, "the repository is locked by somebody, which has not renewed that for 1 s: taking it over")
    equal(json.loads(s.objects["host/one/lock"])["held"], False)
    s.objects["host/one/lock"] = b"of another program"
    refused("object 'host/one/lock' at %s is no lock of a repository" % s.url, "prune", "--wait=60", "--keep=last=9",
            REPO)
    equal(s.objects["host/one/lock"], b"of another program")
    kit.check_all()
    kit.d.stop()
    s.stop()


@test
def a_lost_lock_ends_the_writer(tmp):
    "another one took the lock over: no point is made"
    s = store()
    kit = BucketKit(tmp, REPO)
    gate = Gate(s, "PUT", "p0/disk0.hashes")
    p = start(kit, "--name=p0")
    gate.reached.wait(PATIENCE)
    s.objects["host/one/lock"] = s.objects["host/one/lock"].replace(b"tidemark backup", b"somebody else")
    gate.opened.set()
    err = p.communicate(timeout=PATIENCE)[1]
    equal(p.returncode, 4, err)
    matches(err, "the lock of repository '%s' could not be kept, and another process may have taken it over" % REPO)
    equal("p0/manifest.json" in keys(s), False)
    kit.d.stop()
    s.stop()


@test
def a_lost_lock_ends_repetitions(tmp):
    "another one took the lock over while a request failed: it is not repeated, which could change what is theirs now"
    s = store()
    kit = BucketKit(tmp, REPO)
    tried = []

    def fault(method, path):
        if method != "PUT" or "p0/disk0.hashes" not in path:
            return None
        tried.append(path)
        s.objects["host/one/lock"] = s.objects["host/one/lock"].replace(b"tidemark backup", b"somebody else")
        return "500"
    s.fault = fault
    p = kit.backup("--name=p0", check=False)
    equal((p.returncode, len(tried)), (4, 1), p.stderr)
    matches(p.stderr, "the lock of repository '%s' could not be kept, and another process may have taken it over" % REPO)
    equal([k for k in keys(s) if k in ("p0/disk0.hashes", "p0/manifest.json")], [])
    kit.d.stop()
    s.stop()


@test(needs=["unshare", "setpriv"])
def a_writer_that_proc_hides(tmp):
    "a user who can't see the processes of others (hidepid) does not take the lock of one that runs for left behind"
    hidden = ["unshare", "--mount", "sh", "-c", 'mount -t proc -o hidepid=2 proc /proc && exec setpriv --reuid=65534 '
              '--regid=65534 --clear-groups --no-new-privs "$@"', "sh"]
    if os.geteuid() or run(*hidden, TIDEMARK, "--version", check=False).returncode:
        skip("hiding processes from another user needs root")
    s = store()
    kit = BucketKit(tmp, REPO)
    kit.point("p0")
    gate = Gate(s, "PUT", "p1/disk0.qcow2")
    kit.write("disk0", (0, b"y"))
    p = start(kit, "--name=p1")
    gate.reached.wait(PATIENCE)
    q = run(*hidden, TIDEMARK, "prune", "--keep=last=9", REPO, check=False)
    gate.opened.set()
    err = p.communicate(timeout=PATIENCE)[1]
    equal((q.returncode, p.returncode), (4, 0), q.stderr + err)
    matches(q.stderr, r"is locked by tidemark backup \(process %d on " % p.pid)
    kit.d.stop()
    s.stop()


@test
def a_server_without_conditional_writes(tmp):
    "it is refused before anything is written"
    s = store(conditions=False)
    kit = BucketKit(tmp, REPO)
    p = kit.backup(check=False)
    equal(p.returncode, 1)
    matches(p.stderr, "the server at %s does not heed If-None-Match, by which two writers are kept apart" % s.url)
    equal(keys(s), ["lock"])
    kit.d.stop()
    s.stop()


@test
def who_asks(tmp):
    "credentials come from the environment or a file; what is wrong with them is said"
    s = store()
    kit = BucketKit(tmp, REPO)
    kit.point("p0")
    kit.d.stop()
    path = os.path.join(tmp, "credentials")
    with open(path, "w") as f:
        f.write("[default]\naws_access_key_id = nobody\naws_secret_access_key = x\n[mine]\naws_access_key_id=%s\n"
                "aws_secret_access_key = %s\n" % (os.environ.pop("AWS_ACCESS_KEY_ID"),
                                                  os.environ.pop("AWS_SECRET_ACCESS_KEY")))
    os.environ["AWS_SHARED_CREDENTIALS_FILE"] = path
    refused("GET of 's3://%s' at %s: the server answered 403 InvalidAccessKeyId" % (BUCKET, s.url), "list", REPO)
    os.environ["AWS_PROFILE"] = "mine"
    kit.check_all()
    os.environ["AWS_PROFILE"] = "none"
    refused("no credentials for S3: .*profile 'none' of '%s'" % path, "list", REPO)
    del os.environ["AWS_PROFILE"], os.environ["AWS_SHARED_CREDENTIALS_FILE"]
    os.environ.update(s.env, AWS_SECRET_ACCESS_KEY="wrong")
    refused("403 SignatureDoesNotMatch", "list", REPO)
    os.environ["AWS_SECRET_ACCESS_KEY"] = ""
    refused("AWS_SECRET_ACCESS_KEY is not set", "list", REPO)
    os.environ.update(s.env, AWS_ENDPOINT_URL="example.com")
    refused("endpoint 'example.com' of S3 is no URL", "list", REPO)
    os.environ["AWS_ENDPOINT_URL"] = "https://me:hush@example.com"
    refused("the endpoint of S3 at 'example.com' has a user", "list", REPO)
    equal("hush" in tidemark("list", REPO, check=False).stderr, False)
    os.environ.update(s.env)
    refused("there is no bucket 'other' at %s" % s.url, "list", "s3://other/x")
    refused("'a b' can be no key", "list", "s3://%s/a b" % BUCKET)
    refused("'s3://%s/x' is not a repository" % BUCKET, "list", "s3://%s/x" % BUCKET)
    s.stop()


@test
def hostile_answers(tmp):
    "lists and objects that are not what was asked for are refused, and bounded"
    s = store()
    kit = BucketKit(tmp, REPO)
    kit.point("p0")
    kit.d.stop()
    row = "<Contents><Key>host/one/%s</Key><Size>%s</Size></Contents>"
    whole = "<ListBucketResult><IsTruncated>false</IsTruncated>%s</ListBucketResult>"
    for answer, pattern in (
            (b"", "is invalid: it is empty"),
            ("", "is invalid"),
            ("<a>" * 100, "is invalid"),
            ("<ListBucketResult></ListBucketResult>", "it has no IsTruncated"),
            (whole.replace("false", "true") % "", "does not say where it goes on|has an empty page"),
            (whole.replace("false</IsTruncated>", "true</IsTruncated><NextContinuationToken>0</NextContinuationToken>")
             % "", "has an empty page"),
            (whole % (row % ("p0/x", "-1")), "an object has the size '-1'"),
            (whole % (row % ("p0/x", 1 << 70)), "an object has the size"),
            (whole % ("x" * (17 << 20)), "the server answered more than it was asked for")):
        s.garble = lambda xml, answer=answer: answer
        refused(pattern, "list", REPO)
    s.garble = lambda xml: xml.replace("</ListBucketResult>", row % ("../../x", 1) + row % ("%00", 1) +
                                       row % ("a%20b", 1) + "</ListBucketResult>")
    equal(sorted(kit.listed()["foreign"]), ["..", "a b"])
    s.garble = lambda xml: xml
    s.objects["host/one/p0/manifest.json"] += b" " * (20 << 20)
    p = tidemark("list", REPO, check=False)
    equal(p.returncode, 5)
    matches(p.stdout, "Point p0 is damaged: GET of .* the server answered more than it was asked for")
    s.stop()


@test
def damage_is_found(tmp):
    "a byte of an object changed: verify finds the point damaged, restore refuses it"
    s = store()
    kit = BucketKit(tmp, REPO)
    kit.write("disk0", (0, pattern(1, MIB)))
    kit.point("p0")
    kit.d.stop()
    image = bytearray(s.objects["host/one/p0/disk0.qcow2"])
    image[image.index(pattern(1, 100)) + 5] ^= 1
    s.objects["host/one/p0/disk0.qcow2"] = bytes(image)
    equal(tidemark("verify", REPO, check=False).returncode, 5)
    p = tidemark("restore", REPO, "disk0=" + os.path.join(tmp, "out.raw"), check=False)
    equal(p.returncode != 0, True)
    del s.objects["host/one/p0/disk0.hashes"]
    p = tidemark("list", REPO, check=False)
    matches(p.stdout, "disk0.hashes is missing")
    s.stop()


main()
