"""hnswlib, usearch, voyager and ScaNN, each measured in turns with exact search; scripts/bench_index.py runs it.

python scripts/peers/index_search.py SETTINGS.json
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lifecycle.search_points import ASKED_FILE, Course, FloatArray, IntArray, Search, read_vectors

# From a search's effort to a search, of a query [1, D] -> ItemRows [k] or fewer, best first.
Prepared = Callable[..., Search]


def hnswlib(items: FloatArray, *, k: int, links: int, build_beam: int) -> Prepared:
    import hnswlib

    index = hnswlib.Index(space="ip", dim=items.shape[1])
    index.init_index(max_elements=len(items), M=links, ef_construction=build_beam, random_seed=1)
    index.add_items(items, num_threads=1)

    def prepared(*, beam: int) -> Search:
        index.set_ef(beam)
        return lambda query: rows(index.knn_query(query, k=k, num_threads=1)[0][0])

    return prepared


def usearch(items: FloatArray, *, k: int, links: int, build_beam: int) -> Prepared:
    from usearch.index import Index

    index = Index(ndim=items.shape[1], metric="ip", dtype="f32", connectivity=links, expansion_add=build_beam)
    index.add(np.arange(len(items)), items, threads=1)

    def prepared(*, beam: int) -> Search:
        index.expansion_search = beam
        return lambda query: rows(index.search(query[0], k, threads=1).keys)

    return prepared


def voyager(items: FloatArray, *, k: int, links: int, build_beam: int) -> Prepared:
    from voyager import Index, Space

    index = Index(Space.InnerProduct, items.shape[1], M=links, ef_construction=build_beam, random_seed=1)
    index.add_items(items, num_threads=1)

    def prepared(*, beam: int) -> Search:
        return lambda query: rows(index.query(query[0], k, query_ef=beam)[0])

    return prepared


def scann(
    items: FloatArray,
    *,
    k: int,
    leaves: float,
    block: int = 2,
    threshold: float = 0.2,
    soar: float | None = None,
    avq: float | None = None,
) -> Prepared:
    """`leaves` is times the square root of the number of items; the rest has ScaNN's meaning."""
    from scann import scann_ops_pybind

    number = int(leaves * len(items) ** 0.5)
    index = (
        scann_ops_pybind.builder(items, k, "dot_product")
        .set_n_training_threads(1)
        .tree(number, number, training_sample_size=min(len(items), 250_000), soar_lambda=soar, avq=avq)
        .score_ah(block, anisotropic_quantization_threshold=threshold)
        .reorder(4 * k)
        .build()
    )

    def prepared(*, lists: int, refine: float) -> Search:
        return lambda query: rows(index.search(query[0], k, int(refine * k), min(lists, number))[0])

    return prepared


def rows(places: Any) -> IntArray:
    found: IntArray = places.astype(np.int64) + 1
    return found


PEERS: dict[str, Callable[..., Prepared]] = {"hnswlib": hnswlib, "usearch": usearch, "voyager": voyager, "scann": scann}


def main() -> None:
    path = Path(sys.argv[1])
    settings: dict[str, Any] = json.loads(path.read_text())
    asked = read_vectors(Path(settings["vectors"]), queries=ASKED_FILE, k=settings["k"])
    course = Course(asked, turns=settings["turns"], path=path.parent / "points.csv")
    for built in settings["builds"]:
        began = time.process_time()
        prepared = PEERS[settings["peer"]](asked.items, k=asked.k, **built)
        build_s = time.process_time() - began
        print(f"{built} built in {build_s:.0f} s", flush=True)
        for effort in settings["efforts"]:
            recall = course.measure(prepared(**effort), settings={**built, **effort}, build_s=build_s)
            print(f"{built} {effort}: recall {recall:.4f}", flush=True)


if __name__ == "__main__":
    main()
