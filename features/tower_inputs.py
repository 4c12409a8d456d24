"""What the query tower reads of N queries, by name: one list for training, export and both ways of serving.

Owns the names, which the inputs of query_tower.onnx have too, and their order. A further input is a line in each half
of this file, and one in triton_models/query_tower/config.pbtxt.

Shapes: N queries, L history length, D and E widths of an item's and a text's embedding, Cq and Fq query categories and
numbers, Sq tokens of a query's text.
"""

from dataclasses import dataclass, fields
from typing import Any, Generic, TypeVar

from numpy.typing import NDArray

from features.transforms import QueryInputs

Array = TypeVar("Array")


@dataclass(frozen=True)
class QueryTowerInputs(Generic[Array]):
    """Of N queries: tensors where the tower is trained, numpy's arrays where it is served.

    Attributes:
        history_embeddings: [N, L, D] of the items.
        history_mask: [N, L] true where there is an event.
        history_events: [N, L] VocabId of an event's kind.
        history_values: [N, L].
        history_gap_days: [N, L] until the next event, the newest's until the request.
        query_categories: [N, Cq] VocabId.
        query_numbers: [N, Fq].
        query_text: [N, E] embedding of what a query says. The exported tower embeds it itself and takes tokens
            [N, Sq]; where queries have no text it has no such input.
    """

    history_embeddings: Array
    history_mask: Array
    history_events: Array
    history_values: Array
    history_gap_days: Array
    query_categories: Array
    query_numbers: Array
    query_text: Array

    @property
    def by_name(self) -> dict[str, Array]:
        """In the order of the fields."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def read_as_encoded(queries: QueryInputs) -> dict[str, NDArray[Any]]:
    """What the tower reads of encoded queries as it stands: all between the items' embeddings and the text."""
    return {
        "history_mask": queries.history_mask,
        "history_events": queries.history_events,
        "history_values": queries.history_values,
        "history_gap_days": queries.history_gap_days,
        "query_categories": queries.categories,
        "query_numbers": queries.numbers,
    }
