import gzip
import json
from pathlib import Path

import pyarrow as pa
import pytest

from features.errors import FeaturesError, SourceDamaged, SourceMissing
from features.labels import RatingLabels
from features.prepare import prepare
from features.sources.search import SearchCollection
from features.split import InstantSplit

DAY_MS = 86_400_000
SPLIT = InstantSplit(ranking="2000-01-02", validation="2000-01-03", test="2000-01-04")


def lines(*documents: object) -> str:
    return "".join(json.dumps(document) + "\n" for document in documents)


def qrels(*rows: str) -> str:
    return "query-id\tcorpus-id\tscore\n" + "".join(row.replace(" ", "\t") + "\n" for row in rows)


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    directory = tmp_path / "collection"
    (directory / "qrels").mkdir(parents=True)
    documents = (
        {"_id": "d1", "title": "Playtime", "text": "A comedy", "metadata": {"genres": ["Comedy"], "year": 1967}},
        {"_id": "d2", "title": "", "text": "A western", "metadata": {"genres": "Western"}},
        {"_id": "d3", "text": "no title"},
    )
    (directory / "corpus.jsonl").write_text(lines(*documents))
    (directory / "queries.jsonl").write_text(lines(*({"_id": f"q{n}", "text": f"query {n}"} for n in range(12))))
    (directory / "qrels" / "train.tsv").write_text(qrels(*(f"q{n} d1 1" for n in range(10))))
    (directory / "qrels" / "dev.tsv").write_text(qrels("q10 d2 2"))
    (directory / "qrels" / "test.tsv").write_text(qrels("q11 d2 2", "q11 d1 0"))
    return directory


def source(directory: Path, **settings: object) -> SearchCollection:
    return SearchCollection(directory=directory, item_categories=["genres"], item_numbers=["year"], **settings)


def days_of(events: pa.Table) -> dict[str, int]:
    """Day of each query's judgements, from that of train on."""
    first = 946_684_800_000
    at_ms = events["occurred_at"].cast(pa.int64()).to_pylist()
    return {query: (at - first) // DAY_MS for query, at in zip(events["query_id"].to_pylist(), at_ms, strict=True)}


def test_documents_queries_and_judgements_become_items_queries_and_events(collection):
    raw = source(collection, ranking_share=0.0).read()
    assert raw.items.drop_columns(["available_from", "source_row"]).to_pylist() == [
        {"item_id": "d1", "title": "Playtime", "text": "A comedy", "genres": ["Comedy"], "year": 1967.0},
        {"item_id": "d2", "title": "", "text": "A western", "genres": ["Western"], "year": None},
        {"item_id": "d3", "title": None, "text": "no title", "genres": [], "year": None},
    ]
    assert raw.queries["text"].to_pylist()[:2] == ["query 0", "query 1"]
    last = raw.events.to_pylist()[-2:]
    assert [(row["query_id"], row["item_id"], row["value"]) for row in last] == [("q11", "d2", 2.0), ("q11", "d1", 0.0)]
    assert raw.events["source_row"].to_pylist() == list(range(13))  # unique across the three files


def test_the_parts_of_a_collection_follow_one_another_a_day_apart(collection):
    days = days_of(source(collection, ranking_share=0.3).read().events)
    assert days["q10"] == 2
    assert days["q11"] == 3
    # 3 of the 10 training queries are the ranker's
    assert sorted(days[f"q{n}"] for n in range(10)) == [0] * 7 + [1] * 3


def test_without_a_dev_file_a_share_of_the_training_queries_is_held_out(collection):
    (collection / "qrels" / "dev.tsv").unlink()
    days = days_of(source(collection, ranking_share=0.3, validation_share=0.2).read().events)
    assert sorted(days[f"q{n}"] for n in range(10)) == [0] * 5 + [1] * 3 + [2] * 2


def test_the_seed_decides_who_is_held_out(collection):
    one, again, other = (days_of(source(collection, seed=seed).read().events) for seed in (1, 1, 2))
    assert one == again != other


def test_judgements_in_the_columns_of_trec_are_read_without_a_header(collection):
    (collection / "qrels" / "test.tsv").write_text("q11\t0\td2\t2\nq11\t0\td3\t1\n")
    events = source(collection).read().events.to_pylist()
    assert [(row["item_id"], row["value"]) for row in events if row["query_id"] == "q11"] == [("d2", 2.0), ("d3", 1.0)]


def test_a_collection_may_be_compressed(collection):
    plain = (collection / "corpus.jsonl").read_bytes()
    (collection / "corpus.jsonl").unlink()
    (collection / "corpus.jsonl.gz").write_bytes(gzip.compress(plain))
    assert source(collection).read().items.num_rows == 3


def test_bad_lines_are_set_aside_with_their_reasons(collection, tmp_path):
    with (collection / "corpus.jsonl").open("ab") as corpus:
        corpus.write(b'{"_id": "d4", "text": \n')
        corpus.write(b"[1, 2]\n")
        corpus.write(b'{"_id": "d5", "text": "x", "metadata": {"year": "long ago"}}\n')
        corpus.write(b'{"_id": "d1", "text": "again"}\n')
        corpus.write(b'{"text": "nameless"}\n')
        corpus.write(b'{"_id": "d6", "text": "\xff"}\n')
    with (collection / "qrels" / "test.tsv").open("a") as judgements:
        judgements.write("q11\td2\tmuch\nq11\td2\nq11\tnowhere\t1\n")
    report = prepare(
        source=source(collection),
        labels=RatingLabels(threshold=1, graded=True),
        split=SPLIT,
        out_dir=tmp_path / "out",
        name="search",
    )
    assert report["rows"]["items"] == {
        "read": 9,
        "kept": 3,
        "set_aside": {
            "no JSON in UTF-8": 2,
            "a number in metadata is no number": 1,
            "item_id missing": 1,
            "item_id repeated": 1,
            "no JSON object": 1,
        },
    }
    assert report["rows"]["events"]["set_aside"] == {
        "not 3 tokens": 1,
        "score is no number": 1,
        "unknown item": 1,
    }


def test_judged_irrelevant_is_kept_with_relevance_zero(collection, tmp_path):
    prepare(
        source=source(collection, ranking_share=0.0),
        labels=RatingLabels(threshold=1, graded=True),
        split=SPLIT,
        out_dir=tmp_path / "out",
        name="search",
    )
    events = pa.parquet.read_table(tmp_path / "out" / "events.parquet").to_pylist()
    judged = {(row["query_id"], row["item_id"]): (row["relevance"], row["split"]) for row in events}
    assert judged["q11", "d2"] == (2.0, "test")
    assert judged["q11", "d1"] == (0.0, "test")
    assert judged["q10", "d2"] == (2.0, "validation")
    assert {row["label_source"] for row in events} == {"explicit"}


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl", "qrels/train.tsv", "qrels/test.tsv"])
def test_a_missing_file_is_named(collection, name):
    (collection / name).unlink()
    with pytest.raises(SourceMissing, match=name):
        source(collection).read()


def test_a_file_of_another_form_is_named(collection):
    (collection / "qrels" / "train.tsv").write_text("q1,d1,1\n")
    with pytest.raises(SourceDamaged, match=r"train.tsv begins .* expected"):
        source(collection).read()
    (collection / "corpus.jsonl").rename(collection / "corpus.jsonl.gz")
    with pytest.raises(SourceDamaged, match=r"corpus.jsonl.gz cannot be read"):
        source(collection).read()


def test_shares_that_leave_nothing_to_train_are_refused(collection):
    with pytest.raises(FeaturesError, match="leave some to train"):
        source(collection, ranking_share=0.6, validation_share=0.4)
