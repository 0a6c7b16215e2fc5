#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
# timeout: 1800
"""The Debian packages of this tree: what lintian and blhc say, that they install and serve a disk, and that a second
build gives the same; and the ABI of drivers. It takes two to ten minutes."""
import atexit
import glob
import hashlib

from harness import *
from machine import Machine, needs_container

BUILD_TIME = 20 * PATIENCE
NAMES = ["tidemark", "tidemark-daemon", "tidemark-dev", "tidemark-doc"]
_built = []


def built():
    """The directory of the packages, which are built for the first case that needs them."""
    if not _built:
        _built.append(tempfile.mkdtemp(prefix="deb"))
        atexit.register(shutil.rmtree, _built[0], ignore_errors=True)
        build(_built[0])
    return _built[0]


def build(out):
    for command in ("dpkg-buildpackage", "dh", "fakeroot"):
        if not have(command):
            skip("%s is not installed" % command)
    run(os.path.join(SRCDIR, "scripts", "deb"), out, timeout=BUILD_TIME)


def packages(out):
    """Paths by the names of packages, without those of debugging symbols."""
    return {os.path.basename(path).partition("_")[0]: path for path in glob.glob(out + "/*.deb") if "-dbgsym_" not in path}


@test
def four():
    "the packages are those that packaging/debian names, and have what belongs into them"
    found = packages(built())
    equal(sorted(found), NAMES)
    for name, path in (("tidemark", "./usr/bin/tidemark"), ("tidemark-daemon", "./usr/bin/tidemarkd"),
                       ("tidemark-daemon", "./lib/systemd/system/tidemarkd@.service"),
                       ("tidemark-daemon", "./usr/lib/sysusers.d/tidemark.conf"),
                       ("tidemark-dev", "./usr/include/tidemark/driver.h"),
                       ("tidemark-doc", "./usr/share/doc/tidemark/docs/service.md")):
        if path not in run("dpkg-deb", "--contents", found[name]).stdout.split():
            fail("%s lacks %s" % (name, path))


@test(needs=["lintian"])
def lint():
    "lintian has no errors and no warnings"
    changes = glob.glob(built() + "/*.changes")
    done = run("lintian", "--no-cfg", "--allow-root", "--fail-on", "error,warning", *changes, check=False,
               timeout=BUILD_TIME)
    if done.returncode:
        fail(done.stdout + done.stderr)


@test(needs=["blhc", "readelf"])
def hardened(tmp):
    "every compilation has Debian's flags for hardening; position-independent is what the compiler makes by itself"
    done = run("blhc", "--bindnow", "--line-numbers", os.path.join(built(), "build.log"), check=False)
    if done.returncode:
        fail(done.stdout[:3000])
    run("dpkg-deb", "--extract", packages(built())["tidemark-daemon"], tmp)
    matches(run("readelf", "--file-header", tmp + "/usr/bin/tidemarkd").stdout, r"Type: +DYN \(Position-Independent")


@test
def installed(tmp):
    "the packages install on a Debian that boots, and their test serves, backs up and restores a disk"
    needs_container()
    out = built()
    with Machine(tmp, "--bind-ro=%s:/packages" % out,
                 "--bind-ro=%s:/tests" % os.path.join(SRCDIR, "packaging", "debian", "tests")) as m:
        m.run("sh", "-c", "dpkg --install $(ls /packages/*.deb | grep -v dbgsym)")
        equal(m.run("stat", "-c", "%U %a", "/run/tidemark").stdout, "tidemark 750\n")
        equal(m.systemctl("is-enabled", "tidemarkd.service", check=False).strip(), "disabled")
        matches(m.run("/tests/serve").stdout, "served, backed up and restored")
        m.run("dpkg", "--purge", *NAMES)


@test
def again(tmp):
    "a second build, in another directory, gives the same packages"
    first = built()
    other = os.path.join(tmp, "a", "second", "place")
    build(other)
    for name, path in packages(first).items():
        same = packages(other)[name]
        hashes = [hashlib.sha256(open(p, "rb").read()).hexdigest() for p in (path, same)]
        if hashes[0] != hashes[1]:
            fail("%s differs; diffoscope %s %s says where" % (name, path, same))


@test(needs=["git", "xz", "meson"])
def tarball(tmp):
    "the tarball of a commit is always the same, has its version, and can be built"
    if not os.path.exists(os.path.join(SRCDIR, ".git")):
        skip("this is no git repository")
    paths = []
    for name in ("a", "b"):
        run(os.path.join(SRCDIR, "scripts", "dist"), os.path.join(tmp, name))
        paths += glob.glob(os.path.join(tmp, name, "*.tar.xz"))
    equal(open(paths[0], "rb").read(), open(paths[1], "rb").read())
    run("sha256sum", "--check", *glob.glob(tmp + "/a/*.sha256"), cwd=os.path.join(tmp, "a"))
    run("tar", "-xf", paths[0], "-C", tmp)
    tree = paths[0].replace("/a/", "/")[:-len(".tar.xz")]
    version = run(os.path.join(SRCDIR, "scripts", "version")).stdout.strip()
    equal(run(os.path.join(tree, "scripts", "version")).stdout.strip(), version)
    run(os.path.join(tree, "configure"), "--quiet", "--disable-tests", cwd=tree)
    run("ninja", "-C", os.path.join(tree, "build"), "programs", timeout=BUILD_TIME)
    equal(run(os.path.join(tree, "build", "daemon", "tidemarkd"), "--version").stdout, "tidemarkd version %s\n" % version)


@test(needs=["git", "meson"])
def bill_of_materials(tmp):
    "the SBOM names every file with its licence, and the libraries with their versions; it is the same again"
    texts = []
    for _ in range(2):
        texts.append(run(os.path.join(SRCDIR, "scripts", "sbom"), "--build", BUILDDIR).stdout)
    equal(texts[0], texts[1])
    sbom = json.loads(texts[0])
    equal((sbom["spdxVersion"], sbom["dataLicense"]), ("SPDX-2.3", "CC0-1.0"))
    files = {f["fileName"]: f for f in sbom["files"]}
    equal(files["./include/tidemark/driver.h"]["licenseConcluded"], "0BSD")
    equal(files["./daemon/main.c"]["licenseConcluded"], "GPL-2.0-or-later")
    with open(os.path.join(SRCDIR, "daemon", "main.c"), "rb") as f:
        equal(files["./daemon/main.c"]["checksums"][1]["checksumValue"], hashlib.sha256(f.read()).hexdigest())
    libraries = {p["name"]: p["versionInfo"] for p in sbom["packages"][1:]}
    equal(libraries["glib-2.0"], run("pkg-config", "--modversion", "glib-2.0").stdout.strip())
    ids = [e["SPDXID"] for e in sbom["packages"] + sbom["files"]] + ["SPDXRef-DOCUMENT"]
    equal(len(ids), len(set(ids)))
    for relation in sbom["relationships"]:
        if relation["spdxElementId"] not in ids or relation["relatedSpdxElement"] not in ids:
            fail("%s refers to nothing" % relation)


@test(needs=["abidiff", "git"])
def abi():
    "plug-ins that were compiled for the last release work, or are refused"
    script = os.path.join(SRCDIR, "scripts", "abi-check")
    said = run(script).stdout
    matches(run(script, "HEAD").stdout, "the ABI is that of HEAD|TIDEMARK_ABI went from")
    if "no release" in said:
        skip("there is no release yet")


main()
