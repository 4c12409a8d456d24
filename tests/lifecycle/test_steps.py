import contextlib
import json
import logging
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lifecycle import steps
from lifecycle.steps import LIBRARIES, MissingInput, Occupied, Step, read_step


def step(directory: Path, **changes: object) -> Step:
    given = {"name": "double", "directory": directory, "config": {"factor": 2}, "inputs": [], "sources": []}
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
    assert names(directory.parent) == [".double.lock", "double"]
    record = read_step(directory)
    assert (record["name"], record["config"], record["inputs"]) == ("double", {"factor": 2}, {})
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
    assert names(tmp_path) == [".double.lock", "double"]  # nor does the former result stay beside it


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


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A root of other sources; they are hashed once a process, so a test starts a new one by `cache_clear`."""
    root = tmp_path / "source"
    monkeypatch.setattr(steps, "SOURCE_ROOT", root)
    for file in ("features/inner/code.py", "features/schema.json", "serving/code.py", "lifecycle/one.py", LIBRARIES):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text("x = 1")
    steps.source_hash.cache_clear()
    yield root
    steps.source_hash.cache_clear()


@pytest.mark.parametrize(
    ("file", "is_redone"),
    [
        ("features/inner/code.py", True),
        ("features/schema.json", True),
        ("features/new.py", True),
        ("lifecycle/one.py", True),
        (LIBRARIES, True),
        ("serving/code.py", False),
        ("features/__pycache__/code.pyc", False),
    ],
)
def test_edited_code_that_makes_the_result_makes_another_and_other_code_does_not(
    sources: Path, tmp_path: Path, file: str, is_redone: bool
) -> None:
    def done() -> bool:
        steps.source_hash.cache_clear()
        return step(tmp_path / "double", sources=["features", "lifecycle/one.py"]).run(writes("4"))

    assert done()
    assert not done()
    (sources / file).parent.mkdir(exist_ok=True)
    (sources / file).write_text("x = 2")
    assert done() == is_redone


def test_code_that_is_edited_under_a_run_is_not_taken_for_what_made_its_result(sources: Path, tmp_path: Path) -> None:
    before = step(tmp_path / "double", sources=["features"]).fingerprint()
    (sources / "features" / "inner" / "code.py").write_text("x = 2")
    assert step(tmp_path / "double", sources=["features"]).fingerprint() == before


def test_a_source_that_is_not_there_is_named(sources: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"names the source .*featurs, which does not exist"):
        step(tmp_path / "double", sources=["featurs"]).run(refuses)


def test_every_source_that_a_script_names_exists() -> None:
    scripts = (steps.SOURCE_ROOT / "scripts").glob("*.py")
    named = {name for script in scripts for name in re.findall(r'"([a-z_]+/[a-z_/]+(?:\.py)?)"', script.read_text())}
    assert "lifecycle/train_towers.py" in named
    assert [name for name in named if not (steps.SOURCE_ROOT / name).exists()] == []


def test_a_result_whose_outputs_elsewhere_are_gone_is_made_again(tmp_path: Path) -> None:
    def work(directory: Path) -> None:
        (tmp_path / "lists").mkdir()

    def run() -> bool:
        return step(tmp_path / "double", outputs=[tmp_path / "lists"]).run(work)

    assert run()
    assert not run()
    (tmp_path / "lists").rmdir()
    assert run()


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
    assert names(tmp_path) == [".double.lock", "double"]


def test_other_settings_do_not_go_on_from_what_a_killed_run_left(tmp_path: Path) -> None:
    def half(directory: Path) -> None:
        (directory / "checkpoint").write_text("of factor 2")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        step(tmp_path / "double").run(half)
    assert step(tmp_path / "double", config={"factor": 3}).run(writes("6"))
    assert names(tmp_path / "double") == ["result.txt", "step.json"]
    assert names(tmp_path) == [".double.lock", "double"]


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


def test_a_chain_whose_middle_was_made_from_other_inputs_is_not_built_upon(tmp_path: Path) -> None:
    def raw(value: int) -> Step:
        return step(tmp_path / "raw", name="raw", config={"value": value})

    clean = step(tmp_path / "clean", name="clean", inputs=[tmp_path / "raw"])
    model = step(tmp_path / "model", name="model", inputs=[tmp_path / "clean"])
    for one in (raw(1), clean, model):
        one.run(writes("1"))
    raw(2).run(writes("2"))
    with pytest.raises(MissingInput, match=r"clean was made from another .*raw than lies there now; run clean again"):
        model.run(refuses)
    clean.run(writes("2"))
    assert model.run(writes("2"))


def test_two_processes_do_not_work_in_the_same_directory(tmp_path: Path) -> None:
    def work(directory: Path) -> None:
        with pytest.raises(Occupied, match=r"another process holds .*/\.double\.lock; wait for its end"):
            step(tmp_path / "double").run(refuses)
        (directory / "result.txt").write_text("4")

    assert step(tmp_path / "double").run(work)
    assert not step(tmp_path / "double").run(refuses)


def test_a_kill_between_the_two_renames_loses_nothing(tmp_path: Path) -> None:
    step(tmp_path / "double").run(writes("4"))
    (tmp_path / "double").rename(tmp_path / ".double.former")
    assert not step(tmp_path / "double").run(refuses)
    assert names(tmp_path) == [".double.lock", "double"]


@pytest.mark.parametrize("place", range(1, 8))
def test_whenever_a_run_is_killed_the_next_one_ends_with_the_whole_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    step(tmp_path / "double").run(writes("4"))
    calls = 0

    def dies(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == place:
                raise KeyboardInterrupt
            return original(*arguments, **options)

        return call

    with monkeypatch.context() as patched:
        for owner, name in ((Path, "rename"), (Path, "unlink"), (Path, "write_text"), (steps.shutil, "rmtree")):
            patched.setattr(owner, name, dies(getattr(owner, name)))
        with contextlib.suppress(KeyboardInterrupt):
            step(tmp_path / "double", config={"factor": 3}).run(writes("6"))
    step(tmp_path / "double", config={"factor": 3}).run(writes("6"))
    assert names(tmp_path / "double") == ["result.txt", "step.json"]
    assert (tmp_path / "double" / "result.txt").read_text() == "6"
    assert read_step(tmp_path / "double")["config"] == {"factor": 3}
    assert not (tmp_path / ".double.partial").exists()


def test_a_result_with_a_damaged_record_is_made_again(tmp_path: Path) -> None:
    step(tmp_path / "double").run(writes("4"))
    (tmp_path / "double" / "step.json").write_text("")
    assert step(tmp_path / "double").run(writes("4"))
    assert json.loads((tmp_path / "double" / "step.json").read_text())["name"] == "double"
