import logging
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from evaluation.errors import EvaluationError
from features.errors import FeaturesError
from lifecycle.entry import plain_errors
from lifecycle.steps import MissingInput, Occupied
from serving.errors import ReleaseDamaged, ServingError
from towers.errors import LossNotFinite, TowersError, UnfitPieces

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "kind",
    [
        FeaturesError,
        EvaluationError,
        TowersError,
        UnfitPieces,
        LossNotFinite,
        ServingError,
        ReleaseDamaged,
        MissingInput,
        Occupied,
        ValueError,
        FileNotFoundError,
    ],
)
def test_a_foreseen_error_ends_with_its_message_and_status_1(
    kind: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(SystemExit) as ended, plain_errors():
        raise kind("what to do: make setup")
    assert ended.value.code == 1
    assert [record.getMessage() for record in caplog.records] == [f"{kind.__name__}: what to do: make setup"]
    assert caplog.records[0].exc_info is None


def test_ctrl_c_ends_with_status_130_and_says_what_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(SystemExit) as ended, plain_errors():
        raise KeyboardInterrupt
    assert ended.value.code == 130
    assert "finished steps are kept, the same command goes on from here" in caplog.text


def test_what_nobody_foresaw_keeps_its_stack() -> None:
    with pytest.raises(ZeroDivisionError), plain_errors():
        raise ZeroDivisionError


def test_what_libraries_say_to_their_developers_is_left_out_and_the_rest_is_not() -> None:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with plain_errors():
            for message in ("The 'train_dataloader' does not have many workers", "the loss is nan"):
                warnings.warn(message, UserWarning, stacklevel=1)
    assert [str(one.message) for one in said] == ["the loss is nan"]


def test_nothing_is_said_when_nothing_goes_wrong(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), plain_errors():
        pass
    assert caplog.records == []


def test_a_script_prints_the_message_without_a_stack(tmp_path: Path) -> None:
    named = ("data", "towers", "index")
    overrides = [*(f"{name}_dir={tmp_path}/{name}" for name in named), f"hydra.run.dir={tmp_path}/run"]
    done = subprocess.run(
        [sys.executable, "scripts/build_index.py", *overrides],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    assert f"MissingInput: {tmp_path}/data holds no finished step" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert not (tmp_path / "index").exists()
