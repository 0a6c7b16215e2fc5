/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/fuzz/replay.c: a fuzzer's entry point on the files that are named, without libFuzzer; it
 * says each name before it reads it, so that a crash has one. */
#include <glib.h>
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        g_autoptr(GError) error = NULL;
        g_autofree char *data = NULL;
        gsize size;

        printf("%s\n", argv[i]);
        fflush(stdout);
        if (!g_file_get_contents(argv[i], &data, &size, &error)) {
            fprintf(stderr, "%s\n", error->message);
            return 1;
        }
        LLVMFuzzerTestOneInput((const uint8_t *)data, size);
    }
    _exit(0); /* what a fuzzer sets up once stays */
}
