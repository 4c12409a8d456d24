from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel

from ranking.data import RankerLists
from ranking.model import ClsEncoder, EncoderSizes, Ranker, segments_of

# Of every small ranker here: S tokens as [CLS] 3 of history [SEP] 2 of a candidate [SEP], F dense features, and D wide
# embeddings where it reads any.
LENGTH, HISTORY_TOKENS, NUM_DENSE, PAD, VOCABULARY, WIDTH = 8, 3, 5, 0, 40, 4


@pytest.fixture(scope="session")
def build_ranker() -> Callable[..., Ranker]:
    """A ranker with random weights, of one layer of text or of dense features alone; without dropout."""

    def build(*, seed: int = 0, text: bool = True, trained: bool = True, embeddings: bool = False) -> Ranker:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            sizes = EncoderSizes(
                vocabulary=VOCABULARY, num_layers=2, width=8, num_heads=2, feed_forward_width=16, max_tokens=LENGTH
            )
            ranker = Ranker(
                encoder=ClsEncoder(sizes=sizes, pad_token=PAD, dropout=0.0) if text else None,
                num_dense=NUM_DENSE,
                segments=segments_of(length=LENGTH, history_tokens=HISTORY_TOKENS),
                hidden=6,
                dropout=0.0,
                embedding_width=WIDTH if embeddings else 0,
            )
            if trained:
                with torch.no_grad():
                    for parameter in ranker.parameters():
                        parameter.add_(torch.randn_like(parameter) * 0.3)
        return ranker.eval()

    return build


@pytest.fixture(scope="session")
def build_lists() -> Callable[..., RankerLists]:
    """Lists whose chosen candidate has the largest first dense feature, one list in eight without a chosen one."""

    def build(*, num_lists: int, num_candidates: int = 12, seed: int = 0) -> RankerLists:
        generator = np.random.default_rng(seed)
        shape = (num_lists, num_candidates)
        dense = generator.normal(size=(*shape, NUM_DENSE)).astype(np.float32)
        tokens = generator.integers(3, VOCABULARY, size=(*shape, LENGTH)).astype(np.int32)
        tokens[:, :, 0] = 1
        relevance = (np.arange(num_candidates) == dense[:, :, 0].argmax(axis=1)[:, None]).astype(np.float32)
        relevance[::8] = 0.0
        return RankerLists(
            candidate_rows=np.tile(np.arange(2, num_candidates + 2), (num_lists, 1)),
            tokens=tokens,
            dense=dense,
            relevance=relevance,
            num_relevant=np.ones(num_lists, dtype=np.int64),
            query_embeddings=generator.normal(size=(num_lists, WIDTH)).astype(np.float32),
        )

    return build


@pytest.fixture(scope="session")
def bert() -> BertModel:
    """A BERT of three layers whose every weight is random and large enough to matter."""
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=8,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=LENGTH + 4,
        pad_token_id=PAD,
    )
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model = BertModel(config)
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model.eval()


@pytest.fixture(scope="session")
def bert_checkpoint(bert: BertModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("bert")
    bert.save_pretrained(directory)
    return directory
