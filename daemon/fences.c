/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* daemon/fences.c: Landlock, seccomp and identities; see the header. */
#include "daemon/fences.h"

#include "util/error.h"
#include "util/identity.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/landlock.h>
#include <sched.h>
#include <seccomp.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* ---- files */

/* Newer than Debian 12's headers: Landlock ABI 3 and 5. */
#define ACCESS_TRUNCATE  (1ULL << 14)
#define ACCESS_IOCTL_DEV (1ULL << 15)

/* Nothing of the daemon's needs these anywhere. */
#define NEVER                                                                                      \
    (LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_MAKE_CHAR | LANDLOCK_ACCESS_FS_MAKE_BLOCK |   \
     LANDLOCK_ACCESS_FS_MAKE_DIR | LANDLOCK_ACCESS_FS_REMOVE_DIR | LANDLOCK_ACCESS_FS_MAKE_SYM |   \
     LANDLOCK_ACCESS_FS_MAKE_FIFO)
#define READ_FILE (LANDLOCK_ACCESS_FS_READ_FILE | ACCESS_IOCTL_DEV)
#define USE_FILE  (READ_FILE | LANDLOCK_ACCESS_FS_WRITE_FILE | ACCESS_TRUNCATE)
#define USE_DIR                                                                                    \
    (LANDLOCK_ACCESS_FS_READ_DIR | LANDLOCK_ACCESS_FS_MAKE_REG | LANDLOCK_ACCESS_FS_MAKE_SOCK |    \
     LANDLOCK_ACCESS_FS_REMOVE_FILE)

int landlock_version(void)
{
    long version = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);

    return version < 0 ? 0 : (int)version;
}

/* What a kernel of that version can handle. */
static uint64_t known(int version)
{
    return ~UINT64_C(0) & ~(version < 3 ? ACCESS_TRUNCATE : 0) &
           ~(version < 5 ? ACCESS_IOCTL_DEV : 0);
}

static int allow(int ruleset, const char *path, uint64_t handled)
{
    bool reading = g_str_has_prefix(path, "r:");
    struct landlock_path_beneath_attr rule = {
        .parent_fd = open(reading ? path + 2 : path, O_PATH | O_CLOEXEC),
    };
    struct stat st;
    int err = 0;

    if (rule.parent_fd < 0)
        return errno == ENOENT || errno == ENOTDIR || errno == EACCES ? 0 : -errno;
    rule.allowed_access = reading ? READ_FILE : USE_FILE;
    if (fstat(rule.parent_fd, &st) == 0 && S_ISDIR(st.st_mode))
        rule.allowed_access |= reading ? LANDLOCK_ACCESS_FS_READ_DIR : USE_DIR;
    rule.allowed_access &= handled;
    if (syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) < 0)
        err = -errno;
    close(rule.parent_fd);
    return err;
}

int landlock_restrict(int version, char *const *paths)
{
    struct landlock_ruleset_attr attr = {
        .handled_access_fs = (NEVER | (paths ? USE_FILE | USE_DIR : 0)) & known(version),
    };
    int ruleset = (int)syscall(SYS_landlock_create_ruleset, &attr, sizeof(attr), 0), err = 0;

    if (ruleset < 0)
        return -errno;
    for (size_t i = 0; paths && paths[i] && !err; i++)
        err = allow(ruleset, paths[i], attr.handled_access_fs);
    if (!err && (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
                 syscall(SYS_landlock_restrict_self, ruleset, 0) < 0))
        err = -errno;
    close(ruleset);
    return err;
}

/* ---- calls */

/* What no storage daemon does. (clone for processes has a rule of its own.) */
static const char *const forbidden[] = {
    /* programs, other processes */
    "execve", "execveat", "fork", "vfork", "ptrace", "process_vm_readv", "process_vm_writev",
    "pidfd_getfd", "kcmp",
    /* the tree of files */
    "mount", "umount2", "pivot_root", "chroot", "move_mount", "open_tree", "fsopen", "fsconfig",
    "fsmount", "fspick", "mount_setattr", "setns", "unshare", "swapon", "swapoff", "quotactl",
    "open_by_handle_at", "name_to_handle_at", "mknod", "mknodat",
    /* the kernel */
    "init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load", "reboot",
    "bpf", "perf_event_open", "userfaultfd", "iopl", "ioperm", "modify_ldt", "lookup_dcookie",
    "acct", "syslog", "settimeofday", "clock_settime", "clock_adjtime", "adjtimex", "personality",
    "sethostname", "setdomainname", "vhangup", "add_key", "request_key", "keyctl",
    /* identities */
    "setuid", "setgid", "setreuid", "setregid", "setresuid", "setresgid", "setgroups", "setfsuid",
    "setfsgid", "capset"
};

/* A call that this library or architecture does not know needs no rule. */
static int forbid(scmp_filter_ctx filter, const char *name)
{
    int call = seccomp_syscall_resolve_name(name);

    return call == __NR_SCMP_ERROR ? 0 : seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), call, 0);
}

static int fill(scmp_filter_ctx filter, bool connects)
{
    int err = 0;

    for (size_t i = 0; i < G_N_ELEMENTS(forbidden) && !err; i++)
        err = forbid(filter, forbidden[i]);
    if (!err && !connects)
        err = forbid(filter, "connect");
    /* Threads may be made, processes not; clone3's flags are out of a filter's sight, and the C
     * library falls back to clone. */
    if (!err)
        err = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(clone), 1,
                               SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD, 0));
    if (!err)
        err = seccomp_rule_add(filter, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
    if (!err)
        err = seccomp_attr_set(filter, SCMP_FLTATR_CTL_TSYNC, 1);
    /* The filter itself needs no mitigation of the processor's speculation. */
    if (!err)
        seccomp_attr_set(filter, SCMP_FLTATR_CTL_SSB, 1);
    return err;
}

int seccomp_restrict(bool connects)
{
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ALLOW);
    int err;

    if (!filter)
        return -ENOMEM;
    err = fill(filter, connects);
    if (!err)
        err = seccomp_load(filter);
    seccomp_release(filter);
    return err;
}

/* ---- identities */

bool identity_drop(const char *who, GError **error)
{
    g_auto(GStrv) parts = g_strsplit(who, ":", 2);
    uid_t uid = 0;
    gid_t gid = 0;
    int dumpable;

    if (!tm_identity_find(who, &uid, &gid, error))
        return false;
    /* A number may be nobody's: then it has no further groups. */
    if (!parts[0][strspn(parts[0], "0123456789")] || parts[1] ? setgroups(0, NULL)
                                                              : initgroups(parts[0], gid))
        return tm_error_set_errno(error, errno, "cannot set the groups");
    dumpable = prctl(PR_GET_DUMPABLE, 0, 0, 0, 0);
    if (setresgid(gid, gid, gid) < 0 || setresuid(uid, uid, uid) < 0)
        return tm_error_set_errno(error, errno, "cannot become user %u, group %u", uid, gid);
    /* The kernel sets it anew (fs.suid_dumpable), but secrets may be loaded (util/secret.h). */
    if (!dumpable)
        prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    return true;
}
