"""A small log with all that is hard, prepared for real, and a release of it that nobody trained."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers

from evaluation.parity import ParityReport
from features.columns import FeatureColumns
from features.dataset import Dataset
from features.events import RAW_EVENTS, RAW_ITEMS, RawTables
from features.labels import RatingLabels
from features.pairs import ranker_feature_names
from features.prepare import prepare
from features.spec import DAY_MS, TextLayout
from features.split import SPLITS, LeaveOneOut
from lifecycle.parity import Replay
from lifecycle.rewound import untrained
from serving.retrieval import Stage1, score_names

NUM_QUERIES, NUM_ITEMS, NUM_DAYS = 25, 40, 12
FIRST_DAY = 10_000
COLUMNS = FeatureColumns(
    query_categories=("gender",),
    query_numbers=("age",),
    item_categories=("colour",),
    item_numbers=("size",),
    item_texts=("title",),
    query_text="wish",
    history_length=8,
    stored_history=15,
)


@dataclass(frozen=True)
class Shop:
    """Queries with 1 to 40 events: ties in time, repeats, values that float32 cannot hold, dislikes, missing facts."""

    def read(self) -> RawTables:
        draw = np.random.default_rng(5)
        events = []
        for query in range(NUM_QUERIES):
            days = np.sort(draw.uniform(FIRST_DAY, FIRST_DAY + NUM_DAYS, size=draw.integers(1, 41)))
            at_ms = (days * DAY_MS).astype(np.int64)
            at_ms[1::3] = at_ms[: len(at_ms) - 1 : 3][: len(at_ms[1::3])]
            for instant in at_ms.tolist():
                event = ("rating", "view")[int(draw.integers(2))]
                value = (1.0, 0.1, 1 / 3, 4.0)[int(draw.integers(4))]
                item = f"i{int(NUM_ITEMS * draw.uniform() ** 2)}"
                events.append((f"q{query}", item, event, value, instant, len(events)))
        items = {
            "item_id": [f"i{n}" for n in range(NUM_ITEMS)],
            "available_from": pa.array([None] * NUM_ITEMS, RAW_ITEMS.field("available_from").type),
            "source_row": range(NUM_ITEMS),
            "title": [f"thing {n}" for n in range(NUM_ITEMS)],
            "colour": [[("red", "green")[n % 2], *(["big"] if n % 3 else [])] for n in range(NUM_ITEMS)],
            "size": [None if n % 7 == 0 else n / 3 for n in range(NUM_ITEMS)],
        }
        queries = {
            "query_id": [f"q{n}" for n in range(NUM_QUERIES)],
            "source_row": range(NUM_QUERIES),
            "wish": [None if n % 3 else f"thing for ü {n}" for n in range(NUM_QUERIES)],
            "gender": [(None, "F", "M")[n % 3] for n in range(NUM_QUERIES)],
            "age": [None if n % 4 == 0 else 20.1 + n for n in range(NUM_QUERIES)],
        }
        columns = [pa.array(column) for column in zip(*events, strict=True)]
        return RawTables(
            events=pa.table(dict(zip(RAW_EVENTS.names, columns, strict=True))).cast(RAW_EVENTS),
            items=pa.table(items),
            queries=pa.table(queries),
        )


@dataclass(frozen=True)
class PreparedShop:
    """A prepared log and a release of it that nobody trained."""

    data_dir: Path
    release_dir: Path
    dataset: Dataset

    def replay(self, work_dir: Path, places: NDArray[np.int64] | None = None, **changes: Path) -> ParityReport:
        work_dir.mkdir()
        given = {"data_dir": self.data_dir, "release_dir": self.release_dir, **changes}
        replay = Replay(dataset=self.dataset, offline=Stage1.read(self.release_dir), work_dir=work_dir, seed=1, **given)
        return replay.run(np.arange(len(self.dataset.events.at_ms)) if places is None else places)


def prepare_shop(folder: Path) -> PreparedShop:
    prepare(
        source=Shop(),
        labels=RatingLabels(threshold=0.2, graded=False),
        split=LeaveOneOut(ranking_events=2),
        out_dir=folder / "data" / "tables",
        name="shop",
        progress=False,
    )
    dataset = Dataset.read(folder / "data", name="shop", columns=COLUMNS)
    tokenizer = Tokenizer(models.WordLevel({"[PAD]": 0, "[CLS]": 1, "[SEP]": 2, "[UNK]": 3, "thing": 4}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    spec = COLUMNS.spec(
        text=TextLayout(query_tokens=4, history_items=2, history_tokens=2, candidate_tokens=3),
        ranker_features=ranker_feature_names(
            retrievers=score_names(query_text=True),
            item_categories=COLUMNS.item_categories,
            item_numbers=COLUMNS.item_numbers,
        ),
    )
    untrained(
        folder / "release",
        dataset=dataset,
        columns=COLUMNS,
        spec=spec,
        tokenizer_json=folder / "tokenizer.json",
        splits=SPLITS,
        generator=np.random.default_rng(0),
    )
    return PreparedShop(data_dir=folder / "data", release_dir=folder / "release", dataset=dataset)
