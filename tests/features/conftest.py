import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from features.columns import FeatureColumns
from features.spec import FeatureSpec, TextLayout
from features.stores.offline_store import write_query_states
from features.stores.online_settings import OnlineSettings, RedisSettings
from features.text import TextTokenizer
from serving import child_process

REDIS_TIMEOUT_S = 20.0


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    """Whole words: [PAD] 0, [CLS] 1, [SEP] 2, [UNK] 3, then toy, story, a, boy and the full stop."""
    path: Path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    words = ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "toy", "story", "a", "boy", ".")
    words_tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, "[UNK]"))
    words_tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    words_tokenizer.save(str(path))
    return TextTokenizer(path)


@pytest.fixture(scope="session")
def start_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., RedisSettings]]:
    """Start a real Redis of its own on a free loopback port, which keeps nothing; all end with the tests."""
    binary = shutil.which("redis-server")
    if binary is None:
        pytest.skip("there is no redis-server on PATH: `apt-get install redis-server` brings it")
    started = []

    def start(*options: str) -> RedisSettings:
        work_dir, port = tmp_path_factory.mktemp("redis"), child_process.free_ports(1)[0]
        command = [binary, "--bind", "127.0.0.1", "--port", str(port), "--dir", str(work_dir), "--save", "", *options]
        process = child_process.start(command, env={}, log_path=work_dir / "log", working_dir=work_dir)
        started.append(process)

        def answers() -> bool:
            with socket.socket() as asked:
                asked.settimeout(1.0)
                return asked.connect_ex(("127.0.0.1", port)) == 0

        child_process.wait_until(answers, process=process, deadline_s=REDIS_TIMEOUT_S, name="redis-server")
        return RedisSettings(port=port)

    yield start
    for process in started:
        child_process.stop(process, grace_s=5.0)


@pytest.fixture(scope="session")
def redis_settings(start_redis: Callable[..., RedisSettings]) -> RedisSettings:
    """One Redis for all tests that only use it."""
    return start_redis()


@pytest.fixture(params=["sqlite", "redis"], scope="session")
def online(request: pytest.FixtureRequest) -> OnlineSettings:
    """Each kind of online store."""
    if request.param == "sqlite":
        return OnlineSettings()
    return OnlineSettings(type="redis", redis=request.getfixturevalue("redis_settings"))


@pytest.fixture(scope="session")
def state_spec() -> FeatureSpec:
    """Queries with a text, two categories and two numbers, of which a store keeps five events."""
    columns = FeatureColumns(
        query_text="says",
        query_categories=("gender", "city"),
        query_numbers=("age", "height"),
        item_categories=(),
        item_numbers=(),
        item_texts=(),
        history_length=5,
        stored_history=5,
    )
    return columns.spec(text=TextLayout(query_tokens=4), ranker_features=())


@pytest.fixture(scope="session")
def write_states(state_spec: FeatureSpec) -> Callable[..., Path]:
    """Write the states of a log in which query q has the events p = 0, 1, ..., two of them at each second from 1 on.

    Event p of q is about item `iq-p`, has the value p, and is a purchase where p is odd, a view else. The query `quiet`
    has no events.
    """

    def write(
        path: Path, *, num_queries: int, num_events: int, latest_only: bool = False, spec: FeatureSpec = state_spec
    ) -> Path:
        rows = [(q, place) for q in range(num_queries) for place in range(num_events)]
        events = pa.table(
            {
                "query_id": [f"q{q}" for q, _ in rows],
                "item_id": [f"i{q}-{place}" for q, place in rows],
                "event": ["purchase" if place % 2 else "view" for _, place in rows],
                "value": [float(place) for _, place in rows],
                "occurred_at_ms": [1_000 * (place // 2 + 1) for _, place in rows],
                "position": pa.array([place for _, place in rows], pa.int32()),
                "split": ["train"] * len(rows),
            }
        )
        queries = pa.table(
            {
                "query_id": [*(f"q{q}" for q in range(num_queries)), "quiet"],
                "says": [f"words of {q}" for q in range(num_queries)] + [None],
                "gender": ["F"] * num_queries + [None],
                "city": [f"c{q}" for q in range(num_queries)] + ["Ö"],
                "age": [float(q) for q in range(num_queries)] + [None],
                "height": pa.array([170] * (num_queries + 1), pa.int32()),
            }
        )
        write_query_states(path, events=events, queries=queries, spec=spec, latest_only=latest_only)
        return path

    return write
