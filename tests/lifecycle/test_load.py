import pytest

from features.dataset import Dataset
from features.stores.online_store import OnlineStore
from features.transforms import QueryFeatures
from lifecycle.ask import held_out_asks
from lifecycle.load import closed_loop
from lifecycle.serve import Addresses
from serving.child_process import free_ports
from serving.errors import ServerUnavailable, SpecMismatch

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def requests(smoke_dataset: Dataset, smoke_store: OnlineStore) -> list[QueryFeatures]:
    asks = held_out_asks(smoke_dataset)[:101]
    return [smoke_store.read([ask.query_id], requested_at_ms=[ask.requested_at_ms])[0] for ask in asks]


@pytest.mark.parametrize("clients", [1, 3])
def test_every_request_is_answered_and_counted_once(
    served: Addresses, requests: list[QueryFeatures], smoke_store: OnlineStore, clients: int
) -> None:
    assert served.grpc is not None
    found = closed_loop(requests, address=served.grpc, spec_hash=smoke_store.spec_hash, clients=clients, k=5)
    assert (found.clients, found.requests) == (clients, 101)
    assert 0 < found.p50_ms <= found.p99_ms
    assert 0 < found.requests_per_s < 1000 * clients / found.p50_ms * 2


def test_a_refused_request_ends_the_loop_with_its_reason(served: Addresses, requests: list[QueryFeatures]) -> None:
    assert served.grpc is not None
    with pytest.raises(SpecMismatch, match="another_spec"):
        closed_loop(requests, address=served.grpc, spec_hash="another_spec", clients=2, k=5)


def test_nobody_at_the_address_is_said_at_once_by_however_many_clients() -> None:
    request = QueryFeatures(
        history_item_ids=[[]],
        history_events=[[]],
        history_values=[[]],
        history_at_ms=[[]],
        texts=[""],
        categories=[["F"]],
        numbers=[[30.0]],
        requested_at_ms=[0],
    )
    address = f"127.0.0.1:{free_ports(1)[0]}"
    with pytest.raises(ServerUnavailable, match=address):
        closed_loop([request], address=address, spec_hash="", clients=3, k=5)
