#!/usr/bin/env python3
"""Scores pairs of texts with RapidFuzz: reads [first, second, cutoff] a line, writes the score of each on its line.

Numbers travel as text in the shortest form that gives the same number back.
"""

import json
import sys

from rapidfuzz import fuzz


def main() -> None:
    sys.stdin.reconfigure(encoding="utf-8", newline="\n")
    for line in sys.stdin:
        first, second, cutoff = json.loads(line)
        print(repr(float(fuzz.partial_ratio(first, second, score_cutoff=float(cutoff)))))


if __name__ == "__main__":
    main()
