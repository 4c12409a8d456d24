"""Starts and ends a Triton server of this machine.

Owns the command line, the server's environment variables, waiting until it is ready, and what is said when it is not.
Where the server's parts lie is triton_installation.py's, what is served is model_repository.py's.
"""

import http.client
import os
import re
import subprocess
import uuid
from pathlib import Path
from types import TracebackType
from typing import Self

from serving import child_process
from serving.errors import ServerFailed
from serving.model_repository import build_backends
from serving.settings import TritonSettings
from serving.triton_installation import TritonInstallation

HOST = "127.0.0.1"  # Triton's own default is every interface
START_ATTEMPTS = 3  # another process may take a port between its choice and its use
LOG_LINES = 12


class TritonServer:
    """A Triton of this machine that serves a model repository, as a context manager.

    It dies with the thread that started it; see `child_process.start`.

    Args:
        settings: how to start it.
        repository_dir: the model repository.
        work_dir: gets the backends and the log; one server at a time.

    Attributes:
        grpc_address: host:port.
        log_path: everything the server and its models print.
    """

    def __init__(self, *, settings: TritonSettings, repository_dir: Path, work_dir: Path) -> None:
        self.settings = settings
        self.repository_dir = repository_dir.absolute()
        self.work_dir = work_dir.absolute()
        self.log_path = self.work_dir / "triton.log"
        self.grpc_address = self.http_address = self.metrics_address = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._shared_memory_prefix = f"twostage_{uuid.uuid4().hex}_"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int | None:
        """Of the running server; none once it was stopped."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start and wait until every model is ready.

        Raises:
            EnvironmentMissing: the server is not installed.
            ServerFailed: it ended, or was not ready in time; the message has the telling lines of its log.
        """
        installation = TritonInstallation.find(self.settings.triton_python)
        backends_dir = self.work_dir / "backends"
        build_backends(
            python_backend_files=installation.python_backend_files,
            backends_dir=backends_dir,
            templates_dir=self.settings.templates_dir,
        )
        for _ in range(START_ATTEMPTS - 1):
            try:
                return self._start_once(installation, backends_dir)
            except ServerFailed as error:
                if "already in use" not in str(error):
                    raise
        return self._start_once(installation, backends_dir)

    def stop(self) -> None:
        """End the server and what it started; nothing happens if it is not running."""
        if self._process is None:
            return
        process, self._process = self._process, None
        child_process.stop(process, grace_s=self.settings.stop_timeout_s)
        for left in Path("/dev/shm").glob(f"{self._shared_memory_prefix}*"):  # only a killed stub leaves any
            left.unlink(missing_ok=True)

    def _start_once(self, installation: TritonInstallation, backends_dir: Path) -> None:
        settings = self.settings
        wanted = (settings.grpc_port, settings.http_port, settings.metrics_port)
        ports = [port or free for port, free in zip(wanted, child_process.free_ports(3), strict=True)]
        self.grpc_address, self.http_address, self.metrics_address = (f"{HOST}:{port}" for port in ports)
        command = [
            str(installation.server),
            f"--model-repository={self.repository_dir}",
            f"--backend-directory={backends_dir}",
            f"--cache-directory={installation.caches_dir}",
            f"--backend-config=python,shm-region-prefix-name={self._shared_memory_prefix}",
            *(f"--{service}-address={HOST}" for service in ("grpc", "http", "metrics")),
            *(f"--{name}-port={port}" for name, port in zip(("grpc", "http", "metrics"), ports, strict=True)),
            "--disable-auto-complete-config",
            "--model-control-mode=explicit",
            "--load-model=*",
            f"--exit-timeout-secs={max(1, int(settings.stop_timeout_s) - 2)}",
            f"--allow-gpu-metrics={str(settings.instances.device == 'gpu').lower()}",
        ]
        environment = _environment(installation, device=settings.instances.device)
        process = child_process.start(command, env=environment, log_path=self.log_path, working_dir=self.work_dir)
        self._process = process
        try:
            child_process.wait_until(
                lambda: _answers_ready(ports[1]), process=process, deadline_s=settings.ready_timeout_s, name="Triton"
            )
        except ServerFailed as error:
            self.stop()
            raise ServerFailed(f"{error}; {self.log_path} says:\n{telling_lines(self.log_path)}") from None
        except BaseException:  # Ctrl-C while it starts
            self.stop()
            raise


def telling_lines(log_path: Path) -> str:
    """What a Triton log says went wrong: which models did not load and why; else its errors; else its last lines."""
    lines = log_path.read_text(encoding="utf-8", errors="replace").splitlines()
    errors = []
    for line in lines:
        found = re.match(r'E\d{4} \S+ \d+ \S+\] "?(.*?)"?$|(error: .*)', line)
        if found and "CudaDriverHelper" not in line:  # said on every machine without a GPU
            message = found[1] or found[2]
            errors.append(message.split("\\n\\nAt:\\n")[0].replace("\\n", "\n"))  # without the Python stack
    unloaded = [message for message in errors if message.startswith("failed to load '")]
    return "\n".join((unloaded or errors or lines)[-LOG_LINES:])


def _environment(installation: TritonInstallation, *, device: str) -> dict[str, str]:
    """The server's whole environment: a PYTHONPATH or a proxy of the caller's must not reach its models."""
    environment = {
        "PATH": os.pathsep.join([str(installation.bin_dir), "/usr/local/bin", "/usr/bin", "/bin"]),
        "LD_LIBRARY_PATH": os.pathsep.join(map(str, installation.library_dirs)),
        "HOME": os.environ.get("HOME", "/"),
        "LANG": "C.UTF-8",
        "OMP_NUM_THREADS": "1",
        "PYTHONNOUSERSITE": "1",
    }
    if device == "gpu":
        environment |= {name: value for name, value in os.environ.items() if name.startswith(("CUDA_", "NVIDIA_"))}
    return environment


def _answers_ready(http_port: int) -> bool:
    connection = http.client.HTTPConnection(HOST, http_port, timeout=1.0)
    try:
        connection.request("GET", "/v2/health/ready")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
