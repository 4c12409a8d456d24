"""The whole main job on datasets that are not the demo's: files of one's own, and a search collection."""

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

TRITON_PYTHON = Path(__file__).resolve().parents[2] / ".venv-triton" / "bin" / "python"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

NUM_QUERIES, NUM_ITEMS, NUM_EVENTS = 120, 60, 12
GENRES = ("Drama", "Comedy", "Horror")
COLOURS = ("red", "green", "blue", "black", "white")
THINGS = ("bicycle", "kettle", "lantern", "umbrella", "piano", "ladder", "anchor", "violin")

RunPipeline = Callable[..., str]


@pytest.fixture
def run_pipeline(
    run_script: Callable[..., Any], smoke_settings: Callable[[Path], list[str]], tmp_path: Path
) -> RunPipeline:
    """Run the main job to its end, a real Triton included; what it printed."""
    if not TRITON_PYTHON.exists():
        pytest.skip(f"{TRITON_PYTHON} is missing: `make setup` brings it")

    def run(*overrides: str) -> str:
        done = run_script("run_pipeline", *smoke_settings(tmp_path), *overrides)
        assert done.returncode == 0, done.stdout[-6000:]
        printed: str = done.stdout
        return printed

    return run


def shown_titles(printed: str) -> list[str]:
    """Titles of the answers that the demonstration prints."""
    return re.findall(r"^ +\d+\. (.+?) {2,}", printed, flags=re.MULTILINE)


def test_two_csv_files_become_a_served_recommender(run_pipeline: RunPipeline, tmp_path: Path) -> None:
    draw = np.random.default_rng(1)
    with (tmp_path / "ratings.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["userId", "movieId", "rating", "timestamp"])
        for query in range(NUM_QUERIES):
            # Who likes one genre: items stand by genre, one in three.
            liked = draw.permutation(NUM_ITEMS // 3)[:NUM_EVENTS] * 3 + query % 3
            for place, item in enumerate(liked):
                rows.writerow([f"u{query}", f"m{item}", 5, 1_600_000_000 + 86_400 * place + query])
    with (tmp_path / "movies.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["movieId", "title", "genres", "year"])
        rows.writerows([f"m{item}", f"Film {item}", GENRES[item % 3], 1950 + item] for item in range(NUM_ITEMS))

    printed = run_pipeline(
        "dataset=files",
        f"dataset.source.events.path={tmp_path}/ratings.csv",
        "dataset.source.events.columns={query_id: userId, item_id: movieId, value: rating}",
        f"dataset.source.items={{path: {tmp_path}/movies.csv, id: movieId}}",
        "dataset.columns.items={text: [title, genres], categories: [genres], numbers: [year]}",
    )
    titles = shown_titles(printed)
    assert len(titles) == 30  # ten for each of three queries
    assert all(title.startswith("Film ") for title in titles)
    assert printed.count("the same list") == 3  # over HTTP as over gRPC


@pytest.mark.parametrize("text", ["precomputed", "last_layers"])
def test_a_search_collection_becomes_a_served_search(run_pipeline: RunPipeline, tmp_path: Path, text: str) -> None:
    names = [f"{colour} {thing}" for colour in COLOURS for thing in THINGS]
    documents = [
        {"_id": f"d{n}", "title": name, "text": f"Somebody painted this {name}."} for n, name in enumerate(names)
    ]
    forms = {"train": "a {}", "dev": "{} for sale", "test": "where is the {}"}
    collection = tmp_path / "collection"
    (collection / "qrels").mkdir(parents=True)
    queries = [
        {"_id": f"{part}{n}", "text": form.format(name)} for part, form in forms.items() for n, name in enumerate(names)
    ]
    for stem, content in (("corpus", documents), ("queries", queries)):
        (collection / f"{stem}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in content))
    for part in forms:
        judged = "".join(f"{part}{n}\td{n}\t1\n" for n in range(len(names)))
        (collection / "qrels" / f"{part}.tsv").write_text(f"query-id\tcorpus-id\tscore\n{judged}")

    printed = run_pipeline("dataset=search", f"text={text}", f"dataset.source.directory={collection}")
    # The parity gates held: what is served embeds texts as the trained encoder does, if it was trained.
    trained = [path.parent.name for path in tmp_path.rglob("text_encoder")]
    assert sorted(trained) == ([] if text == "precomputed" else ["fold", "refit"])
    titles = shown_titles(printed)
    assert len(titles) == 30
    assert set(titles) <= set(names)
    assert printed.count("the same list") == 3
