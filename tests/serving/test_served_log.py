import json
import math
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from features.transforms import QueryFeatures
from serving.answers import STAGES, Answer, ScoredItem
from serving.errors import ServingError
from serving.served_log import ServedLog, ServedRecord, features_of, read_served_log
from serving.settings import ServedLogSettings

FEATURES = QueryFeatures(
    history_item_ids=[["i1", "ünknown"]],
    history_events=[["rating", "view"]],
    history_values=[[4.0, 0.1]],
    history_at_ms=[[1, 2]],
    texts=["ü?"],
    categories=[["F", ""]],
    numbers=[[math.nan, 1 / 3]],
    requested_at_ms=[3],
)
ANSWER = Answer(
    items=(ScoredItem(item_id="i2", score=0.1, retrieval_score=-2.5, retrieval_rank=7),),
    candidates=(("i9", 1.5), ("i2", -2.5)),
    release_id="r1",
    delta=4,
    stage_ms=dict.fromkeys(STAGES, 0.5),
)


def record(request_id: str = "one") -> ServedRecord:
    return ServedRecord(
        request_id=request_id,
        query_id="q",
        served_at_ms=4,
        requested_at_ms=3,
        text=None,
        source="model",
        fallback_reason=None,
        spec_hash="abc",
        release_id="r1",
        features=FEATURES,
        answer=ANSWER,
        item_ids=("i2",),
    )


def request_ids(path: Path) -> list[str]:
    return [one["request_id"] for one in read_served_log(path)]


def test_a_record_comes_back_with_its_exact_features(tmp_path: Path) -> None:
    path = tmp_path / "new" / "served.jsonl"
    with ServedLog(settings=ServedLogSettings(path=path)) as log:
        log.append(record())

    (kept,) = read_served_log(path)

    assert "NaN" not in path.read_text()
    assert kept["answer"]["candidates"] == [["i9", 1.5], ["i2", -2.5]]
    assert kept["answer"]["items"][0] == {
        "item_id": "i2",
        "score": 0.1,
        "retrieval_score": -2.5,
        "retrieval_rank": 7,
        "probability": None,
    }
    assert kept["release_id"] == "r1"
    assert kept["answer"]["delta"] == 4
    again = features_of(kept)
    assert math.isnan(again.numbers[0][0])
    assert again.numbers[0][1] == 1 / 3
    assert again.history_item_ids == FEATURES.history_item_ids
    assert again.history_values == FEATURES.history_values


def test_a_record_of_other_code_is_refused_by_what_it_has(tmp_path: Path) -> None:
    path = tmp_path / "served.jsonl"
    with ServedLog(settings=ServedLogSettings(path=path)) as log:
        log.append(record())
    (kept,) = read_served_log(path)
    del kept["features"]["texts"]
    with pytest.raises(ServingError, match=r"expected a record with the features .*texts.*; request one has "):
        features_of(kept)


def test_a_text_that_is_no_utf8_still_makes_one_line(tmp_path: Path) -> None:
    path = tmp_path / "served.jsonl"
    with ServedLog(settings=ServedLogSettings(path=path)) as log:
        log.append(record("\ud800\n"))

    assert request_ids(path) == ["?\n"]


def test_records_of_many_threads_are_all_there_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "served.jsonl"
    with ServedLog(settings=ServedLogSettings(path=path)) as log:

        def write(first: int) -> None:
            for place in range(first, first + 50):
                log.append(record(str(place)))

        threads = [threading.Thread(target=write, args=(first,)) for first in range(0, 200, 50)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert sorted(map(int, request_ids(path))) == list(range(200))
    assert log.num_dropped == 0


def test_a_reopened_log_is_appended_to(tmp_path: Path) -> None:
    settings = ServedLogSettings(path=tmp_path / "served.jsonl")
    for request_id in ("a", "b"):
        with ServedLog(settings=settings) as log:
            log.append(record(request_id))

    assert request_ids(settings.path) == ["a", "b"]


@pytest.mark.parametrize("torn", [b'{"request_id": "b', b"x" * 200_000])
def test_a_torn_end_is_removed_and_what_was_whole_stays(tmp_path: Path, torn: bytes) -> None:
    settings = ServedLogSettings(path=tmp_path / "served.jsonl")
    with ServedLog(settings=settings) as log:
        log.append(record("a"))
    with settings.path.open("ab") as file:
        file.write(torn)

    assert request_ids(settings.path) == ["a"]
    with ServedLog(settings=settings) as log:
        log.append(record("c"))
    assert request_ids(settings.path) == ["a", "c"]
    assert all(json.loads(line) for line in settings.path.read_bytes().splitlines())


def test_rotation_keeps_the_newest_files_within_the_bound(tmp_path: Path) -> None:
    line = len(record("00").to_line())
    settings = ServedLogSettings(path=tmp_path / "served.jsonl", max_bytes=3 * line, max_files=3)
    with ServedLog(settings=settings) as log:
        for place in range(20):
            log.append(record(f"{place:02d}"))

    files = sorted(path for path in tmp_path.iterdir() if path.suffix != ".lock")
    assert [file.name for file in files] == ["served.jsonl", "served.jsonl.1", "served.jsonl.2"]
    assert all(file.stat().st_size <= settings.max_bytes for file in files)
    # 3 lines a file: 18 and 19 are in the newest, 12..17 in the two before it.
    assert request_ids(settings.path) == [f"{place:02d}" for place in range(12, 20)]


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    settings = ServedLogSettings(path=tmp_path / "served.jsonl")
    with ServedLog(settings=settings), pytest.raises(ServingError, match="another gateway writes"):
        ServedLog(settings=settings)
    ServedLog(settings=settings).close()


def test_closing_twice_does_nothing(tmp_path: Path) -> None:
    log = ServedLog(settings=ServedLogSettings(path=tmp_path / "served.jsonl"))
    log.close()
    log.close()


def test_a_full_disk_costs_records_and_never_half_a_line(tmp_path: Path) -> None:
    path = tmp_path / "served.jsonl"
    whole = len(record("00").to_line())
    # The file may hold two lines and a half: the kernel then takes half of the third and refuses the rest.
    command = [sys.executable, "-c", _FULL_DISK, str(path), str(2 * whole + whole // 2)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)

    assert ran.stdout.split() == ["2"]
    assert request_ids(path) == ["00", "01"]


_FULL_DISK = f"""
import resource, signal, sys
sys.path.insert(0, {str(Path.cwd())!r})
from pathlib import Path
import importlib.util
from serving.served_log import ServedLog
from serving.settings import ServedLogSettings
spec = importlib.util.spec_from_file_location("records", {__file__!r})
records = importlib.util.module_from_spec(spec)
spec.loader.exec_module(records)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
with ServedLog(settings=ServedLogSettings(path=Path(sys.argv[1]))) as log:
    for place in range(4):
        log.append(records.record(f"{{place:02d}}"))
print(log.num_dropped)
"""
