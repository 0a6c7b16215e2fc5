/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/image/image.h: image files without a daemon: opened in this process, through the block
 * layer and with its locks.
 *
 * An image may name others: a backing file, a file for its data. Such a name is followed as far as
 * the caller allows it (names), relative to the image that has it, with the format that is recorded
 * beside it; nothing is probed for. What is not a plain file name is opened as block/described.h
 * says if the caller allows any name.
 *
 * Threads: main. */
#pragma once
#include "block/graph.h"
#include "util/error.h"
#include "util/sys.h"

/* What an image says of others, read without opening it; all owned, NULL if it says nothing. */
typedef struct TcImageNames {
    char *backing, *backing_format, *data_file;
} TcImageNames;

/* Which format @path has: "qcow2" if it begins so, else "raw", unless it begins as a format does
 * that is not supported. Borrowed, static; NULL: that, or it can't be read. */
const char *tc_image_probe(const char *path, GError **error);
/* That @path is no "json:..." and no URI of NBD, which are names of images for qemu-img. */
bool tc_image_check_path(const char *path, GError **error);
/* Whether both paths are the same file. */
bool tc_image_same(const char *a, const char *b);
/* What an image of @format names; of raw ones nothing. */
bool tc_image_names(const char *path, const char *format, TcImageNames *names, GError **error);
/* The same of a qcow2 image that is open as @fd; @path is for messages. */
bool tc_image_names_of(int fd, const char *path, TcImageNames *names, GError **error);
/* The same of one that @node shows. */
bool tc_image_names_through(BlkNode *node, const char *path, TcImageNames *names, GError **error);
void tc_image_names_clear(TcImageNames *names);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(TcImageNames, tc_image_names_clear)
/* The path that @name is, as the image at @path means it, where @names allow it ("directory" or
 * "any", block/named.h). Returned; NULL: it is no file name, or elsewhere. */
char *tc_image_path(const char *path, const char *name, const char *names, GError **error);

/* One image of a chain. */
typedef struct TcLayer {
    char *path, *format;
    json_object *definition; /* of the node, where the name of it is no path but describes it
                              * (block/described.h), and @path is the name; or NULL */
    TcImageNames names;
} TcLayer;

/* The images from @path down, the topmost first: TcLayer, returned (g_ptr_array_unref). @format
 * NULL: probed. @names as tc_image_path(); "none" or NULL: only the first one. */
GPtrArray *tc_image_layers(const char *path, const char *format, const char *names, GError **error);
/* The one image that @name, which is no path, describes (block/described.h). As above. */
GPtrArray *tc_image_layers_described(const char *name, const char *format, GError **error);

typedef struct TcImageOptions {
    const char *format; /* NULL: probed */
    bool writable;
    bool force_share;   /* put up with writers */
    bool chain;         /* open the backing files, too */
    const char *names;  /* which names in images are followed (block/named.h); NULL: none */
    bool bitmaps;       /* and the bitmaps that are stored for it */
    GPtrArray *reports; /* borrowed; what is wrong with these goes there (char *), not to the log */
} TcImageOptions;

typedef struct TcImage {
    GPtrArray *layers; /* TcLayer, the topmost first */
    BlkNode *node;     /* borrowed: the topmost */
    BlkRegistry *registry;
    BlkEngine *engine;
    BlkGraph *graph;
    TmLog *log;
    GPtrArray *users; /* BlkUser, of each image that was opened by name */
    const TmSys *sys; /* borrowed; set before tc_image_begin(); NULL: the kernel's */
} TcImage;

/* On failure there is nothing to clear. */
bool tc_image_open(const char *path, const TcImageOptions *options, TcImage *image, GError **error);
/* One more image in the same graph, as a source; borrowed. */
BlkNode *tc_image_add(TcImage *image, const char *path, const TcImageOptions *options,
                      GError **error);
/* The bytes of what @layer is in: its file, or what its definition says. Borrowed. */
BlkNode *tc_image_add_bytes(TcImage *image, const TcLayer *layer, const TcImageOptions *options,
                            GError **error);
/* The same of layers that are known. */
bool tc_image_add_layers(TcImage *image, GPtrArray *layers, const TcImageOptions *options,
                         BlkNode **node, GError **error);
/* That nobody writes to a format whose tables are not all on the medium then, unless @options put
 * up with it. Opening it as that format checks it, too. */
bool tc_image_check_written(const TcLayer *layer, const TcImageOptions *options, GError **error);
/* Neither layers nor node: for what makes images. */
bool tc_image_begin(TcImage *image, GError **error);
/* Flushes and closes. false: something that was written may not last. */
bool tc_image_finish(TcImage *image, GError **error);
void tc_image_clear(TcImage *image); /* the same, where nothing was written, or it failed anyway */
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(TcImage, tc_image_clear)
/* Of the topmost. */
const TcLayer *tc_image_layer(const TcImage *image);
