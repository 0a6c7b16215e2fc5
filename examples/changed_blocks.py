#!/usr/bin/python3
# SPDX-FileCopyrightText: 2026 The Tidemark authors
# SPDX-License-Identifier: 0BSD
"""The answers of Kubernetes' SnapshotMetadata service from `tidemark map --runs`, as lines of JSON.

    changed_blocks.py [--starting-offset N] [--max-results N] -- nbd+unix:///disk0?socket=nbd.sock --bitmap monday
    changed_blocks.py [--starting-offset N] [--max-results N] -- --points /srv/backups --disk disk0 --at P2 --since P1

Each line is a message of the stream: GetMetadataAllocated if nothing says what it is compared with, else
GetMetadataDelta. A driver's gRPC server sends the same members (schema.proto of kubernetes-csi's
external-snapshot-metadata). A client whose stream broke asks again from the end of the last block that it got."""
import argparse
import json
import os
import subprocess

TIDEMARK = os.environ.get("TIDEMARK", "tidemark")
MAX_RESULTS = 256  # of a message, if the client leaves it to us


def page(source, offset, limit):
    """A page of runs: {"size": bytes, "runs": [[offset, length], ...], "next": offset, if there is more}."""
    command = [TIDEMARK, "map", "--runs", "--offset", str(offset), "--limit", str(limit), *source]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def messages(source, starting_offset=0, max_results=0):
    """The messages of a stream. One command brings many messages: it reads a repository once for each."""
    each = max_results or MAX_RESULTS
    offset = starting_offset
    while offset is not None:
        found = page(source, offset, each * 4096)
        for at in range(0, len(found["runs"]), each):
            yield {"block_metadata_type": "VARIABLE_LENGTH", "volume_capacity_bytes": found["size"],
                   "block_metadata": [{"byte_offset": offset, "size_bytes": length}
                                      for offset, length in found["runs"][at:at + each]]}
        offset = found.get("next")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starting-offset", type=int, default=0)
    parser.add_argument("--max-results", type=int, default=0)
    parser.add_argument("source", nargs="+", help="arguments of tidemark map, after --")
    options = parser.parse_args()
    for message in messages(options.source, options.starting_offset, options.max_results):
        print(json.dumps(message))


if __name__ == "__main__":
    main()
