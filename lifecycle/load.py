"""A closed loop of clients against a running server: each sends its next request when the last was answered.

Owns the loop and what it counts. Bounded by the number of requests.
"""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.latency import summarise_ms
from features.transforms import QueryFeatures
from serving.client import RecommendClient

DEADLINE_S = 10.0


@dataclass(frozen=True)
class LoadResult:
    """What a closed loop measured; every request counts, failed ones raise."""

    clients: int
    requests: int
    requests_per_s: float
    p50_ms: float
    p99_ms: float


def closed_loop(requests: Sequence[QueryFeatures], *, address: str, spec_hash: str, clients: int, k: int) -> LoadResult:
    """Send every request once over gRPC, spread over `clients` threads with a connection each.

    Raises:
        ServingError: a request failed; the loop ends at once.
    """
    spent: list[list[float]] = [[] for _ in range(clients)]
    failures: list[BaseException] = []
    start = threading.Barrier(clients + 1)

    def work(number: int) -> None:
        try:
            with RecommendClient(address=address, deadline_s=DEADLINE_S) as client:
                client.recommend(requests[number % len(requests)], k=k, spec_hash=spec_hash)  # opens the connection
                start.wait()
                for request in requests[number::clients]:
                    if failures:
                        return
                    started = time.perf_counter()
                    client.recommend(request, k=k, spec_hash=spec_hash)
                    spent[number].append(1000.0 * (time.perf_counter() - started))
        except threading.BrokenBarrierError:  # another client failed before the start
            return
        except Exception as error:  # handed to the caller, whatever it is
            failures.append(error)
            start.abort()

    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(clients)]
    for thread in threads:
        thread.start()
    try:
        start.wait(timeout=DEADLINE_S * 3)
    except threading.BrokenBarrierError:
        raise (failures[0] if failures else TimeoutError("the clients did not get ready")) from None
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - began
    if failures:
        raise failures[0]
    latencies = summarise_ms(np.array([one for own in spent for one in own]))
    return LoadResult(
        clients=clients,
        requests=len(requests),
        requests_per_s=len(requests) / seconds,
        p50_ms=latencies["p50"],
        p99_ms=latencies["p99"],
    )
