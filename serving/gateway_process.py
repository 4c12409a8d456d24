"""Runs the gateway as a child process.

Owns its configuration file, its port, waiting until it answers and ending it. The gateway itself is gateway.py's.
"""

import dataclasses
import http.client
import json
import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from serving import child_process
from serving.errors import ServerFailed
from serving.settings import GatewaySettings

LOG_LINES = 12


class GatewayProcess:
    """A gateway of this machine, as a context manager; it dies with the thread that started it.

    Args:
        settings: a port of 0 takes a free one.
        work_dir: gets the configuration file and the log.
        ready_timeout_s: importing Feast alone can cost 10 s.
        stop_timeout_s: from SIGTERM to SIGKILL.

    Attributes:
        address: host:port.
        log_path: everything it prints.
    """

    def __init__(
        self, *, settings: GatewaySettings, work_dir: Path, ready_timeout_s: float = 90.0, stop_timeout_s: float = 15.0
    ) -> None:
        port = settings.port or child_process.free_ports(1)[0]
        self.settings = dataclasses.replace(settings, port=port)
        self.address = f"{settings.host}:{port}"
        self.work_dir = work_dir
        self.log_path = work_dir / "gateway.log"
        self._ready_timeout_s = ready_timeout_s
        self._stop_timeout_s = stop_timeout_s
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int | None:
        """Of the running gateway; none once it was stopped."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start and wait until it answers.

        Raises:
            ServerFailed: it ended, or did not answer in time; the message has the end of its log.
        """
        self.work_dir.mkdir(parents=True, exist_ok=True)
        config_path = self.work_dir / "gateway.json"
        config_path.write_text(json.dumps(dataclasses.asdict(self.settings), default=str, indent=2), encoding="utf-8")
        # Relative paths in the settings are the caller's, so it runs in the caller's folder.
        process = child_process.start(
            [sys.executable, "-m", "serving.gateway", "--config", str(config_path)],
            env=dict(os.environ),
            log_path=self.log_path,
        )
        self._process = process
        try:
            child_process.wait_until(
                self._answers, process=process, deadline_s=self._ready_timeout_s, name="the gateway"
            )
        except ServerFailed as error:
            self.stop()
            lines = self.log_path.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:]
            raise ServerFailed(f"{error}; {self.log_path} says:\n" + "\n".join(lines)) from None
        except BaseException:  # Ctrl-C while it starts
            self.stop()
            raise

    def stop(self) -> None:
        """End it; nothing happens if it is not running."""
        if self._process is not None:
            process, self._process = self._process, None
            child_process.stop(process, grace_s=self._stop_timeout_s)

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection(self.settings.host, self.settings.port, timeout=2.0)
        try:
            connection.request("GET", "/healthz")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
