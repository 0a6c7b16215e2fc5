/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * How often a test repeats what it draws at random: a quarter under a sanitizer, which is there
 * for what a round does, not for how many values it meets. STRIDE: in how large steps it goes
 * through all values that there are. */

#ifndef TESTS_ROUNDS_H
#define TESTS_ROUNDS_H

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif

#ifdef SANITIZED
#define ROUNDS(n) ((n) / 4)
#define STRIDE    5u
#else
#define ROUNDS(n) (n)
#define STRIDE    1u
#endif

#endif
