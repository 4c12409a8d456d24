import json
from pathlib import Path
from typing import Any

import pytest

from serving.errors import SettingsError
from serving.settings import (
    GatewaySettings,
    Instances,
    ServedLogSettings,
    TritonSettings,
    build_settings,
    read_settings,
)

GATEWAY = {"release_dir": "release", "online_store_dir": "store"}


def test_values_of_every_kind_are_built() -> None:
    content = {**GATEWAY, "deadline_ms": 250, "mode": "inprocess", "served_log": {"path": "served.jsonl"}}

    settings = build_settings(GatewaySettings, content)

    assert settings == GatewaySettings(
        release_dir=Path("release"),
        online_store_dir=Path("store"),
        deadline_ms=250.0,
        mode="inprocess",
        served_log=ServedLogSettings(path=Path("served.jsonl")),
    )
    assert isinstance(settings.deadline_ms, float)


def test_null_switches_an_optional_part_off() -> None:
    assert build_settings(GatewaySettings, {**GATEWAY, "served_log": None}).served_log is None


def test_a_nested_dataclass_may_come_built() -> None:
    assert build_settings(TritonSettings, {"instances": Instances(ranker=3)}).instances.ranker == 3


@pytest.mark.parametrize(
    ("cls", "content", "key", "problem"),
    [
        (GatewaySettings, {**GATEWAY, "dedline_ms": 9}, "dedline_ms", "unknown"),
        (GatewaySettings, {"release_dir": "r"}, "online_store_dir", "missing"),
        (GatewaySettings, {**GATEWAY, "port": "8080"}, "port", "expected int, got str"),
        (GatewaySettings, {**GATEWAY, "port": True}, "port", "expected int, got bool"),
        (GatewaySettings, {**GATEWAY, "port": 70_000}, "port", "expected a port"),
        (GatewaySettings, {**GATEWAY, "deadline_ms": None}, "deadline_ms", "expected float"),
        (GatewaySettings, {**GATEWAY, "deadline_ms": 0}, "deadline_ms", "more than 0"),
        (GatewaySettings, {**GATEWAY, "mode": "grpc"}, "mode", "one of triton, inprocess"),
        (GatewaySettings, {**GATEWAY, "served_log": {"path": "x", "max_byte": 1}}, "served_log.max_byte", "unknown"),
        (GatewaySettings, {**GATEWAY, "served_log": {"path": "x", "max_bytes": 1}}, "served_log.max_bytes", "1024"),
        (GatewaySettings, {**GATEWAY, "served_log": {}}, "served_log.path", "missing"),
        (GatewaySettings, {**GATEWAY, "served_log": "x"}, "served_log", "expected a mapping"),
        (TritonSettings, {"instances": {"recommend": 0}}, "instances.recommend", "1 to 64"),
        (TritonSettings, {"instances": {"device": "tpu"}}, "instances.device", "one of cpu, gpu"),
        (TritonSettings, {"ready_timeout_s": float("nan")}, "ready_timeout_s", "more than 0"),
        (TritonSettings, {"queue_delay_us": -1}, "queue_delay_us", "0 to 1,000,000"),
    ],
)
def test_a_wrong_setting_is_an_error_that_names_its_key(cls: type, content: Any, key: str, problem: str) -> None:
    with pytest.raises(SettingsError, match=problem) as raised:
        build_settings(cls, content)

    assert raised.value.key == key
    assert str(raised.value).startswith(f"{key}: ")


def test_settings_are_read_from_a_json_file(tmp_path: Path) -> None:
    path = tmp_path / "gateway.json"
    path.write_text(json.dumps(GATEWAY))

    assert read_settings(GatewaySettings, path).release_dir == Path("release")


@pytest.mark.parametrize("content", [None, "{", "[1]"])
def test_a_file_that_is_no_json_object_is_an_error(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "gateway.json"
    if content is not None:
        path.write_text(content)

    with pytest.raises(SettingsError, match="expected"):
        read_settings(GatewaySettings, path)
