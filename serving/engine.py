"""What the gateway asks for answers: Triton over gRPC, or the pipeline in this process.

Owns the protocol of the two and the second one; the first is `client.AsyncRecommendClient`.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol

from features.transforms import QueryFeatures
from serving.answers import Answer, answers_of
from serving.client import AsyncReread
from serving.errors import DeadlineExceeded, SpecMismatch
from serving.item_filter import ItemFilter

if TYPE_CHECKING:  # a gateway in front of Triton needs neither faiss nor onnxruntime
    from serving.pipeline import Pipeline


class Engine(Protocol):
    """Whatever answers queries whose features were read."""

    async def recommend(
        self,
        queries: QueryFeatures,
        *,
        k: int,
        spec_hash: str,
        deadline_s: float,
        with_candidates: bool = False,
        only: ItemFilter | None = None,
        request_id: str = "",
        reread: AsyncReread | None = None,
    ) -> list[Answer]:
        """One answer a query; raises what `client.RecommendClient.recommend` raises."""
        ...

    async def is_ready(self) -> bool:
        """Whether it would answer now."""
        ...

    async def close(self) -> None:
        """Let go of connections and threads."""
        ...


class InProcessEngine:
    """The pipeline in threads of this process.

    Args:
        pipeline: an open one.
        num_threads: requests worked on at a time; the others wait within their deadline.
    """

    def __init__(self, *, pipeline: "Pipeline", num_threads: int = 1) -> None:
        self._pipeline = pipeline
        self._threads = ThreadPoolExecutor(max_workers=num_threads, thread_name_prefix="pipeline")

    async def recommend(
        self,
        queries: QueryFeatures,
        *,
        k: int,
        spec_hash: str,
        deadline_s: float,
        with_candidates: bool = False,
        only: ItemFilter | None = None,
        request_id: str = "",
        reread: AsyncReread | None = None,
    ) -> list[Answer]:
        """See `Engine`; `request_id` has nobody to be told to here."""
        spec = self._pipeline.release.spec  # the same at every delta
        try:
            async with asyncio.timeout(deadline_s):
                if spec_hash != spec.hash and reread is not None:
                    queries, spec_hash = await reread()
                if spec_hash != spec.hash:
                    raise SpecMismatch(
                        f"the release has feature spec {spec.hash}, the request's features have {spec_hash}"
                    )
                recommendations = await asyncio.get_running_loop().run_in_executor(
                    self._threads,
                    lambda: self._pipeline.recommend(queries, k=k, with_candidates=with_candidates, only=only),
                )
        except TimeoutError:
            raise DeadlineExceeded(f"the pipeline did not answer within {deadline_s * 1000:.0f} ms") from None
        return answers_of(recommendations)

    async def is_ready(self) -> bool:
        """An open pipeline always is."""
        return True

    async def close(self) -> None:
        """End the threads once their work is done."""
        await asyncio.to_thread(self._threads.shutdown)
