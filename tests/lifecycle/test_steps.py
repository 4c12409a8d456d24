import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lifecycle import steps
from lifecycle.steps import MissingInput, Step, read_step


def step(directory: Path, **changes: object) -> Step:
    given = {"name": "double", "directory": directory, "config": {"factor": 2}, "inputs": [], "rooms": []}
    return Step(**{**given, **changes})  # type: ignore[arg-type]


def writes(text: str) -> Callable[[Path], None]:
    return lambda directory: (directory / "result.txt").write_text(text) and None


def refuses(directory: Path) -> None:
    raise AssertionError(f"the work was done again in {directory}")


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_result_appears_whole_with_a_record_of_what_made_it(tmp_path: Path) -> None:
    directory = tmp_path / "run" / "double"

    def work(partial: Path) -> None:
        (partial / "first.txt").write_text("1")
        assert not directory.exists()
        (partial / "second.txt").write_text("2")

    assert step(directory).run(work)
    assert names(directory) == ["first.txt", "second.txt", "step.json"]
    assert names(directory.parent) == ["double"]
    record = read_step(directory)
    assert (record["name"], record["config"]) == ("double", {"factor": 2})
    assert record["seconds"] >= 0
    assert record["fingerprint"] == step(directory).fingerprint()


def test_what_did_not_change_is_not_done_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    step(tmp_path / "double").run(writes("4"))
    with caplog.at_level(logging.INFO):
        assert not step(tmp_path / "double").run(refuses)
    assert f"double: nothing changed, result is in {tmp_path / 'double'}" in caplog.text


def test_another_setting_makes_another_result(tmp_path: Path) -> None:
    step(tmp_path / "double").run(writes("4"))
    assert step(tmp_path / "double", config={"factor": 3}).run(writes("6"))
    assert (tmp_path / "double" / "result.txt").read_text() == "6"
    assert names(tmp_path) == ["double"]  # nor does the former result stay beside it


def test_the_order_of_settings_changes_nothing(tmp_path: Path) -> None:
    first, second = ({"a": 1, "b": {"c": 2, "d": 3}}, {"b": {"d": 3, "c": 2}, "a": 1})
    fingerprints = [step(tmp_path / "double", config=config).fingerprint() for config in (first, second)]
    assert fingerprints[0] == fingerprints[1]


def test_another_input_makes_another_result_and_so_on_downstream(tmp_path: Path) -> None:
    def run_all(value: int) -> list[bool]:
        raw = step(tmp_path / "raw", name="raw", config={"value": value})
        clean = step(tmp_path / "clean", name="clean", inputs=[tmp_path / "raw"])
        model = step(tmp_path / "model", name="model", inputs=[tmp_path / "clean"])
        return [one.run(writes(str(value))) for one in (raw, clean, model)]

    assert run_all(1) == [True, True, True]
    assert run_all(1) == [False, False, False]
    assert run_all(2) == [True, True, True]


def test_edited_code_of_a_room_makes_another_result_and_that_of_others_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "SOURCE_ROOT", tmp_path / "source")
    for room in ("features", "serving"):
        (tmp_path / "source" / room / "inner").mkdir(parents=True)
        (tmp_path / "source" / room / "inner" / "code.py").write_text("x = 1")

    def done() -> bool:
        return step(tmp_path / "double", rooms=["features"]).run(writes("4"))

    assert done()
    assert not done()
    (tmp_path / "source" / "serving" / "inner" / "code.py").write_text("x = 2")
    assert not done()
    (tmp_path / "source" / "features" / "inner" / "code.py").write_text("x = 2")
    assert done()


def test_the_rooms_are_those_of_this_project() -> None:
    assert (steps.SOURCE_ROOT / "lifecycle" / "steps.py").is_file()


@pytest.mark.parametrize("killed_by", [KeyboardInterrupt, RuntimeError, SystemExit])
def test_work_that_was_killed_gets_its_directory_again(tmp_path: Path, killed_by: type[BaseException]) -> None:
    def half(directory: Path) -> None:
        (directory / "checkpoint").write_text("epoch 1")
        raise killed_by

    def rest(directory: Path) -> None:
        assert (directory / "checkpoint").read_text() == "epoch 1"
        (directory / "result.txt").write_text("4")

    with pytest.raises(killed_by):
        step(tmp_path / "double").run(half)
    assert not (tmp_path / "double").exists()
    assert step(tmp_path / "double").run(rest)
    assert names(tmp_path) == ["double"]


def test_other_settings_do_not_go_on_from_what_a_killed_run_left(tmp_path: Path) -> None:
    def half(directory: Path) -> None:
        (directory / "checkpoint").write_text("of factor 2")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        step(tmp_path / "double").run(half)
    assert step(tmp_path / "double", config={"factor": 3}).run(writes("6"))
    assert names(tmp_path / "double") == ["result.txt", "step.json"]
    assert names(tmp_path) == ["double"]


def test_a_directory_without_a_mark_of_who_left_it_is_not_gone_on_from(tmp_path: Path) -> None:
    (tmp_path / ".double.partial").mkdir()
    (tmp_path / ".double.partial" / "checkpoint").write_text("of whom?")
    step(tmp_path / "double").run(writes("4"))
    assert names(tmp_path / "double") == ["result.txt", "step.json"]


def test_ctrl_c_leaves_the_former_result_untouched(tmp_path: Path) -> None:
    def interrupted(directory: Path) -> None:
        (directory / "result.txt").write_text("half of 6")
        raise KeyboardInterrupt

    step(tmp_path / "double").run(writes("4"))
    before = {path.name: path.read_text() for path in (tmp_path / "double").iterdir()}
    with pytest.raises(KeyboardInterrupt):
        step(tmp_path / "double", config={"factor": 3}).run(interrupted)
    assert {path.name: path.read_text() for path in (tmp_path / "double").iterdir()} == before
    assert not step(tmp_path / "double").run(refuses)  # and it still counts


@pytest.mark.parametrize("damage", ["missing", "no json", "no record"])
def test_a_step_whose_input_is_not_finished_says_what_to_run(tmp_path: Path, damage: str) -> None:
    step(tmp_path / "raw").run(writes("1"))
    if damage == "missing":
        shutil.rmtree(tmp_path / "raw")
    elif damage == "no json":
        (tmp_path / "raw" / "step.json").write_text('{"finger')
    else:
        (tmp_path / "raw" / "step.json").unlink()
    with pytest.raises(MissingInput, match=r"raw holds no finished step; run the step .*scripts/run_pipeline\.py"):
        step(tmp_path / "double", inputs=[tmp_path / "raw"]).run(refuses)
    assert not (tmp_path / "double").exists()


def test_a_result_with_a_damaged_record_is_made_again(tmp_path: Path) -> None:
    step(tmp_path / "double").run(writes("4"))
    (tmp_path / "double" / "step.json").write_text("")
    assert step(tmp_path / "double").run(writes("4"))
    assert json.loads((tmp_path / "double" / "step.json").read_text())["name"] == "double"
