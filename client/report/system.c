/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/report/system.c: what /proc, /sys and the like say of the machine and of the daemon. */
#include "client/report/gather.h"

#include <string.h>
#include <sys/utsname.h>

#define LINES_MAX   200u
#define THREADS_MAX 256u

json_object *tc_report_error(const char *message)
{
    return tc_json_new("error", message, NULL);
}

/* The lines of a text file, an array, or why it can't be read. Takes @path. */
static json_object *lines_of(char *path)
{
    g_autofree char *text = NULL;
    g_autoptr(GError) error = NULL;
    g_auto(GStrv) lines = NULL;
    json_object *array;

    g_file_get_contents(path, &text, NULL, &error);
    g_free(path);
    if (!text)
        return tc_report_error(error->message);
    lines = g_strsplit(g_strchomp(text), "\n", -1);
    array = json_object_new_array();
    for (guint i = 0; lines[i] && i < LINES_MAX; i++)
        json_object_array_add(array, json_object_new_string(lines[i]));
    return array;
}

/* The lines of a file that begin with one of @keys, which end in NULL, or all of it. */
static json_object *some_lines(char *path, const char *const *keys)
{
    json_object *all = lines_of(path), *some;

    if (!json_object_is_type(all, json_type_array))
        return all;
    some = json_object_new_array();
    for (size_t i = 0; i < json_object_array_length(all); i++) {
        json_object *line = json_object_array_get_idx(all, i);

        for (unsigned k = 0; keys[k]; k++) {
            if (g_str_has_prefix(json_object_get_string(line), keys[k]))
                json_object_array_add(some, json_object_get(line));
        }
    }
    json_object_put(all);
    return some;
}

json_object *tc_report_system(void)
{
    static const char *const memory[] = { "MemTotal:", "MemAvailable:", "SwapTotal:", "SwapFree:",
                                          "Dirty:",    "Writeback:",    NULL };
    static const char *const os[] = { "PRETTY_NAME=", "VERSION_ID=", "ID=", NULL };
    static const char *const settings[] = { "kernel/io_uring_disabled", "fs/aio-max-nr",
                                            "vm/dirty_ratio", "vm/dirty_background_ratio",
                                            "vm/overcommit_memory" };
    json_object *system = json_object_new_object(), *sysctl = json_object_new_object();
    struct utsname u = { 0 };

    if (uname(&u) == 0)
        json_object_object_add(
            system, "kernel",
            tc_json_new("release", u.release, "version", u.version, "machine", u.machine, NULL));
    json_object_object_add(system, "os", some_lines(g_strdup("/etc/os-release"), os));
    json_object_object_add(system, "processors",
                           json_object_new_int((int32_t)g_get_num_processors()));
    json_object_object_add(system, "memory", some_lines(g_strdup("/proc/meminfo"), memory));
    json_object_object_add(system, "load", lines_of(g_strdup("/proc/loadavg")));
    json_object_object_add(system, "uptime", lines_of(g_strdup("/proc/uptime")));
    for (unsigned i = 0; i < G_N_ELEMENTS(settings); i++) {
        char *path = g_build_filename("/proc/sys", settings[i], NULL);

        if (g_file_test(path, G_FILE_TEST_EXISTS))
            json_object_object_add(sysctl, settings[i], lines_of(path));
        else
            g_free(path);
    }
    json_object_object_add(system, "settings", sysctl);
    return system;
}

/* ---- a process */

static char *of_process(pid_t pid, const char *name)
{
    return g_strdup_printf("/proc/%ld/%s", (long)pid, name);
}

json_object *tc_report_libraries(pid_t pid)
{
    g_autofree char *path = of_process(pid, "maps"), *text = NULL;
    g_autoptr(GError) error = NULL;
    g_autoptr(GHashTable) seen = g_hash_table_new(g_str_hash, g_str_equal);
    g_auto(GStrv) lines = NULL;
    json_object *array;

    if (!g_file_get_contents(path, &text, NULL, &error))
        return tc_report_error(error->message);
    lines = g_strsplit(text, "\n", -1);
    array = json_object_new_array();
    for (guint i = 0; lines[i]; i++) {
        const char *file = strchr(lines[i], '/');

        if (file && strstr(file, ".so") && g_hash_table_add(seen, (void *)file))
            json_object_array_add(array, json_object_new_string(file));
    }
    return array;
}

static json_object *arguments_of(pid_t pid, TcRedactor *redactor)
{
    g_autofree char *path = of_process(pid, "cmdline"), *text = NULL;
    g_autoptr(GPtrArray) argv = g_ptr_array_new();
    g_autoptr(GError) error = NULL;
    gsize length = 0;

    if (!g_file_get_contents(path, &text, &length, &error))
        return tc_report_error(error->message);
    for (char *at = text; at < text + length; at += strlen(at) + 1)
        g_ptr_array_add(argv, at);
    g_ptr_array_add(argv, NULL);
    return tc_redact_arguments(redactor, (const char *const *)argv->pdata);
}

/* Of each thread "NAME STATE WHERE", which is what a daemon that hangs waits for. */
static json_object *threads_of(pid_t pid)
{
    g_autofree char *path = g_strdup_printf("/proc/%ld/task", (long)pid);
    g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
    json_object *array = json_object_new_array();
    const char *id;

    while (dir && (id = g_dir_read_name(dir)) && json_object_array_length(array) < THREADS_MAX) {
        g_autofree char *stat_path = g_build_filename(path, id, "stat", NULL), *stat = NULL;
        g_autofree char *wait_path = g_build_filename(path, id, "wchan", NULL), *wait = NULL;
        g_autofree char *line = NULL;
        char *name, *state;

        if (!g_file_get_contents(stat_path, &stat, NULL, NULL))
            continue; /* it has ended */
        g_file_get_contents(wait_path, &wait, NULL, NULL);
        name = strchr(stat, '(');
        state = strrchr(stat, ')');
        if (!name || !state || state < name || strlen(state) < 3)
            continue;
        *state = '\0';
        line = g_strdup_printf("%s %c %s", name + 1, state[2],
                               wait && *wait && strcmp(wait, "0") ? wait : "-");
        json_object_array_add(array, json_object_new_string(line));
    }
    return array;
}

/* Version 2: "0::/PATH". */
static json_object *cgroup_of(pid_t pid)
{
    static const char *const files[] = { "memory.current", "memory.peak",   "memory.high",
                                         "memory.max",     "memory.events", "pids.max",
                                         "cpu.max",        "io.max" };
    g_autofree char *path = of_process(pid, "cgroup"), *text = NULL;
    json_object *cgroup = json_object_new_object();
    const char *name;

    if (!g_file_get_contents(path, &text, NULL, NULL))
        return cgroup;
    json_object_object_add(cgroup, "names", lines_of(g_steal_pointer(&path)));
    name = g_str_has_prefix(text, "0::/") ? g_strchomp(text) + strlen("0::") : NULL;
    for (unsigned i = 0; name && i < G_N_ELEMENTS(files); i++) {
        char *file = g_build_filename("/sys/fs/cgroup", name, files[i], NULL);

        if (g_file_test(file, G_FILE_TEST_EXISTS))
            json_object_object_add(cgroup, files[i], lines_of(file));
        else
            g_free(file);
    }
    return cgroup;
}

json_object *tc_report_process(pid_t pid, TcRedactor *redactor)
{
    static const char *const status[] = {
        "Name:",   "State:",      "Uid:",     "Gid:",     "VmPeak:",     "VmSize:",
        "VmLck:",  "VmHWM:",      "VmRSS:",   "RssAnon:", "VmSwap:",     "Threads:",
        "CapEff:", "NoNewPrivs:", "Seccomp:", "FDSize:",  "CoreDumping", "Cpus_allowed_list:",
        NULL
    };
    g_autofree char *exe_path = of_process(pid, "exe");
    g_autofree char *exe = g_file_read_link(exe_path, NULL);
    json_object *process = json_object_new_object();

    json_object_object_add(process, "pid", json_object_new_int64(pid));
    json_object_object_add(process, "arguments", arguments_of(pid, redactor));
    if (exe)
        json_object_object_add(process, "program", json_object_new_string(exe));
    json_object_object_add(process, "libraries", tc_report_libraries(pid));
    json_object_object_add(process, "status", some_lines(of_process(pid, "status"), status));
    json_object_object_add(process, "limits", lines_of(of_process(pid, "limits")));
    json_object_object_add(process, "threads", threads_of(pid));
    json_object_object_add(process, "cgroup", cgroup_of(pid));
    return process;
}
