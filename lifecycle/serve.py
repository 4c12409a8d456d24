"""Start what serves a release, and end it: Triton (or the pipeline in process) behind the gateway.

Owns which processes run for a mode and in which order they start and stop.
"""

import dataclasses
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lifecycle.steps import exclusive
from serving.errors import SettingsError
from serving.gateway_process import GatewayProcess
from serving.model_repository import build_model_repository
from serving.settings import GatewaySettings, ServedLogSettings, TritonSettings, build_settings
from serving.triton import TritonServer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ListenSettings:
    """The part of the gateway's settings that conf/serving/*.yaml holds: see GatewaySettings."""

    port: int = 8080
    deadline_ms: float = 500.0


@dataclass(frozen=True)
class ServeSettings:
    """conf/serving/*.yaml, less the places of the artefacts.

    Attributes:
        mode: `triton`, or `inprocess` for the same pipeline without Triton.
    """

    mode: Literal["triton", "inprocess"]
    gateway: ListenSettings
    triton: TritonSettings


def serve_settings(content: Mapping[str, Any]) -> ServeSettings:
    """Settings from conf/serving as plain values; unknown keys, wrong types and missing values raise SettingsError."""
    plain = json.loads(json.dumps(content, default=dict))
    known = {"mode", "pipeline", "triton", "gateway"}
    for key in set(plain) ^ known:
        raise SettingsError(key=f"serving.{key}", message=f"unknown or missing; expected {', '.join(sorted(known))}")
    gateway = plain["gateway"]
    flat = {"mode": plain["mode"], "triton": {**plain["triton"], "pipeline": plain["pipeline"]}}
    return build_settings(ServeSettings, {**flat, "gateway": gateway}, prefix="serving.")


@dataclass(frozen=True)
class Addresses:
    """Where the processes listen; no gRPC in process."""

    http: str
    grpc: str | None


@contextmanager
def serving(settings: ServeSettings, *, release_dir: Path, store_dir: Path, work_dir: Path) -> Iterator[Addresses]:
    """Serve until the block ends, however it ends.

    Args:
        settings: what runs.
        release_dir: the release.
        store_dir: the online store with the queries' features.
        work_dir: gets Triton's model repository with these settings, and logs, the served log among them.

    Raises:
        Occupied: another server works in `work_dir`.
    """
    work_dir.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        stack.enter_context(exclusive(work_dir / ".lock"))
        grpc = None
        if settings.mode == "triton":
            repository_dir = work_dir / "model_repository"
            build_model_repository(release_dir=release_dir, repository_dir=repository_dir, settings=settings.triton)
            triton = TritonServer(settings=settings.triton, repository_dir=repository_dir, work_dir=work_dir / "triton")
            grpc = stack.enter_context(triton).grpc_address
            logger.info("Triton answers gRPC at %s, log: %s", grpc, triton.log_path)
        gateway = GatewaySettings(
            release_dir=release_dir,
            online_store_dir=store_dir,
            mode=settings.mode,
            pipeline=settings.triton.pipeline,
            port=settings.gateway.port,
            deadline_ms=settings.gateway.deadline_ms,
            served_log=ServedLogSettings(path=work_dir / "served.jsonl"),
        )
        if grpc is not None:
            gateway = dataclasses.replace(gateway, triton_address=grpc)
        process = stack.enter_context(GatewayProcess(settings=gateway, work_dir=work_dir))
        logger.info("the gateway answers HTTP at http://%s/v1/recommend, log: %s", process.address, process.log_path)
        yield Addresses(http=process.address, grpc=grpc)
