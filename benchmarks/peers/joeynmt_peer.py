"""Joey NMT with its own model and loss classes, built from its own configuration.

The package pins protobuf below 4 and requires development tools. Its model works with current versions if it is
installed without dependencies (`pip install --no-deps`, see requirements.txt).

Settings for speed: bfloat16 by autocast or float32, whichever is faster (its own trainer uses autocast as well). Its
`dropout` option also drops attention weights and activations within the feed-forward layers. Both are removed, as in
ours. The loss is unchanged. It materializes log-probabilities and smoothed targets for every token, and it gives no
probability to padding, so its value differs slightly from ours.
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
    """A vocabulary of placeholder tokens with the ids of our tokenizer.

    The first free id is the unknown token.
    """
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

    def loss(source: Tensor, source_mask: Tensor | None, target: Tensor, labels: Tensor) -> Tensor:
        is_token = labels != IGNORED
        source_mask = torch.ones_like(source, dtype=torch.bool) if source_mask is None else source_mask
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
