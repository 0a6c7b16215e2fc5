/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* daemon/cmdline.c: the table of options, from which parsing and --help derive. */
#include "daemon/cmdline.h"

#include "util/error.h"
#include "util/text.h"

#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    char letter; /* 0: none */
    CmdKind kind;
    const char *value; /* NULL: takes none */
    const char *help;  /* lines */
} options[] = {
    { "help", 'h', CMD_HELP, NULL, "print this help and exit" },
    { "version", 'V', CMD_VERSION, NULL, "print the version and exit" },
    { "config", 0, CMD_CONFIG, "FILE",
      "read these options, and dirty bitmaps, from a file, and again on SIGHUP: see "
      "tidemarkd.conf(5)" },
    { "check", 0, CMD_CHECK, NULL,
      "check the options and configuration files, list what is wrong, and exit" },
    { "dump-config", 0, CMD_DUMP_CONFIG, "SOCKET",
      "ask the daemon whose monitor listens on a unix socket, print all that it has as a "
      "configuration file, and exit" },
    { "blockdev", 0, CMD_BLOCKDEV,
      "[driver=]DRIVER,node-name=NAME[,read-only=on|off][,auto-read-only=on|off]\n"
      "[,cache.direct=on|off][,cache.no-flush=on|off][,discard=ignore|unmap]\n"
      "[,detect-zeroes=off|on|unmap][,force-share=on|off][,driver's own...]",
      "open a node; also as JSON: --blockdev '{\"driver\": ...}'" },
    { "object", 0, CMD_OBJECT,
      "secret,id=ID,file=FILE|data=TEXT[,format=raw|base64][,keyid=ID,iv=IV]\n"
      "tls-creds-x509,id=ID,dir=DIR,endpoint=server[,verify-peer=on|off]\n"
      "[,passwordid=ID][,priority=TEXT][,sanity-check=on|off]\n"
      "tls-creds-psk,id=ID,dir=DIR,endpoint=server[,priority=TEXT]\n"
      "authz-simple,id=ID,identity=NAME\n"
      "authz-list,id=ID[,policy=deny|allow][,rules.0.match=NAME,rules.0.policy=allow...]\n"
      "authz-list-file,id=ID,filename=FILE[,refresh=on|off]\n"
      "throttle-group,id=ID[,limits.iops-total=N][,limits.bps-total=N]...\n"
      "iothread,id=ID",
      "create a secret, TLS credentials, an access list, or a group of disks with common limits" },
    { "nbd-server", 0, CMD_NBD_SERVER,
      "addr.type=unix,addr.path=PATH[,addr.mode=OCTAL][,addr.owner=USER]\n"
      "[,addr.group=GROUP][,addr.abstract=on][,...]\n"
      "addr.type=inet,addr.host=HOST,addr.port=PORT[,...]\n"
      "addr.type=vsock,addr.cid=CID,addr.port=PORT[,...]\n"
      "addr.type=fd,addr.str=NUMBER|NAME[,...]\n"
      "[,id=ID][,tls-creds=ID][,tls-authz=ID][,max-connections=N]\n"
      "[,handshake-max-seconds=N][,idle-max-seconds=N]...",
      "start an NBD server" },
    { "export", 0, CMD_EXPORT,
      "[type=]nbd,id=ID,node-name=NODE[,name=NAME][,writable=on|off]\n"
      "[,description=TEXT][,bitmaps.0=BITMAP...][,allocation-depth=on|off]",
      "export a node; --nbd-server must come before it" },
    { "chardev", 0, CMD_CHARDEV,
      "socket,id=ID,path=PATH[,server=on[,wait=off]][,reconnect=SECONDS]\n"
      "[,abstract=on][,mode=OCTAL][,owner=USER][,group=GROUP]\n"
      "socket,id=ID,host=HOST,port=PORT[,server=on][,tls-creds=ID[,tls-authz=ID]]\n"
      "[,to=PORT][,ipv4=on|off][,ipv6=on|off]...\n"
      "socket,id=ID,fd=NUMBER|NAME[,server=on[,wait=off]]\n"
      "file,id=ID,path=FILE[,input-path=FILE][,append=on]\n"
      "stdio|pty|null,id=ID[,logfile=FILE][,logappend=on]",
      "create a channel for a monitor" },
    { "monitor", 0, CMD_MONITOR, "[chardev=]ID[,mode=control][,pretty=on|off]",
      "serve QMP on a channel" },
    { "metrics", 0, CMD_METRICS,
      "addr.type=inet,addr.host=127.0.0.1,addr.port=PORT[,...]\n"
      "addr.type=unix,addr.path=PATH[,...]\n"
      "[,tls-creds=ID,token-secret=ID]",
      "serve metrics for Prometheus, and a page that shows them, over HTTP; other addresses than "
      "these need TLS and a token" },
    { "module", 0, CMD_MODULE, "FILE.so", "load a driver plug-in" },
    { "module-dir", 0, CMD_MODULE_DIR, "DIR",
      "load all plug-ins of a directory (default: " TM_MODULE_DIR ")" },
    { "io-engine", 0, CMD_IO_ENGINE, "auto|io_uring|threads",
      "the engine for I/O that waits for the medium (default: io_uring if the kernel allows it)" },
    { "log-level", 0, CMD_LOG_LEVEL, "[AREA=]error|warning|info|debug[,AREA=LEVEL...]",
      "what is logged, of one area or of all: this level, and what is worse (default: info)" },
    { "trace", 'T', CMD_TRACE, "[[enable=]PATTERN][,events=FILE][,file=FILE]",
      "for compatibility: this daemon has no trace events" },
    { "sandbox", 0, CMD_SANDBOX, "auto|on|off[,files=given|any][,paths.0=PATH...]",
      "restrict what the daemon can do if an attacker takes it over; auto: as far as the kernel "
      "supports it" },
    { "user", 0, CMD_USER, "USER[:GROUP]", "become this user after everything is open" },
    { "daemonize", 0, CMD_DAEMONIZE, NULL, "run in the background after everything is started" },
    { "pidfile", 0, CMD_PIDFILE, "FILE", "write the process ID to a file, and lock it" },
};

/* The option that @text (without dashes, @len bytes) names, abbreviated or not; -1: none, -2:
 * several. */
static int lookup(const char *text, size_t len)
{
    int found = -1;

    for (size_t i = 0; i < G_N_ELEMENTS(options); i++) {
        if (strncmp(options[i].name, text, len))
            continue;
        if (options[i].name[len] == '\0')
            return (int)i;
        found = found == -1 ? (int)i : -2;
    }
    return found;
}

static int lookup_letter(char letter)
{
    for (size_t i = 0; i < G_N_ELEMENTS(options); i++) {
        if (options[i].letter == letter)
            return (int)i;
    }
    return -1;
}

/* Values are not shown: they may be secrets. */
static void refuse(const char *arg, const char *name, bool ambiguous, GError **error)
{
    int length = (int)strcspn(arg, "=");
    g_autofree char *word = g_strndup(name, strcspn(name, "="));
    const char *names[G_N_ELEMENTS(options) + 1] = { NULL }, *near;

    for (size_t i = 0; i < G_N_ELEMENTS(options); i++)
        names[i] = options[i].name;
    near = tm_text_nearest(word, names);
    if (ambiguous || !near)
        tm_error_set(error, "%s option '%.*s': see --help",
                     ambiguous ? "ambiguous" : "unrecognized", length, arg);
    else
        tm_error_set(error, "unrecognized option '%.*s': did you mean '--%s'?", length, arg, near);
}

GArray *cmd_parse(int argc, char **argv, GError **error)
{
    g_autoptr(GArray) list = g_array_new(FALSE, TRUE, sizeof(CmdOption));

    for (int i = 1; i < argc; i++) {
        const char *arg = argv[i], *name = arg, *value = NULL;
        size_t len;
        int which;

        if (arg[0] != '-' || !arg[1]) {
            tm_error_set(error, "%s: Unexpected argument", arg);
            return NULL;
        }
        if (arg[1] != '-' && arg[2] == '\0') {
            which = lookup_letter(arg[1]);
        } else {
            name += arg[1] == '-' ? 2 : 1; /* QEMU's tools take one dash as well as two */
            value = strchr(name, '=');
            len = value ? (size_t)(value - name) : strlen(name);
            which = len ? lookup(name, len) : -1;
            if (value)
                value++;
        }
        if (which < 0) {
            refuse(arg, name, which == -2, error);
            return NULL;
        }
        if (!options[which].value && value) {
            tm_error_set(error, "option '--%s' doesn't allow an argument", options[which].name);
            return NULL;
        }
        if (options[which].value && !value) {
            if (i + 1 == argc) {
                tm_error_set(error, "option '--%s' requires an argument", options[which].name);
                return NULL;
            }
            value = argv[++i];
        }
        g_array_append_vals(list,
                            &(CmdOption){ .kind = options[which].kind,
                                          .name = options[which].name,
                                          .value = value },
                            1);
    }
    return g_steal_pointer(&list);
}

void cmd_print_help(void)
{
    printf(
        "Usage: tidemarkd [options]\n"
        "Serves disk images over NBD, and records in dirty bitmaps what is written. QMP controls "
        "the daemon.\n"
        "\n");
    for (size_t i = 0; i < G_N_ELEMENTS(options); i++) {
        g_auto(GStrv) lines = g_strsplit(options[i].value ? options[i].value : "", "\n", -1);

        if (options[i].letter)
            printf("  -%c, --%s\n", options[i].letter, options[i].name);
        for (size_t k = 0; lines[k]; k++) {
            if (lines[k][0] == '[' && k)
                printf("      %*s %s\n", (int)strlen(options[i].name) + 2, "", lines[k]);
            else
                printf("      --%s %s\n", options[i].name, lines[k]);
        }
        if (!options[i].value && !options[i].letter)
            printf("      --%s\n", options[i].name);
        printf("          %s\n", options[i].help);
    }
    printf("\nOf --blockdev, --object, --nbd-server, --export, --chardev and --monitor the value "
           "'help' "
           "lists\nwhat there is, and 'TYPE,help' the options of a type.\n");
    printf("\nSee tidemarkd(8) for details, and 'tidemark qmp --help' for the QMP commands.\n");
}

void cmd_print_usage(void)
{
    fputs(
        "Usage: tidemarkd [options]\n"
        "To export disk.img over NBD, and control the daemon with 'tidemark':\n"
        "\n"
        "  tidemarkd --blockdev driver=file,node-name=disk0,filename=disk.img \\\n"
        "            --nbd-server addr.type=unix,addr.path=nbd.sock \\\n"
        "            --export type=nbd,id=exp0,node-name=disk0,writable=on \\\n"
        "            --chardev socket,id=c0,path=qmp.sock,server=on,wait=off --monitor chardev=c0\n"
        "\n"
        "'tidemark serve disk.img' does the same for you. 'tidemarkd --help' lists the options.\n",
        stderr);
}
