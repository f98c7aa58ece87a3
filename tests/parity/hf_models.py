"""Models of `transformers` with random weights, their tokenizers, and text in many scripts, all made offline."""

import datetime
import io
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from babel import dates, numbers, units
from transformers import MarianConfig, MarianMTModel, MarianTokenizer

SMALL = {
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
}
LOCALES = ["en", "fr", "ru", "el", "ar", "hi", "th", "zh", "ja", "ko", "he", "ta", "bn", "ka"]
UNITS = ["length-kilometer", "duration-hour", "mass-kilogram", "volume-liter", "duration-day"]


def lines_of_text(count: int, seed: int = 0) -> list[str]:
    """Dates, numbers and measures in 14 languages and 13 scripts, with punctuation that normalization could touch."""
    chosen, found = random.Random(seed), list[str]()
    for index in range(count):
        locale = LOCALES[index % len(LOCALES)]
        day = datetime.date.fromordinal(chosen.randrange(700_000, 740_000))
        number = chosen.randrange(1, 10 ** chosen.randrange(1, 8))
        parts = [
            dates.format_date(day, "full", locale=locale),
            numbers.format_decimal(number, locale=locale),
            units.format_unit(number, chosen.choice(UNITS), "long", locale=locale),
            dates.format_timedelta(
                datetime.timedelta(days=chosen.randrange(1, 900)), add_direction=True, locale=locale
            ),
        ]
        chosen.shuffle(parts)
        separator, end = (
            chosen.choice([", ", "; ", " — ", "  ", " "]),
            chosen.choice([".", "!", "?", "", " 😀", " …", "é"]),
        )
        found.append(separator.join(parts[: chosen.randrange(1, 5)]) + end)
    return found


def train_sentencepiece(lines: Sequence[str], size: int) -> bytes:
    """A SentencePiece model whose `</s>` and `<unk>` have Marian's ids."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        vocab_size=size,
        character_coverage=1.0,
        hard_vocab_limit=False,
        bos_id=-1,
        eos_id=0,
        unk_id=1,
        minloglevel=2,
    )
    return model.getvalue()


def write_tokenizer(folder: Path, lines: Sequence[str], size: int, separate: bool, fill_to: int = 0) -> Any:
    """Trains a SentencePiece model for each side and writes the files of a `MarianTokenizer`.

    The joint vocabulary has the pieces of both in an order of its own, as in OPUS-MT, and a language. Further tokens
    that no text contains fill it up to `fill_to`.
    """
    folder.mkdir(parents=True)
    models = [train_sentencepiece(lines[side::2], size) for side in (0, 1)]
    pieces = []
    for name, model in zip(("source.spm", "target.spm"), models, strict=True):
        (folder / name).write_bytes(model)
        processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        pieces.append([processor.id_to_piece(index) for index in range(processor.vocab_size())])
    if separate:
        length = max(map(len, pieces))
        sides = [[*own, *(f"<unused{index}>" for index in range(length - len(own)))] for own in pieces]
    else:
        joint = ["</s>", "<unk>", *sorted({*pieces[0], *pieces[1]} - {"</s>", "<unk>"}), ">>fra<<"]
        sides = [[*joint, *(f"<unused{index}>" for index in range(fill_to - 1 - len(joint)))]]
    for name, own in zip(("vocab.json", "target_vocab.json"), sides, strict=False):
        ids = {piece: index for index, piece in enumerate([*own, "<pad>"])}
        (folder / name).write_text(json.dumps(ids), encoding="utf-8")
    about = {
        "separate_vocabs": separate,
        "source_lang": "en",
        "target_lang": "fr",
        "tokenizer_class": "MarianTokenizer",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(about), encoding="utf-8")
    return MarianTokenizer.from_pretrained(folder)


def write_model(folder: Path, tokenizer: Any, *, slope: float = 1.5, **settings: Any) -> Any:
    """Draws a model, gives it translations that end, and writes it beside its tokenizer.

    Args:
        folder: Where to write it.
        tokenizer: Its tokenizer.
        slope: By how much the logit of the end token grows with each position. Its rounding error grows with it.
        settings: Fields of its configuration.
    """
    torch.manual_seed(0)
    pad = tokenizer.pad_token_id
    config = MarianConfig(
        vocab_size=pad + 1,
        **{"max_position_embeddings": 64, "scale_embedding": True, "init_std": 0.4 * settings["d_model"] ** -0.5},
        **settings,
        pad_token_id=pad,
        decoder_start_token_id=pad,
        eos_token_id=0,
        forced_eos_token_id=0,
    )
    model = MarianMTModel(config).eval()
    with torch.no_grad():
        for name, leaf in model.named_parameters():
            if leaf.ndim == 1:
                leaf.add_(0.1 * torch.randn_like(leaf))
            if "encoder_attn.out_proj.weight" in name:
                leaf.mul_(6)
        model.final_logits_bias.normal_(0, 0.1)
        model.final_logits_bias[0, 1] = -1000  # no <unk>
        model.lm_head.weight[0] = _ending(model, slope)
    generation = model.generation_config
    generation.update(num_beams=4, max_length=48, bad_words_ids=[[pad]], no_repeat_ngram_size=2, early_stopping="never")
    model.save_pretrained(folder)
    return model


def _ending(model: Any, slope: float, length: int = 50) -> torch.Tensor:
    """An embedding of the end token, fitted so that its logit grows with the position."""
    config = model.config
    source, target = (torch.randint(2, config.pad_token_id, (64, size)) for size in (12, length))
    target[:, 0] = config.decoder_start_token_id
    hidden = model.model(source, decoder_input_ids=target).last_hidden_state
    top = (model.lm_head(hidden) + model.final_logits_bias).max(dim=-1).values.mean()
    wanted = (top + slope * (torch.arange(length) - 8.0)).expand(64, length).reshape(-1, 1)
    return torch.linalg.lstsq(hidden.reshape(-1, config.d_model), wanted).solution[:, 0]
