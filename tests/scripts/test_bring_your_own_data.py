"""docs/bring-your-own-data.md says nothing that does not compose; and a changed file is another input."""

import importlib.util
import re
import shlex
from pathlib import Path
from types import ModuleType

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "bring-your-own-data.md").read_text(encoding="utf-8")
FENCES = re.findall(r"^```(\w*)\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
YAML = next(body for language, body in FENCES if language == "yaml")
COMMANDS = [
    line
    for language, body in FENCES
    if not language
    for line in body.replace("\\\n", " ").splitlines()
    if line.startswith(".venv/bin/python scripts/")
]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_script_command_composes(command, tmp_path):
    words = shlex.split(command)[1:]
    overrides = [word for word in words[1:] if "=" in word]
    if "--config-dir" in words:
        (tmp_path / "dataset").mkdir()
        (tmp_path / "dataset" / "mine.yaml").write_text(YAML)
        overrides.append(f"hydra.searchpath=[{tmp_path}]")
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "conf")):
        assert compose(config_name=Path(words[0]).stem, overrides=overrides) is not None


def test_the_page_was_read():
    stems = {Path(shlex.split(command)[1]).stem for command in COMMANDS}
    assert {"prepare_data", "run_pipeline", "serve", "recommend"} <= stems


@pytest.fixture(scope="module")
def composed() -> ModuleType:
    spec = importlib.util.spec_from_file_location("composed", ROOT / "scripts" / "composed.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_files_and_folders_that_a_config_names_are_stamped_and_change_with_their_content(composed, tmp_path):
    (tmp_path / "log.csv").write_text("query_id\n1\n")
    (tmp_path / "release").mkdir()
    (tmp_path / "release" / "ratings.csv").write_text("userId\n")
    node = OmegaConf.create(
        {
            "events": {"path": str(tmp_path / "log.csv"), "columns": {"item_id": "item"}},
            "path": str(tmp_path / "release"),
            "items": {"path": None, "text": ["title"]},
            "url": str(tmp_path),  # a folder that is no path
        }
    )
    before = composed.file_stamps(node)
    assert set(before) == {str(tmp_path / "log.csv"), str(tmp_path / "release/ratings.csv")}
    (tmp_path / "log.csv").write_text("query_id\n1\n2\n")
    after = composed.file_stamps(node)
    assert after[str(tmp_path / "log.csv")][0] == len("query_id\n1\n2\n")
    assert {name for name in before if before[name] != after[name]} == {str(tmp_path / "log.csv")}
