"""Settings of the processes that serve: frozen dataclasses, built strictly from plain mappings.

Owns what can be set and what a valid value is. A key that nothing reads, a value of another type and a missing value
are errors that name the key, because a misspelt deadline must not silently become the default one.
"""

import json
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

from serving.errors import SettingsError

T = TypeVar("T")


def _require(condition: bool, *, key: str, message: str) -> None:
    if not condition:
        raise SettingsError(key=key, message=message)


@dataclass(frozen=True)
class PipelineSettings:
    """How many candidates are retrieved, how many of them are ranked, and on how many threads a model runs."""

    num_candidates: int = 200
    num_ranked: int = 100
    num_threads: int = 1

    def __post_init__(self) -> None:
        for name in ("num_candidates", "num_ranked", "num_threads"):
            _require(getattr(self, name) >= 1, key=name, message="expected at least 1")
        _require(
            self.num_ranked <= self.num_candidates,
            key="num_ranked",
            message=f"expected at most num_candidates = {self.num_candidates}",
        )


@dataclass(frozen=True)
class Instances:
    """How many copies of each Triton model run, and on what.

    Attributes:
        device: `gpu` needs onnxruntime-gpu in the server's environment; `recommend` itself always runs on the CPU.
    """

    recommend: int = 2
    query_tower: int = 1
    item_tower: int = 1
    ranker: int = 1
    device: Literal["cpu", "gpu"] = "cpu"

    def __post_init__(self) -> None:
        for name in ("recommend", "query_tower", "item_tower", "ranker"):
            _require(1 <= getattr(self, name) <= 64, key=name, message="expected 1 to 64 instances")


@dataclass(frozen=True)
class TritonSettings:
    """How Triton is started.

    Attributes:
        triton_python: the interpreter of the environment that holds `nvidia-pytriton`.
        templates_dir: the model repository's templates (triton_models/).
        models: whether `recommend` runs the towers and the ranker itself or calls them as Triton models.
        pipeline: how much `recommend` retrieves and ranks.
        grpc_port: 0 takes a free one; so do the other ports.
        queue_delay_us: how long a request may wait for others to share its batch.
        ready_timeout_s: until every model is loaded.
        stop_timeout_s: from SIGTERM to SIGKILL.
    """

    triton_python: Path = Path(".venv-triton/bin/python")
    templates_dir: Path = Path("triton_models")
    models: Literal["inprocess", "bls"] = "inprocess"
    pipeline: PipelineSettings = field(default_factory=PipelineSettings)
    instances: Instances = Instances()
    grpc_port: int = 0
    http_port: int = 0
    metrics_port: int = 0
    queue_delay_us: int = 0
    ready_timeout_s: float = 60.0
    stop_timeout_s: float = 20.0

    def __post_init__(self) -> None:
        for name in ("grpc_port", "http_port", "metrics_port"):
            _require(0 <= getattr(self, name) <= 65535, key=name, message="expected a port, or 0 for a free one")
        for name in ("ready_timeout_s", "stop_timeout_s"):
            _require(getattr(self, name) > 0, key=name, message="expected more than 0 seconds")
        _require(0 <= self.queue_delay_us <= 1_000_000, key="queue_delay_us", message="expected 0 to 1,000,000")


@dataclass(frozen=True)
class ServedLogSettings:
    """Where and how much of what was served is kept: at most `max_bytes` x `max_files`, oldest dropped."""

    path: Path
    max_bytes: int = 64 * 1024 * 1024
    max_files: int = 8

    def __post_init__(self) -> None:
        _require(self.max_bytes >= 1024, key="max_bytes", message="expected at least 1024")
        _require(self.max_files >= 1, key="max_files", message="expected at least 1")


@dataclass(frozen=True)
class GatewaySettings:
    """How the gateway runs.

    Attributes:
        release_dir: the release whose popular items answer when nothing else can; in process, also the one served.
        online_store_dir: where the queries' features were materialised.
        mode: `triton` asks the server at `triton_address`, `inprocess` runs the pipeline in this process.
        pipeline: how much is retrieved and ranked in process.
        deadline_ms: for one answer, the reading of features included; after it the fallback answers.
        max_concurrent: requests at a time; above it the answer is 503 at once.
        served_log: none switches the log off.
    """

    release_dir: Path
    online_store_dir: Path
    mode: Literal["triton", "inprocess"] = "triton"
    triton_address: str = "127.0.0.1:8001"
    pipeline: PipelineSettings = field(default_factory=PipelineSettings)
    host: str = "127.0.0.1"
    port: int = 8080
    deadline_ms: float = 500.0
    max_body_bytes: int = 16_384
    max_concurrent: int = 256
    served_log: ServedLogSettings | None = None

    def __post_init__(self) -> None:
        _require(0 <= self.port <= 65535, key="port", message="expected a port, or 0 for a free one")
        _require(self.deadline_ms > 0, key="deadline_ms", message="expected more than 0 milliseconds")
        _require(self.max_body_bytes >= 256, key="max_body_bytes", message="expected at least 256")
        _require(self.max_concurrent >= 1, key="max_concurrent", message="expected at least 1")


def read_settings(cls: type[T], path: Path) -> T:
    """Build settings from a json file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(key=str(path), message=f"expected a readable json file: {error}") from error
    return build_settings(cls, content)


def build_settings(cls: type[T], content: Mapping[str, object], *, prefix: str = "") -> T:
    """Build a frozen dataclass from a mapping of plain values; nested dataclasses from nested mappings.

    Raises:
        SettingsError: a key is unknown or missing, or a value has the wrong type or is out of range.
    """
    if not is_dataclass(cls):
        raise TypeError(f"{cls} is not a dataclass")
    if not isinstance(content, Mapping):
        raise SettingsError(key=prefix.rstrip(".") or cls.__name__, message=f"expected a mapping, got {content!r}")
    known = {one.name: one for one in fields(cls)}
    for key in content:
        if key not in known:
            raise SettingsError(key=f"{prefix}{key}", message=f"unknown; {cls.__name__} has {', '.join(known)}")
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    for name, one in known.items():
        if name in content:
            values[name] = _convert(content[name], hints[name], key=f"{prefix}{name}")
        elif one.default is MISSING and one.default_factory is MISSING:
            raise SettingsError(key=f"{prefix}{name}", message=f"missing; {cls.__name__} has no default for it")
    try:
        return cls(**values)
    except SettingsError as error:  # from a range check, which knows the field but not the way to it
        if not prefix:
            raise
        raise SettingsError(key=f"{prefix}{error.key}", message=error.problem) from None


def _convert(value: object, hint: Any, *, key: str) -> object:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):  # only `X | None`
        inner = next(argument for argument in arguments if argument is not types.NoneType)
        return None if value is None else _convert(value, inner, key=key)
    if origin is Literal:
        if value in arguments:
            return value
        raise SettingsError(key=key, message=f"expected one of {', '.join(map(str, arguments))}, got {value!r}")
    if origin is tuple:
        if isinstance(value, (list, tuple)):
            return tuple(_convert(one, arguments[0], key=f"{key}[{place}]") for place, one in enumerate(value))
        raise SettingsError(key=key, message=f"expected a list, got {value!r}")
    if is_dataclass(hint) and isinstance(hint, type):
        return value if isinstance(value, hint) else build_settings(hint, _mapping(value, key=key), prefix=f"{key}.")
    if hint is Path and isinstance(value, (str, Path)):
        return Path(value)
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    name = getattr(hint, "__name__", str(hint))
    raise SettingsError(key=key, message=f"expected {name}, got {type(value).__name__} {value!r}")


def _mapping(value: object, *, key: str) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise SettingsError(key=key, message=f"expected a mapping, got {type(value).__name__} {value!r}")
    return value
