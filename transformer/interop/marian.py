"""Models of Marian (Junczys-Dowmunt et al. 2018, arXiv 1804.00344): model.npz and its vocabularies.

Marian computes what the paper describes, with these differences, which are all fields of `ModelConfig`: sines and
cosines in two halves with another exponent, biases in attention and in the output layer, a vector of zeros as the
decoder's start, and up to version 1.12.0 a gelu of its own. `marian_settings.py` has the configuration,
`marian_weights.py` the weights.
"""

from pathlib import Path
from typing import Any

from transformer.config import Config, DataConfig, SearchConfig, TokenizerConfig, TrainingConfig
from transformer.data.tokenizer_marian import MarianTokenizer, SideFiles
from transformer.errors import InputError, require
from transformer.files import new_folder, write_whole
from transformer.inference.translator import Translator
from transformer.interop import marian_settings, marian_weights
from transformer.interop.formats import Imported, Request, require_one_model
from transformer.interop.marian_weights import SETTINGS, SETTINGS_LIMIT

KEPT = "marian.yml"  # in a run directory, the configuration of the model that it was imported from
MODEL = "model.npz"
PRE_NORM_NOTE = (
    "Marian's decoder computes this pre-norm model otherwise than Marian trains and scores it. The run computes what "
    "was trained, so it does not translate like Marian's decoder (docs/interop.md)."
)
BINARY = (1).to_bytes(8, "little")


def recognizes(path: Path) -> bool:
    """Tells whether a path is an npz or a binary model, or a folder with one."""
    files = [*_archives(path), *path.glob("*.bin")] if path.is_dir() else [path]
    return any(file.suffix == ".npz" or _is_binary(file) for file in files)


def _archives(folder: Path) -> list[Path]:
    return [file for file in folder.glob("*.npz") if file.is_file()]


def _is_binary(file: Path) -> bool:
    """Tells whether a file is a model in Marian's binary format, which begins with its version, 1."""
    if file.suffix != ".bin" or not file.is_file():
        return False
    with file.open("rb") as content:
        return content.read(8) == BINARY


def read(path: Path) -> Imported:
    """Reads a model with its configuration and vocabularies.

    The configuration is inside the npz, or beside it as `<model>.npz.yml`. Search settings come from
    `<model>.npz.decoder.yml` or `decoder.yml`, if there is one. Vocabularies are looked up beside the npz, by their
    file names only.

    Raises:
        InputError: The model is not supported or damaged, or a vocabulary is missing.
    """
    file = _model_file(path)
    with marian_weights.open_archive(file) as archive:
        content = _settings_of(archive, file)
        settings = marian_settings.read_settings(content, f"the configuration of {file}")
        model = marian_settings.model_config(settings)
        params = marian_weights.from_arrays(model, marian_weights.read_weights(archive))
    beside = _settings_beside(file)
    sizes = model.vocabulary_size, model.target_size
    files, source, target = _vocabularies(file.parent, beside.get("vocabs", settings.get("vocabs")))
    ids = TokenizerConfig(pad_id=max(sizes), start_id=max(sizes), end_id=0)
    config = Config(
        data=DataConfig(normalization="none"),
        tokenizer=ids,
        model=model,
        training=TrainingConfig(steps=1),
        search=_search(beside),
    )
    tokenizer = MarianTokenizer(files, source, target, ids)
    tokenizer.require_sizes(sizes, file)
    notes = [PRE_NORM_NOTE] if model.norm_position == "pre" else []
    return Imported(config, params, tokenizer, {KEPT: content.rstrip(b"\0")}, notes)


def _model_file(path: Path) -> Path:
    found = [path]
    if path.is_dir():
        found = sorted(file for file in _archives(path) if not file.name.endswith(".optimizer.npz"))
    if not found or found[0].suffix == ".bin":
        raise InputError(f"{path} is a binary model of Marian, which is not supported. Give its model.npz.")
    if len(found) > 1:
        raise InputError(f"{path} has {len(found)} models. Give the npz of one: {', '.join(f.name for f in found)}.")
    return found[0]


def _settings_of(archive: Any, file: Path) -> bytes:
    if f"{SETTINGS}.npy" in archive.namelist():
        size = archive.getinfo(f"{SETTINGS}.npy").file_size
        require(size <= SETTINGS_LIMIT, f"The configuration inside {file} has {size:,} bytes, which is too much.")
        return marian_weights.read_array(archive, SETTINGS).tobytes()
    beside = file.with_name(f"{file.name}.yml")
    require(
        beside.is_file(), f"{file} has no configuration, neither inside ({SETTINGS}) nor beside it ({beside.name})."
    )
    return beside.read_bytes()


def _settings_beside(file: Path) -> dict[str, Any]:
    """The settings of the decoder, over those of the model."""
    found: dict[str, Any] = {}
    for name in (f"{file.name}.yml", "decoder.yml", f"{file.name}.decoder.yml"):
        beside = file.with_name(name)
        if beside.is_file():
            require(beside.stat().st_size <= SETTINGS_LIMIT, f"{beside} is too large for a configuration.")
            found |= marian_settings.read_settings(beside.read_bytes(), str(beside))
    return found


def _search(settings: dict[str, Any]) -> SearchConfig:
    """Marian divides a log-probability by the length, the end counted, to the power of `normalize`."""
    beam_size, exponent = settings.get("beam-size", 6), settings.get("normalize", 0.6)
    require(
        type(beam_size) is int and type(exponent) in (int, float),
        f"beam-size ({beam_size}) and normalize ({exponent}) of Marian's decoder must be numbers.",
    )
    return SearchConfig(beam_size=beam_size, length_penalty=float(exponent), length_penalty_form="power")


def _vocabularies(folder: Path, listed: Any) -> tuple[dict[str, bytes], SideFiles, SideFiles]:
    """Finds the vocabularies beside a model: those that are listed, or else the only ones there are."""
    names = [Path(str(name).replace("\\", "/")).name for name in listed] if isinstance(listed, list) else []
    models = sorted(file.name for file in folder.glob("*.spm"))
    if not names:
        names = sorted(file.name for file in folder.glob("*vocab.y*ml")) or models
        require(
            len(names) < 2 or names == ["source.spm", "target.spm"],
            f"Cannot tell the vocabulary of the source from that of the target in {folder}. List both under `vocabs` "
            f"in decoder.yml: {', '.join(names)}.",
        )
    require(
        len(names) in (1, 2),
        f"{folder} must have one or two vocabularies (.spm, or .yml with source.spm and target.spm), but has "
        f"{len(names)}.",
    )
    vocabularies = names[0], names[-1]
    if all(name.endswith(".spm") for name in vocabularies):
        sides = [SideFiles(name) for name in vocabularies]
    elif all(name.endswith((".yml", ".yaml", ".json")) for name in vocabularies):
        shared = models[0] if len(models) == 1 else None
        sides = [
            SideFiles(shared or f"{side}.spm", name)
            for side, name in zip(("source", "target"), vocabularies, strict=True)
        ]
    else:
        raise InputError(f"The vocabularies {' and '.join(vocabularies)} are not supported, only .spm and .yml.")
    source, target = sides
    contents = {}
    for name in {name for side in sides for name in side if name is not None}:
        file = folder / name
        require(file.is_file(), f"The vocabulary {name} is not beside the model, in {folder}. Copy it there.")
        contents[name] = file.read_bytes()
    return contents, source, target


def write(translator: Translator, request: Request) -> str:
    """Writes a folder that Marian loads: model.npz, its vocabularies and its decoder's settings.

    Raises:
        InputError: Marian cannot compute this model, or cannot tokenize like its tokenizer.
    """
    config, tokenizer = translator.config.model, translator.tokenizer
    require_one_model(translator)
    if not isinstance(tokenizer, MarianTokenizer):
        raise InputError(
            "Marian cannot load the byte-level BPE of this run, only SentencePiece. Export a run whose tokenizer was "
            "imported."
        )
    content = _settings_to_write(request.run_dir, translator)
    arrays = marian_weights.to_arrays(config, translator.params)
    with new_folder(request.path) as folder:
        marian_weights.write_archive(folder / MODEL, arrays, content)
        for name, data in tokenizer.files.items():
            write_whole(folder / name, data)
        sides = tokenizer.source_files, tokenizer.target_files
        search = request.search
        decoder = {
            "relative-paths": True,
            "models": [MODEL],
            "vocabs": [side.vocabulary or side.model for side in sides],
            "beam-size": search.beam_size,
            "normalize": search.length_penalty if search.length_penalty_form == "power" else 0.6,
        }
        write_whole(folder / f"{MODEL}.decoder.yml", marian_settings.write_settings(decoder))
    needs = ", whose gelu needs Marian 1.12.0 or earlier" if config.activation == "gelu_sigmoid" else ""
    return f"{request.path}: a folder for Marian, with {len(arrays)} weights{needs}"


def _settings_to_write(run_dir: Path, translator: Translator) -> bytes:
    """The configuration that the model was imported with, if it still describes the model; else a new one."""
    wanted = marian_settings.to_settings(translator.config.model)
    kept = run_dir / KEPT
    if kept.is_file():
        content = kept.read_bytes()
        before = marian_settings.to_settings(
            marian_settings.model_config(marian_settings.read_settings(content, str(kept)))
        )
        if before == wanted:
            return content
    return marian_settings.write_settings(wanted)
