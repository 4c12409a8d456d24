"""Every type of index that a config names can be built again from the file beside the index."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from towers.errors import UnfitPieces
from towers.index.builder_file import builder_of, read_builder, write_settings

CONFIGS = sorted((Path(__file__).parents[2] / "conf" / "index").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=[path.stem for path in CONFIGS])
def test_a_builder_of_each_config_is_read_as_it_was_written(path: Path, tmp_path: Path) -> None:
    settings = yaml.safe_load(path.read_text())
    write_settings(tmp_path / "builder.json", settings)
    builder = read_builder(tmp_path / "builder.json")

    def told(made: Any) -> Any:
        return {key: told(value) if hasattr(value, "build") else value for key, value in vars(made).items()}

    assert f"{type(builder).__module__}.{type(builder).__qualname__}" == settings["_target_"]
    assert told(builder) == told(builder_of(settings))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "got None"),
        ({"_target_": "os.system", "command": "true"}, "got 'os.system'"),
        ({"_target_": "towers.index.build.FlatBuilder", "halves": True}, "does not take these settings"),
        ({"_target_": ["towers.index.build.FlatBuilder"]}, "expected _target_ to be one of"),
    ],
)
def test_other_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UnfitPieces, match=message):
        builder_of(settings)


@pytest.mark.parametrize("content", ["{", "[]"])
def test_another_file_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "builder.json").write_text(content)
    with pytest.raises(UnfitPieces, match=r"builder\.json"):
        read_builder(tmp_path / "builder.json")
