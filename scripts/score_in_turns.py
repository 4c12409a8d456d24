"""Score pairs in turns, beside a peer; scripts/bench_scoring.py runs it.

python scripts/score_in_turns.py SETTINGS.json
"""

import json
import sys
from pathlib import Path

from lifecycle.scoring_in_turns import score_in_turns


def main() -> None:
    settings = Path(sys.argv[1])
    score_in_turns(json.loads(settings.read_text()), own_dir=settings.parent)


if __name__ == "__main__":
    main()
