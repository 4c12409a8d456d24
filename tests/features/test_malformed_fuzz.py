"""Files in which a seeded generator damaged bytes: whatever comes of it is an error of ours, or rows that add up."""

import gzip
import random
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.sources.attributes import ItemFile
from features.sources.files import EventColumns, EventFile, Files
from tests.features.hostile import Preparing

SEEDS_A_FILE = 10
NUM_ROWS = 30
TABLE = pa.table(
    {
        "query_id": [f"q{row % 5}" for row in range(NUM_ROWS)],
        "item_id": [f"ité{row % 7}" for row in range(NUM_ROWS)],
        "value": [row + 0.5 for row in range(NUM_ROWS)],
        "timestamp": [100 + row for row in range(NUM_ROWS)],
        "tags": [["a", None, "b"][: row % 4] for row in range(NUM_ROWS)],
    }
)
CSV = b"query_id,item_id,value,timestamp,tags\n" + b"".join(
    f'q{row % 5},"ité{row % 7}",{row}.5,{100 + row},"a|""b"""\n'.encode() for row in range(NUM_ROWS)
)


def parquet(*, compression: str, dictionary: bool) -> bytes:
    buffer = BytesIO()
    pq.write_table(TABLE, buffer, compression=compression, use_dictionary=dictionary)
    return buffer.getvalue()


def zipped() -> bytes:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("log.csv", CSV)
    return buffer.getvalue()


FILES = {
    "log.csv": CSV,
    "log.csv.gz": gzip.compress(CSV, mtime=0),
    "log.zip": zipped(),
    "plain.parquet": parquet(compression="none", dictionary=False),
    "packed.parquet": parquet(compression="zstd", dictionary=True),
}


@pytest.fixture(scope="module")
def preparing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Preparing]:
    one = Preparing(tmp_path_factory.mktemp("good"))
    yield one
    one.stop()


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Bits flipped, bytes put in, left out, copied from elsewhere, or the end cut off."""
    mutable = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 2, 5, 20])):
        place = rng.randrange(len(mutable) + 1)
        match rng.choice(["flip", "flip", "put in", "leave out", "copy", "cut"]):
            case "flip":
                mutable[place : place + 1] = bytes(byte ^ 1 << rng.randrange(8) for byte in mutable[place : place + 1])
            case "put in":
                mutable[place:place] = rng.randbytes(rng.randint(1, 8))
            case "leave out":
                del mutable[place : place + rng.randint(1, 8)]
            case "copy":
                source = rng.randrange(len(mutable) + 1)
                mutable[place:place] = mutable[source : source + rng.randint(1, 30)]
            case "cut":
                del mutable[rng.randrange(len(mutable) + 1) :]
    return bytes(mutable)


@pytest.mark.parametrize("seed", range(SEEDS_A_FILE))
@pytest.mark.parametrize("name", FILES)
def test_a_file_with_damaged_bytes_is_refused_or_read_with_every_row_accounted_for(preparing, tmp_path, name, seed):
    rng = random.Random(f"{name} {seed}")
    path = Path(tmp_path / name)
    path.write_bytes(damaged(FILES[name], rng))
    log = path / "log.csv" if name == "log.zip" else path
    items = ItemFile(path=log, categories=["tags"], text=["value"], separator="|") if seed % 2 else ItemFile()
    source = Files(events=EventFile(path=log, columns=EventColumns(value="value")), items=items)
    outcome = preparing.attempt(lambda: source, tmp_path / "home")
    assert outcome.read or name in outcome.error


def test_the_files_are_good_before_they_are_damaged(preparing, tmp_path):
    for name, content in FILES.items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_bytes(content)
        log = folder / name / "log.csv" if name == "log.zip" else folder / name
        source = Files(
            events=EventFile(path=log, columns=EventColumns(value="value")),
            items=ItemFile(path=log, categories=["tags"], separator="|"),
        )
        outcome = preparing.attempt(lambda source=source: source, folder / "home")
        assert (outcome.error, outcome.read["events"], outcome.set_aside.get("events")) == ("", NUM_ROWS, None), name
