# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: GPL-2.0-or-later
# A thin front door: meson and ninja do the building. `make help` lists what there is to ask for.

SRCDIR := $(patsubst %/,%,$(dir $(lastword $(MAKEFILE_LIST))))
BUILD := build
PYTHON := /usr/bin/python3
-include config.mk

NINJA = ninja -C $(BUILD) $(if $(V),-v)
SETUP = $(SRCDIR)/scripts/setup
SUITES =
JOBS =
RUN_TESTS = $(PYTHON) $(SRCDIR)/tests/run-tests --build $(BUILD) $(if $(JOBS),-j $(JOBS))
SOURCES = $(filter-out $(SRCDIR)/build%,$(wildcard $(addprefix $(SRCDIR)/,*/*.[ch] */*/*.[ch] */*/*/*.[ch])))

.PHONY: all programs check check-clients check-vm check-ops docs demo bench crash mutants fuzz stress soak trixie deb dist sbom abi-check install uninstall clean distclean format tidy help

all: $(BUILD)/build.ninja
	@$(NINJA)

# What is installed, without the tests.
programs: $(BUILD)/build.ninja
	@$(NINJA) programs

# configure writes it; who didn't run configure gets the defaults.
$(BUILD)/build.ninja:
	@$(SETUP) build
	@$(SRCDIR)/configure --quiet

check:
	@$(SETUP) build test
	@$(MAKE) --no-print-directory all
	@$(RUN_TESTS) $(if $(SUITES),--suite "$(SUITES)") $(TESTS)

check-%:
	@$(MAKE) --no-print-directory check SUITES=$*

# A guest on a disk of ours, see docs/hacking.md. What is missing and can't be installed is the reason of a skip.
check-vm:
	@$(SETUP) build
	@$(SETUP) vm || :
	@$(MAKE) --no-print-directory programs
	@$(RUN_TESTS) --suite vm --follow $(TESTS)

# Clients that others wrote: those that can be installed are, and what is missing is the reason of a skip.
check-clients:
	@$(SETUP) build test
	@$(SETUP) clients || :
	@$(MAKE) --no-print-directory programs
	@$(RUN_TESTS) --suite clients $(TESTS)

# What operators have around it: units of systemd in a container that boots. What is missing and can't be installed is the
# reason of a skip.
check-ops:
	@$(SETUP) build test
	@$(SETUP) ops || :
	@$(SRCDIR)/scripts/ops-root || :
	@$(MAKE) --no-print-directory programs
	@$(RUN_TESTS) --suite ops $(TESTS)

# Writes what the documentation has from the program's tables; tests/unit/check_lists compares.
docs:
	@$(NINJA) docs/describe
	@$(PYTHON) $(SRCDIR)/tests/unit/check_lists --write $(BUILD)

# TOUR=docs/tour.md writes that page, too.
demo:
	@$(SETUP) build demo
	@$(MAKE) --no-print-directory programs
	@$(PYTHON) $(SRCDIR)/scripts/demo --build $(BUILD) $(if $(TOUR),--tour $(TOUR))

bench:
	@$(SETUP) build test bench
	@$(MAKE) --no-print-directory all
	@$(PYTHON) $(SRCDIR)/bench/run --build $(BUILD) $(BENCH_ARGS)

# FUZZ_SECONDS for each fuzzer; STRESS_SECONDS and STRESS_SEED for the model.
fuzz:
	@$(SETUP) build test ci
	@$(SRCDIR)/scripts/fuzz build-fuzz

stress:
	@$(SETUP) build test
	@$(MAKE) --no-print-directory all
	@STRESS_SECONDS=$${STRESS_SECONDS:-120} TEST_TIMEOUT_MULTIPLIER=10 $(RUN_TESTS) --suite stress

# CRASH_SECONDS of states that a power loss may leave, CRASH_KILLS daemons killed under load, and CRASH_CUTS of
# the power of each file system; all begin with CRASH_SEED, or at random.
crash:
	@$(SETUP) build test
	@$(MAKE) --no-print-directory all
	@CRASH_SECONDS=$${CRASH_SECONDS:-300} CRASH_KILLS=$${CRASH_KILLS:-200} \
		CRASH_CUTS=$${CRASH_CUTS:-34} TEST_TIMEOUT_MULTIPLIER=20 $(RUN_TESTS) --suite crash

# Changes that break a promise, one at a time in a copy of the tree: which of them no test notices. MUTANTS: parts
# of their names.
mutants:
	@$(SETUP) build test
	@$(PYTHON) $(SRCDIR)/tests/mutants/run $(MUTANTS)

# SOAK_SECONDS with SOAK_CONNECTIONS connections; SOAK_SEED.
soak:
	@$(SETUP) build test
	@$(MAKE) --no-print-directory all
	@SOAK_SECONDS=$${SOAK_SECONDS:-120} SOAK_CONNECTIONS=$${SOAK_CONNECTIONS:-1000} \
		TEST_TIMEOUT_MULTIPLIER=20 $(RUN_TESTS) --suite soak

# Debian packages in build-deb; what lintian and blhc say of them is in check-ops.
deb:
	@$(SETUP) build ops
	@$(SRCDIR)/scripts/deb

# The tarball of the last commit, in build-dist.
dist:
	@$(SRCDIR)/scripts/dist

# What the build is made of (SPDX), in build-dist.
sbom: $(BUILD)/build.ninja
	@mkdir -p $(SRCDIR)/build-dist
	@out=$(SRCDIR)/build-dist/tidemark-$$($(SRCDIR)/scripts/version).spdx.json; \
		$(PYTHON) $(SRCDIR)/scripts/sbom --build $(BUILD) --output $$out && echo $$out

# Whether plug-ins that were compiled for the last release still work; ABI_WITH=REVISION compares with that one.
abi-check:
	@$(SRCDIR)/scripts/abi-check $(ABI_WITH)

install: programs
	@DESTDIR="$(abspath $(DESTDIR))" meson install -C $(BUILD) --no-rebuild

uninstall:
	@$(NINJA) uninstall

clean:
	@if [ -e $(BUILD)/build.ninja ]; then $(NINJA) clean; fi

distclean:
	rm -rf $(BUILD) config.mk

format:
	clang-format -i $(or $(FILES),$(SOURCES))

tidy: all
	run-clang-tidy -quiet -p $(BUILD) $(filter %.c,$(or $(FILES),$(SOURCES)))

# The newer peers of Debian 13; these tests and make bench use them where they are.
trixie:
	@$(SRCDIR)/scripts/trixie build-trixie
	@$(MAKE) --no-print-directory check TESTS="$(SRCDIR)/tests/interop/test_trixie.py \
		$(SRCDIR)/tests/interop/test_backup_qemu.py"

help:
	@echo 'make            build (after ./configure, or with its defaults)'
	@echo 'make check      set up what is missing, build, run all tests;'
	@echo '                SUITES="unit func" or TESTS=tests/func/x.py chooses; make check-SUITE'
	@echo 'make check-clients  install and run clients that others wrote: libvirt, guestfish and more (root once)'
	@echo 'make check-vm   set up QEMU and a kernel, back up a running guest, boot each backup (root once)'
	@echo 'make check-ops  boot the units of systemd in a container (root)'
	@echo 'make demo       set up what is missing, build, show an incremental backup; TOUR=FILE writes it down'
	@echo 'make stress     the model test for longer (STRESS_SECONDS); make fuzz: ten minutes (FUZZ_SECONDS each)'
	@echo 'make crash      power losses and kills for longer (CRASH_SECONDS, CRASH_KILLS, CRASH_CUTS, CRASH_SEED)'
	@echo 'make mutants    break the program in known ways and see that tests notice (MUTANTS: part of a name)'
	@echo 'make soak       1,000 connections for two minutes (SOAK_SECONDS, SOAK_CONNECTIONS, SOAK_SEED)'
	@echo 'make trixie     QEMU 10 and libnbd 1.22 in build-trixie, and the tests with them (root)'
	@echo 'make bench      compare with the peers; BENCH_ARGS=--help'
	@echo 'make dist       the tarball of the last commit, and make sbom: its list in SPDX, both in build-dist'
	@echo 'make deb        Debian packages in build-deb; make abi-check: the ABI of drivers and the last release'
	@echo 'make install    DESTDIR=DIR is honoured; make uninstall'
	@echo 'make format | tidy        of all sources, or of FILES="a.c b.c"'
	@echo 'make clean | distclean    V=1 shows the commands'
