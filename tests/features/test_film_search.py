import json
from pathlib import Path

import numpy as np
import pytest

from features.errors import FeaturesError
from features.sources import film_search
from features.sources.film_search import KNOWN_ITEM, write_film_search


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("films") / "collection"
    write_film_search(directory, num_queries=300, seed=1, progress=False)
    return directory


def read_lines(path: Path) -> dict[str, dict[str, object]]:
    return {line["_id"]: line for line in map(json.loads, path.read_text(encoding="utf-8").splitlines())}


def judgements(directory: Path, part: str) -> list[tuple[str, str, int]]:
    rows = (directory / "qrels" / f"{part}.tsv").read_text().splitlines()[1:]
    return [(query, film, int(grade)) for query, film, grade in (row.split("\t") for row in rows)]


def test_every_query_has_one_known_item_and_belongs_to_one_part(made):
    queries = read_lines(made / "queries.jsonl")
    parts = {part: {query for query, _, _ in judgements(made, part)} for part in ("train", "dev", "test")}
    assert [len(part) for part in parts.values()] == [210, 30, 60]  # 70, 10 and 20 % of 300
    assert set.union(*parts.values()) == set(queries)
    known = [query for part in parts for query, _, grade in judgements(made, part) if grade == KNOWN_ITEM]
    assert sorted(known) == sorted(queries)


def test_what_also_fits_has_every_fact_that_the_query_states(made):
    queries, films = read_lines(made / "queries.jsonl"), read_lines(made / "corpus.jsonl")
    checked = 0
    for query, film, grade in judgements(made, "train"):
        text = str(queries[query]["text"])
        if grade == KNOWN_ITEM or " film by " not in text:
            continue
        genre, director = text.split(" film by ")
        metadata = films[film]["metadata"]
        assert isinstance(metadata, dict)
        assert genre in [one.lower() for one in metadata["genres"]]
        assert director in [one.lower() for one in metadata["directors"]]
        checked += 1
    assert checked >= 5


def test_the_same_seed_gives_the_same_bytes(made, tmp_path):
    write_film_search(tmp_path / "again", num_queries=300, seed=1, progress=False)
    write_film_search(tmp_path / "other", num_queries=300, seed=2, progress=False)
    assert (tmp_path / "again/queries.jsonl").read_bytes() == (made / "queries.jsonl").read_bytes()
    assert (tmp_path / "again/qrels/test.tsv").read_bytes() == (made / "qrels/test.tsv").read_bytes()
    assert (tmp_path / "other/queries.jsonl").read_bytes() != (made / "queries.jsonl").read_bytes()


def test_a_title_is_half_remembered_by_a_word_less_and_two_letters_swapped():
    remembered = film_search._half_remembered("The French Connection", generator=np.random.default_rng(0))
    assert len(remembered.split()) == 2
    assert sorted("".join(remembered.split())) in [
        sorted(pair) for pair in ("TheFrench", "TheConnection", "FrenchConnection")
    ]
    assert film_search._half_remembered("Heat", generator=np.random.default_rng(0)) == "Heat"


def test_too_few_queries_for_the_parts_are_refused(tmp_path):
    with pytest.raises(FeaturesError, match="at least 3; got 2"):
        write_film_search(tmp_path / "few", num_queries=2, seed=1)
    assert not (tmp_path / "few").exists()
