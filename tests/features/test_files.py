from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig

from features.errors import FeaturesError, SchemaMismatch
from features.events import validate
from features.labels import ActionLabels
from features.prepare import prepare
from features.sources.attributes import ItemFile, QueryFile
from features.sources.files import EventColumns, EventFile, Files
from features.split import LeaveOneOut, TimeSplit

CONF = Path(__file__).parents[2] / "conf"
RATINGS = """userId,movieId,rating,timestamp
1,10,4.0,964982703
1,11,3.5,964982704
2,10,four,964982705
2,11,5,
2,10
1,12,2,next week
"""
MAPPED = EventColumns(query_id="userId", item_id="movieId", value="rating")


@pytest.fixture
def ratings(tmp_path):
    (tmp_path / "ratings.csv").write_text(RATINGS)
    return tmp_path / "ratings.csv"


def log_file(folder: Path, content: str, name: str = "log.csv") -> Path:
    (folder / name).write_text(content)
    return folder / name


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        cfg = compose(config_name="prepare_data", overrides=["dataset=files", *overrides])
    return cfg.dataset


def test_rows_become_events_with_their_place_in_the_file(ratings):
    first, second, _ = Files(events=EventFile(path=ratings, columns=MAPPED, event="rating")).read().events.to_pylist()
    assert (first["query_id"], first["item_id"], first["event"], first["value"]) == ("1", "10", "rating", 4.0)
    assert (first["occurred_at"].isoformat(), first["source_row"]) == ("2000-07-30T18:45:03+00:00", 0)
    assert second["source_row"] == 1


def test_rows_that_do_not_parse_are_kept_with_a_reason_and_what_they_say(ratings):
    unparsed = Files(events=EventFile(path=ratings, columns=MAPPED)).read().unparsed["events"].sort_by("source_row")
    assert [(row["source_row"], row["reason"], row["raw"]) for row in unparsed.to_pylist()] == [
        (2, "value is no number", "2\t10\tfour\t964982705"),
        (4, "not 4 columns", "2,10"),
        (5, "time is no number of seconds", "1\t12\t2\tnext week"),
    ]
    assert unparsed.to_pylist()[0]["value"] == "four"


def test_every_row_of_the_file_is_kept_or_set_aside(ratings):
    valid = validate(Files(events=EventFile(path=ratings, columns=MAPPED)).read(), now_at_ms=10**12)
    assert valid.events["source_row"].to_pylist() == [0, 1]
    assert valid.rejected["events"]["source_row"].to_pylist() == [2, 3, 4, 5]
    assert valid.rejected["events"]["reason"].to_pylist()[1] == "time missing"


def test_items_and_queries_without_a_file_are_those_of_the_events(ratings):
    raw = Files(events=EventFile(path=ratings, columns=MAPPED)).read()
    # Only rows that parse count, in the order of the first one.
    assert raw.items["item_id"].to_pylist() == ["10", "11"]
    assert raw.queries["query_id"].to_pylist() == ["1", "2"]
    assert raw.facts == {"items_taken_from_events": 2, "queries_taken_from_events": 2}
    assert raw.files == {"events": str(ratings)}


def test_a_file_of_items_says_which_items_there_are(ratings, tmp_path):
    movies = log_file(tmp_path, "id,title\n10,Heat\n11,Up\n", "movies.csv")
    users = log_file(tmp_path, "query_id,job\n1,writer\n", "users.csv")
    source = Files(
        events=EventFile(path=ratings, columns=MAPPED),
        items=ItemFile(path=movies, id="id", text=["title"]),
        queries=QueryFile(path=users, categories=["job"]),
    )
    valid = validate(source.read(), now_at_ms=10**12)
    assert valid.items.to_pylist() == [
        {"item_id": "10", "available_from": None, "title": "Heat"},
        {"item_id": "11", "available_from": None, "title": "Up"},
    ]
    assert valid.queries.to_pylist() == [{"query_id": "1", "job": "writer"}]


def test_kinds_of_events_come_from_a_column(tmp_path):
    path = log_file(tmp_path, "query_id,item_id,what,timestamp\n1,a,view,10\n1,a,buy,11\n1,b,,12\n")
    raw = Files(events=EventFile(path=path, columns=EventColumns(event="what"))).read()
    assert raw.events["event"].to_pylist() == ["view", "buy", ""]
    assert raw.events["value"].to_pylist() == [1.0, 1.0, 1.0]
    rejected = validate(raw, now_at_ms=10**12).rejected["events"]
    assert rejected["reason"].to_pylist() == ["event missing"]


def test_times_made_from_a_column_are_a_second_apart_and_equal_ones_share_one(tmp_path):
    path = log_file(tmp_path, "query_id,item_id,step\n1,a,30\n1,b,-7.5\n2,a,30\n2,b,31\n1,c,third\n2,c,\n")
    events = EventFile(path=path, order="column", columns=EventColumns(order="step"))
    raw = Files(events=events).read()
    # -7.5 < 30 = 30 < 31: seconds 1, 0, 1, 2 of the year 2000.
    assert [at.isoformat() for at in raw.events["occurred_at"].to_pylist()] == [
        "2000-01-01T00:00:01+00:00",
        "2000-01-01T00:00:00+00:00",
        "2000-01-01T00:00:01+00:00",
        "2000-01-01T00:00:02+00:00",
    ]
    assert raw.facts["times_made_from_order"] == 4
    unparsed = raw.unparsed["events"].to_pylist()
    assert [(row["source_row"], row["reason"]) for row in unparsed] == [
        (4, "order is no number"),
        (5, "order is no number"),
    ]
    assert unparsed[0]["occurred_at"] == "third"


def test_times_made_from_the_rows_follow_the_file_though_equal_rows_stand_in_it(tmp_path):
    path = log_file(tmp_path, "query_id,item_id\n1,a\n1\n1,a\n1,b\n")
    raw = Files(events=EventFile(path=path, order="row")).read()
    assert raw.events["source_row"].to_pylist() == [0, 2, 3]
    seconds = [at.second for at in raw.events["occurred_at"].to_pylist()]
    assert seconds == [0, 1, 2]
    # The second "1,a" is no copy of the first: it came later.
    assert validate(raw, now_at_ms=10**12).events.num_rows == 3


def test_the_order_of_rows_decides_what_is_held_out(tmp_path):
    path = log_file(tmp_path, "query_id,item_id\n1,c\n1,a\n1,b\n")
    report = prepare(
        source=Files(events=EventFile(path=path, order="row")),
        labels=ActionLabels(relevance={"interaction": 1.0}),
        split=LeaveOneOut(),
        out_dir=tmp_path / "out",
        name="ids",
        progress=False,
    )
    assert report["facts"]["times_made_from_order"] == 3
    events = pq.read_table(tmp_path / "out/events.parquet").to_pylist()
    assert [(row["item_id"], row["split"]) for row in events] == [("c", "train"), ("a", "validation"), ("b", "test")]


def test_a_parquet_file_with_types_reads_as_the_text_does(ratings, tmp_path):
    good = RATINGS.splitlines()[1:3]
    columns = list(zip(*(line.split(",") for line in good), strict=True))
    table = pa.table(
        {
            "userId": pa.array(map(int, columns[0]), pa.int32()),
            "movieId": pa.array(map(float, columns[1])),  # as a data frame with a gap leaves them
            "rating": pa.array(map(float, columns[2]), pa.float32()),
            "timestamp": pa.array([int(cell) * 10**9 for cell in columns[3]]).cast(pa.timestamp("ns")),
        }
    )
    pq.write_table(table, tmp_path / "ratings.parquet")
    typed = Files(events=EventFile(path=tmp_path / "ratings.parquet", columns=MAPPED)).read().events
    assert typed.equals(Files(events=EventFile(path=ratings, columns=MAPPED)).read().events.slice(0, 2))


def test_a_column_that_is_not_there_is_named_with_its_file(ratings):
    with pytest.raises(SchemaMismatch, match=r"ratings\.csv: no column 'query_id' among \['userId', 'movieId'"):
        Files(events=EventFile(path=ratings)).read()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"columns": EventColumns(query_id="id", item_id="id")}, "columns: column 'id' is mapped twice"),
        ({"columns": EventColumns(value="timestamp")}, "column 'timestamp' is mapped twice"),
        ({"columns": EventColumns(time=None)}, r"columns\.time is null: name the column .* or set .*order=row"),
        ({"order": "column"}, r"columns\.order is null"),
        ({"order": "alphabet"}, r"order must be one of \('time', 'column', 'row'\), got 'alphabet'"),
        ({"time_unit": "minutes"}, r"time_unit must be one of .*, got 'minutes'"),
        ({"event": " "}, "expected a word for event"),
        ({"value": float("nan")}, "a finite number for value"),
        ({"value": "many"}, "a finite number for value"),
    ],
)
def test_a_mapping_that_cannot_be_is_refused(settings, message):
    with pytest.raises(FeaturesError, match=message):
        EventFile(path="log.csv", **settings)


def test_the_configuration_yields_the_columns_that_it_declares(ratings, tmp_path):
    movies = log_file(tmp_path, "movieId,title,genres,year\n10,Heat,Drama|Crime,1995\n", "movies.csv")
    users = log_file(tmp_path, "userId,says,job,age\n1,hello,writer,49\n", "users.csv")
    dataset = composed(
        f"dataset.source.events.path={ratings}",
        "dataset.source.events.columns={query_id: userId, item_id: movieId, value: rating}",
        f"dataset.source.items={{path: {movies}, id: movieId, separator: '|'}}",
        f"dataset.source.queries={{path: {users}, id: userId}}",
        "dataset.columns.items={text: [title, genres], categories: [genres], numbers: [year]}",
        "dataset.columns.queries={text: says, categories: [job], numbers: [age]}",
    )
    raw = instantiate(dataset.source, _convert_="all").read()
    declared = dataset.columns
    for table, names in (
        (raw.items, [*declared["items"].text, *declared["items"].categories, *declared["items"].numbers]),
        (raw.queries, [declared.queries.text, *declared.queries.categories, *declared.queries.numbers]),
    ):
        assert set(names) <= set(table.column_names)
    assert raw.items.schema.field("genres").type == pa.list_(pa.string())
    assert raw.items.schema.field("year").type == pa.float64()


def test_labels_and_split_are_exchanged_by_name():
    dataset = composed("dataset/labels=actions", "+dataset.labels.relevance={view: 0, buy: 1}", "dataset/split=time")
    assert instantiate(dataset.labels, _convert_="all") == ActionLabels(relevance={"view": 0, "buy": 1})
    assert isinstance(instantiate(dataset.split, _convert_="all"), TimeSplit)


def test_a_yaml_of_ones_own_says_only_what_differs(tmp_path):
    folder = tmp_path / "conf/dataset"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text(
        "defaults:\n  - files\n  - override split: time\n  - _self_\n"
        "name: mine\nsource:\n  events:\n    path: log.csv\ncolumns:\n  items:\n    text: [title]\n"
    )
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        cfg = compose(config_name="prepare_data", overrides=[f"hydra.searchpath=[{tmp_path}/conf]", "dataset=mine"])
    assert (cfg.dataset.name, cfg.dataset.source.events.path) == ("mine", "log.csv")
    assert cfg.dataset.source["items"].text == ["title"]
    assert cfg.dataset.split._target_ == "features.split.TimeSplit"
