import asyncio
import threading
from types import SimpleNamespace
from typing import cast

import pytest

from features.transforms import QueryFeatures
from serving.answers import Answer, answers_of
from serving.engine import InProcessEngine
from serving.errors import DeadlineExceeded, SpecMismatch
from serving.pipeline import Pipeline


def test_the_pipeline_answers_in_this_process(pipeline: Pipeline, queries: QueryFeatures) -> None:
    async def scenario() -> list[Answer]:
        engine = InProcessEngine(pipeline=pipeline)
        assert await engine.is_ready()
        answers = await engine.recommend(queries, k=5, spec_hash=pipeline.release.spec.hash, deadline_s=30.0)
        await engine.close()
        return answers

    got = asyncio.run(scenario())

    found = pipeline.recommend(queries, k=5)
    wanted = answers_of(found)
    assert [answer.items for answer in got] == [answer.items for answer in wanted]


def test_features_of_another_spec_are_read_again_once(pipeline: Pipeline, queries: QueryFeatures) -> None:
    right = pipeline.release.spec.hash

    async def scenario(second_hash: str) -> list[Answer]:
        async def reread() -> tuple[QueryFeatures, str]:
            return queries, second_hash

        engine = InProcessEngine(pipeline=pipeline)
        try:
            return await engine.recommend(queries, k=1, spec_hash="old", deadline_s=30.0, reread=reread)
        finally:
            await engine.close()

    assert len(asyncio.run(scenario(right))) == len(queries)
    with pytest.raises(SpecMismatch, match=f"{right}.*older"):
        asyncio.run(scenario("older"))


def test_a_slow_pipeline_is_a_passed_deadline(queries: QueryFeatures) -> None:
    go_on = threading.Event()

    class Slow:
        release = SimpleNamespace(spec=SimpleNamespace(hash="h"), release_id="r", delta=0)

        def recommend(self, queries: QueryFeatures, **_: object) -> None:
            go_on.wait(60)

    async def scenario() -> None:
        engine = InProcessEngine(pipeline=cast(Pipeline, Slow()))
        try:
            with pytest.raises(DeadlineExceeded, match="within 20 ms"):
                await engine.recommend(queries, k=1, spec_hash="h", deadline_s=0.02)
        finally:
            go_on.set()
            await engine.close()

    asyncio.run(scenario())
