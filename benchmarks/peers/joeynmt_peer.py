"""Joey NMT: its own model and loss classes, out of its own configuration.

Its package pins protobuf below 4 and tools of its developers; its model works with current versions when it is
installed without them (`pip install --no-deps`, see requirements.txt). Set up for speed: bfloat16 by autocast or
float32, whichever is faster (its own trainer wraps the model the same way); dropout on attention weights and within the
feed-forward, which its one `dropout` also sets, is taken out, as in ours. Its loss, which holds log-probabilities and
the smoothed targets of every token, is left as it is: it gives no probability to padding, so its value is not quite
ours.
"""

from types import SimpleNamespace

import torch
from joeynmt.model import build_model
from joeynmt.transformer_layers import MultiHeadedAttention, PositionwiseFeedForward
from joeynmt.vocabulary import Vocabulary
from torch import Tensor, nn

from peers.job import DROPOUT, LABEL_SMOOTHING, Job
from peers.torch_training import IGNORED, TorchTraining


class JoeyTraining(TorchTraining):
    packages = ("torch", "joeynmt")


def vocabulary(job: Job) -> Vocabulary:
    """Tokens that are never read, at the ids of our tokenizer; its unknown token takes the first id that is free."""
    names = {job.pad_id: "<pad>", job.start_id: "<s>", job.end_id: "</s>"}
    unknown = next(index for index in range(job.size.vocabulary) if index not in names)
    names[unknown] = "<unk>"
    special = SimpleNamespace(
        unk_token="<unk>",
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        sep_token=None,
        unk_id=unknown,
        pad_id=job.pad_id,
        bos_id=job.start_id,
        eos_id=job.end_id,
        sep_id=None,
        lang_tags=[],
    )

    class Numbered(Vocabulary):
        def add_tokens(self, tokens: list[str]) -> None:
            self._itos = [names.get(index, str(index)) for index in range(job.size.vocabulary)]
            self._stoi = {token: index for index, token in enumerate(self._itos)}

    return Numbered([], special)


def start(job: Job, compiled: str | None = None) -> TorchTraining:
    torch.manual_seed(0)
    size = job.size
    part = {
        "type": "transformer",
        "num_layers": size.num_layers,
        "num_heads": size.num_heads,
        "hidden_size": size.d_model,
        "ff_size": size.d_ff,
        "dropout": DROPOUT,
        "embeddings": {"embedding_dim": size.d_model, "scale": True, "dropout": DROPOUT},
        "layer_norm": "post",
    }
    shared = {
        "tied_embeddings": True,
        "tied_softmax": True,
        "initializer": "xavier_uniform",
        "embed_initializer": "normal",
    }
    words = vocabulary(job)
    model = build_model({"encoder": part, "decoder": part} | shared, words, words)
    model.loss_function = ("crossentropy", LABEL_SMOOTHING)
    for module in model.modules():
        if isinstance(module, MultiHeadedAttention):
            module.dropout = nn.Identity()
        elif isinstance(module, PositionwiseFeedForward):
            module.pwff_layer[2] = nn.Identity()

    def loss(source: Tensor, source_mask: Tensor, target: Tensor, labels: Tensor) -> Tensor:
        is_token = labels != IGNORED
        total, _, _, _ = model(
            return_type="loss",
            src=source,
            src_length=source_mask.sum(1),
            src_mask=source_mask[:, None],
            trg_input=target,
            trg=labels.masked_fill(~is_token, job.pad_id),
            trg_mask=is_token[:, None],
        )
        return total / is_token.sum()

    return JoeyTraining(job, model, loss, compiled)
