"""Tune an index and measure it in turns with exact search; scripts/bench_index.py runs it.

python scripts/search_in_turns.py SETTINGS.json
"""

import json
import logging
import sys
from pathlib import Path

from lifecycle.tuned_points import measure_tuned


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    settings = Path(sys.argv[1])
    measure_tuned(json.loads(settings.read_text()), own_dir=settings.parent)


if __name__ == "__main__":
    main()
