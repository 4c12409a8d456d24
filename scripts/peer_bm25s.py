"""BM25 of towers/retrievers/bm25.py beside bm25s, on a collection in the BEIR layout; run in bm25s' environment.

PYTHONPATH=. PATH/bin/python scripts/peer_bm25s.py COLLECTION TOKENIZER_JSON

Both get the same word pieces and the same two constants; every score of every document for every query is compared.
Source: bm25s 0.3.16, method "lucene".
"""

import json
import sys
from pathlib import Path

import bm25s
import numpy as np

from features.text import TextTokenizer
from features.vocab import FIRST
from towers.retrievers.bm25 import LENGTH_SHARE, SATURATION, fit_bm25, word_rows

TOLERANCE = 1e-4  # both add in single precision


def main() -> None:
    collection, tokenizer = Path(sys.argv[1]), TextTokenizer(Path(sys.argv[2]))
    documents, queries = (_lines(collection / f"{name}.jsonl") for name in ("corpus", "queries"))
    texts = [". ".join(part for part in (own.get("title"), own["text"]) if part) for own in documents]
    tokens = tokenizer.encode([""] * FIRST + texts, length=512)
    asked = tokenizer.encode([own["text"] for own in queries], length=32)
    table = fit_bm25(tokens, pad=tokenizer.pad, num_tokens=tokenizer.size)
    peer = bm25s.BM25(method="lucene", k1=SATURATION, b=LENGTH_SHARE)
    words = [row[row != tokenizer.pad].tolist() for row in tokens[FIRST:]]
    # Its own numbers of words are given in the order in which they are first met.
    place = {word: number for number, word in enumerate(dict.fromkeys(word for text in words for word in text))}
    peer.index(([[place[word] for word in text] for text in words], place), show_progress=False)
    rows, worst = np.arange(FIRST, len(tokens)), 0.0
    for query in asked:
        sources = word_rows(query, pad=tokenizer.pad)
        own = table.score_history(sources, np.ones(len(sources), np.float32)).of(rows)
        known = [place[word] for word in query.tolist() if word in place and word != tokenizer.pad]
        other = peer.get_scores(known) if known else np.zeros(len(rows))
        worst = max(worst, float(np.abs(own - other).max()))
    print(f"{len(asked)} queries, {len(rows)} documents: scores differ by {worst:.2g} at most")
    if worst > TOLERANCE:
        raise SystemExit(f"expected at most {TOLERANCE}")


def _lines(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    main()
