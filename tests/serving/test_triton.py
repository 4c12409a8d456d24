import dataclasses
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tritonclient.grpc as triton
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from serving.errors import ServerFailed
from serving.settings import TritonSettings
from serving.triton import TritonServer

# The toy doubles x: [B, n] -> [B, n], and looks rows up in a table of 3: rows [B] -> [B, 2].
TOY_CONFIG = """
name: "toy"
backend: "onnxruntime"
max_batch_size: 8
input [
  { name: "x" data_type: TYPE_FP32 dims: [ -1 ] allow_ragged_batch: true },
  { name: "row" data_type: TYPE_INT64 dims: [ 1 ] }
]
output [
  { name: "doubled" data_type: TYPE_FP32 dims: [ -1 ] },
  { name: "entry" data_type: TYPE_FP32 dims: [ 1, 2 ] }
]
instance_group [ { kind: KIND_CPU count: 1 } ]
dynamic_batching { max_queue_delay_microseconds: 100000 }
"""


def wait_until(condition: Callable[[], bool], *, seconds: float = 30.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return False


def session_members(leader: int) -> list[int]:
    """Processes that a server and its stubs are; zombies wait for whoever adopted them and do not count."""
    members = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, session = stat.read_text().rpartition(") ")[2].split()[:4]
        except OSError:
            continue
        if int(session) == leader and state != "Z":
            members.append(int(stat.parent.name))
    return members


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("toy") / "models"
    (directory / "toy" / "1").mkdir(parents=True)
    table = onnx.helper.make_tensor("table", onnx.TensorProto.FLOAT, [3, 2], [0.0, 1.0, 2.0, 3.0, 4.0, 5.0])
    value_info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Add", ["x", "x"], ["doubled"]),
            onnx.helper.make_node("Gather", ["table", "row"], ["entry"]),
        ],
        "toy",
        [value_info("x", onnx.TensorProto.FLOAT, ["B", "n"]), value_info("row", onnx.TensorProto.INT64, ["B", 1])],
        [
            value_info("doubled", onnx.TensorProto.FLOAT, ["B", "n"]),
            value_info("entry", onnx.TensorProto.FLOAT, ["B", 1, 2]),
        ],
        initializer=[table],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=10)
    onnx.save(model, directory / "toy" / "1" / "model.onnx")
    (directory / "toy" / "config.pbtxt").write_text(TOY_CONFIG)
    return directory


@pytest.fixture(scope="module")
def server(
    repository: Path, triton_settings: TritonSettings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TritonServer]:
    os.environ["PYTHONPATH"] = "/from/the/caller"
    try:
        with TritonServer(
            settings=triton_settings, repository_dir=repository, work_dir=tmp_path_factory.mktemp("work")
        ) as started:
            yield started
    finally:
        del os.environ["PYTHONPATH"]


@pytest.fixture(scope="module")
def client(server: TritonServer) -> Iterator[triton.InferenceServerClient]:
    client = triton.InferenceServerClient(server.grpc_address)
    yield client
    client.close()


def ask(client: triton.InferenceServerClient, x: NDArray[Any], rows: list[int]) -> tuple[NDArray[Any], NDArray[Any]]:
    tensors = {"x": (x.astype(np.float32), "FP32"), "row": (np.array(rows)[:, None], "INT64")}
    inputs = []
    for name, (array, datatype) in tensors.items():
        inputs.append(triton.InferInput(name, list(array.shape), datatype))
        inputs[-1].set_data_from_numpy(array)
    result = client.infer("toy", inputs, client_timeout=20.0)
    return result.as_numpy("doubled"), result.as_numpy("entry")


def test_an_unmodified_onnxruntime_repository_is_served(client: triton.InferenceServerClient) -> None:
    doubled, entry = ask(client, np.array([[1.0, 2.5], [3.0, -4.0]]), [2, 0])

    assert doubled.tolist() == [[2.0, 5.0], [6.0, -8.0]]
    assert entry.tolist() == [[[4.0, 5.0]], [[0.0, 1.0]]]


def test_requests_of_one_batch_get_their_own_answers_whatever_their_shapes(server: TritonServer) -> None:
    widths = [1, 2, 2, 3, 2, 1]

    def one(place: int) -> tuple[NDArray[Any], NDArray[Any]]:
        with triton.InferenceServerClient(server.grpc_address) as own:
            return ask(own, np.full((1 + place % 2, widths[place]), float(place)), [place % 3] * (1 + place % 2))

    with ThreadPoolExecutor(len(widths)) as threads:
        answers = list(threads.map(one, range(len(widths))))

    for place, (doubled, entry) in enumerate(answers):
        assert doubled.tolist() == [[2.0 * place] * widths[place]] * (1 + place % 2)
        assert entry[:, 0, 0].tolist() == [2.0 * (place % 3)] * (1 + place % 2)


def test_a_failing_request_is_an_error_and_the_server_goes_on(client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="out of data bounds") as raised:
        ask(client, np.array([[1.0]]), [7])

    assert raised.value.status() == "StatusCode.INTERNAL"
    assert ask(client, np.array([[1.0]]), [1])[0].tolist() == [[2.0]]


def test_only_the_loopback_interface_is_listened_on(server: TritonServer) -> None:
    def listening() -> list[str]:
        process = Path(f"/proc/{server.pid}")
        inodes = {os.readlink(entry) for entry in (process / "fd").iterdir() if entry.is_symlink()}
        tables = (process / "net" / name for name in ("tcp", "tcp6"))
        lines = [line.split() for table in tables for line in table.read_text().splitlines()[1:]]
        return [line[1].split(":")[0] for line in lines if line[3] == "0A" and f"socket:[{line[9]}]" in inodes]

    assert wait_until(lambda: len(listening()) == 3)  # grpc, http and, last, metrics
    # 127.0.0.1, little endian; gRPC takes it as an IPv4 address mapped into IPv6.
    assert set(listening()) <= {"0100007F", "0000000000000000FFFF00000100007F"}


def test_the_callers_environment_does_not_reach_the_server(server: TritonServer) -> None:
    environment = Path(f"/proc/{server.pid}/environ").read_text().split("\0")

    assert {line.split("=")[0] for line in environment if line} == {
        "HOME",
        "LANG",
        "LD_LIBRARY_PATH",
        "OMP_NUM_THREADS",
        "PATH",
        "PYTHONNOUSERSITE",
    }


def test_a_busy_port_is_named(server: TritonServer, triton_settings: TritonSettings, tmp_path: Path) -> None:
    port = int(server.grpc_address.split(":")[1])
    (tmp_path / "models").mkdir()  # no models: it starts and fails faster
    second = TritonServer(
        settings=dataclasses.replace(triton_settings, grpc_port=port),
        repository_dir=tmp_path / "models",
        work_dir=tmp_path,
    )

    with pytest.raises(ServerFailed, match=f"127.0.0.1:{port}' already in use"):
        second.start()

    assert second.pid is None


def test_a_model_that_does_not_load_stops_the_start_with_its_reason(
    repository: Path, triton_settings: TritonSettings, tmp_path: Path
) -> None:
    shutil.copytree(repository, tmp_path / "models")
    (tmp_path / "models" / "toy" / "1" / "model.onnx").write_bytes(b"no model")
    server = TritonServer(settings=triton_settings, repository_dir=tmp_path / "models", work_dir=tmp_path)

    with pytest.raises(ServerFailed, match=r"(?s)failed to load 'toy'.*model\.onnx failed") as raised:
        server.start()

    assert str(tmp_path / "triton.log") in str(raised.value)
    assert server.pid is None


def test_a_config_that_names_other_tensors_does_not_load(
    repository: Path, triton_settings: TritonSettings, tmp_path: Path
) -> None:
    shutil.copytree(repository, tmp_path / "models")
    config = tmp_path / "models" / "toy" / "config.pbtxt"
    config.write_text(TOY_CONFIG.replace('name: "x"', 'name: "y"'))

    with pytest.raises(ServerFailed, match=re.escape("maps ['x', 'row'] to ['doubled', 'entry']")):
        TritonServer(settings=triton_settings, repository_dir=tmp_path / "models", work_dir=tmp_path).start()


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_no_server_outlives_its_parent(
    end: signal.Signals, repository: Path, triton_settings: TritonSettings, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", _PARENT, str(triton_settings.triton_python), str(triton_settings.templates_dir)]
    parent = subprocess.Popen(
        [*command, str(repository), str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert parent.stdout is not None
    with parent.stdout:
        pid = int(parent.stdout.readline())
    assert len(session_members(pid)) == 2  # the server and one stub

    parent.send_signal(end)
    parent.wait(timeout=60)

    assert wait_until(lambda: not session_members(pid))


_PARENT = f"""
import sys, time
sys.path.insert(0, {str(Path.cwd())!r})
from pathlib import Path
from serving.settings import TritonSettings
from serving.triton import TritonServer
python, templates, repository, work = map(Path, sys.argv[1:])
settings = TritonSettings(triton_python=python, templates_dir=templates)
with TritonServer(settings=settings, repository_dir=repository, work_dir=work) as server:
    print(server.pid, flush=True)
    time.sleep(600)
"""
