#!/usr/bin/env python3
"""Writes the boards' JSON files beside it; with `--check` it fails if they are not what it would write."""

import json
import sys
from pathlib import Path

from boards import load_test, overview, runtime

HERE = Path(__file__).resolve().parent
BOARDS = {"overview.json": overview.BOARD, "runtime.json": runtime.BOARD, "load-test.json": load_test.BOARD}


def main(arguments):
    stale = []
    for name, board in BOARDS.items():
        path, text = HERE / name, json.dumps(board, indent=2) + "\n"
        if path.exists() and path.read_text() == text:
            continue
        stale.append(name)
        if "--check" not in arguments:
            path.write_text(text)
    if stale and "--check" in arguments:
        print(
            f"not what dashboards/grafana/build.py writes: {', '.join(stale)}; run it and commit both", file=sys.stderr
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
