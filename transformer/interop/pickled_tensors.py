"""The tensors of a file that `torch.save` wrote, read without PyTorch.

Such a file is a pickle, which can run any code when it is loaded. Here nothing is loaded: the instructions of the
pickle are read as data, and only those that describe tensors are understood. Every other instruction and every other
name is refused. The raw numbers are outside the pickle, either in a zip archive or (before PyTorch 1.6) after it.
"""

import io
import math
import pickletools
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from transformer.errors import InputError

_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of a file without a zip archive
_DTYPES: dict[str, Any] = {
    "torch DoubleStorage": np.float64,
    "torch FloatStorage": np.float32,
    "torch HalfStorage": np.float16,
    "torch BFloat16Storage": jnp.bfloat16,
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_NUMBERS_AND_TEXTS = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE"}
_MARK = object()


class _Global(NamedTuple):
    """A name that the pickle refers to, as "module name". It is never looked up."""

    name: str


class _Storage(NamedTuple):
    key: str
    dtype: Any
    elements: int


class _View(NamedTuple):
    """A tensor as a view of a storage; offset and strides count elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_pickled_tensors(file: Path) -> dict[str, np.ndarray]:
    """Reads a dictionary of tensors that `torch.save` wrote.

    Args:
        file: The file, such as `pytorch_model.bin`.

    Returns:
        The tensors by name, in the dtype they have in the file: float64, float32, float16 or bfloat16.

    Raises:
        InputError: The file is damaged, or contains anything but tensors.
    """
    try:
        return _read_zip(file) if zipfile.is_zipfile(file) else _read_stream(file)
    except OSError as error:
        raise InputError(f"Cannot read {file}: {error.strerror}.") from error
    except Exception as error:  # a damaged file can raise almost anything in zipfile, pickletools and NumPy
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(
            f"{file} is not a file of tensors that can be read safely ({reason}). Nothing in it was executed. If you "
            "trust it, load the model with transformers and PyTorch, and save it with save_pretrained, which writes "
            "model.safetensors."
        ) from error


def _read_zip(file: Path) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(file) as archive:
        (program,) = (name for name in archive.namelist() if name.rpartition("/")[2] == "data.pkl")
        prefix = program.removesuffix("data.pkl")

        def content(name: str) -> bytes:
            if archive.getinfo(prefix + name).compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"{name} is compressed")
            return archive.read(prefix + name)

        if f"{prefix}byteorder" in archive.namelist() and content("byteorder") != b"little":
            raise ValueError("its numbers are not little-endian")
        views = _views(_interpret(io.BytesIO(content("data.pkl"))))
        return _tensors(views, lambda storage: content(f"data/{storage.key}"))


def _read_stream(file: Path) -> dict[str, np.ndarray]:
    """Reads the format before PyTorch 1.6: five pickles, and then the storages."""
    with file.open("rb") as stream:
        if _interpret(stream) != _MAGIC:
            raise ValueError("it does not begin as such a file does")
        _version, about = _interpret(stream), _interpret(stream)
        if not about["little_endian"]:
            raise ValueError("its numbers are not little-endian")
        views = _views(_interpret(stream))
        sizes = {view.storage.key: view.storage for view in views.values()}
        contents = {}
        for key in _interpret(stream):
            (count,) = np.frombuffer(stream.read(8), np.int64)
            if count != sizes[key].elements:
                raise ValueError(f"storage {key} has another size than its tensor")
            contents[key] = stream.read(int(count) * np.dtype(sizes[key].dtype).itemsize)
        return _tensors(views, lambda storage: contents[storage.key])


def _views(state: Any) -> dict[str, _View]:
    if not isinstance(state, dict):
        raise ValueError("it is not a dictionary of tensors")
    for name, view in state.items():
        if not isinstance(name, str) or not isinstance(view, _View):
            raise ValueError(f"its entry {str(name)[:100]} is not a tensor")
    return state


def _tensors(views: Mapping[str, _View], content: Callable[[_Storage], bytes]) -> dict[str, np.ndarray]:
    """Makes the arrays. NumPy checks that each view is inside its storage."""
    found: dict[str, bytes] = {}

    def tensor(view: _View) -> np.ndarray:
        key, dtype = view.storage.key, np.dtype(view.storage.dtype)
        if key not in found:
            found[key] = content(view.storage)
        if math.prod(view.shape) > view.storage.elements:
            raise ValueError("a tensor has more elements than its storage")
        strides = [dtype.itemsize * stride for stride in view.strides]
        return np.ndarray(view.shape, dtype, found[key], dtype.itemsize * view.offset, strides)

    return {name: tensor(view) for name, view in views.items()}


def _interpret(stream: io.BytesIO | io.BufferedReader) -> Any:
    """Follows the instructions of one pickle, up to its end."""
    stack: list[Any] = []
    memo: dict[Any, Any] = {}
    for opcode, argument, _ in pickletools.genops(stream):
        match opcode.name:
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                return stack.pop()
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case _:
                _execute(opcode.name, argument, stack)
    raise ValueError("it ends too early")


def _execute(opcode: str, argument: Any, stack: list[Any]) -> None:
    """Follows one instruction that only needs the stack."""
    match opcode:
        case "MARK":
            stack.append(_MARK)
        case "EMPTY_DICT":
            stack.append({})
        case "EMPTY_LIST":
            stack.append([])
        case "TUPLE":
            stack.append(tuple(_pop_to_mark(stack)))
        case "TUPLE1" | "TUPLE2" | "TUPLE3":
            values = tuple(stack.pop() for _ in range(int(opcode[-1])))
            stack.append(values[::-1])
        case "APPEND":
            _list(stack, -2).append(stack.pop())
        case "APPENDS":
            values = _pop_to_mark(stack)
            _list(stack, -1).extend(values)
        case "SETITEM":
            value, key = stack.pop(), stack.pop()
            _dict(stack)[key] = value
        case "SETITEMS":
            values = _pop_to_mark(stack)
            _dict(stack).update(zip(values[::2], values[1::2], strict=True))
        case "BUILD":  # attributes of the dictionary, such as the versions of its modules
            stack.pop()
        case "GLOBAL":
            stack.append(_Global(argument))
        case "BINPERSID":
            stack.append(_storage(*stack.pop()))
        case "REDUCE":
            arguments, function = stack.pop(), stack.pop()
            stack.append(_result(function, arguments))
        case _ if opcode in _NUMBERS_AND_TEXTS:
            stack.append(argument)
        case _ if opcode in _CONSTANTS:
            stack.append(_CONSTANTS[opcode])
        case _:
            raise ValueError(f"it has the instruction {opcode}, which no dictionary of tensors needs")


def _pop_to_mark(stack: list[Any]) -> list[Any]:
    start = len(stack) - 1 - next(index for index, value in enumerate(reversed(stack)) if value is _MARK)
    values = stack[start + 1 :]
    del stack[start:]
    return values


def _list(stack: list[Any], index: int) -> list[Any]:
    if not isinstance(stack[index], list):
        raise ValueError("it appends to something that is not a list")
    return stack[index]


def _dict(stack: list[Any]) -> dict[Any, Any]:
    if not isinstance(stack[-1], dict):
        raise ValueError("it adds entries to something that is not a dictionary")
    return stack[-1]


def _storage(kind: str, dtype: Any, key: str, _device: str, count: int, *_: Any) -> _Storage:
    if kind != "storage" or not isinstance(dtype, _Global) or dtype.name not in _DTYPES:
        raise ValueError(f"it stores {str(getattr(dtype, 'name', dtype))[:100]}, not floating-point numbers")
    return _Storage(str(key), _DTYPES[dtype.name], int(count))


def _result(function: Any, arguments: tuple[Any, ...]) -> Any:
    """What a call gives, for the three functions that are understood."""
    match function, arguments:
        case _Global("collections OrderedDict"), ():
            return {}
        case _Global("torch._utils _rebuild_tensor_v2"), (_Storage() as storage, offset, shape, strides, *_):
            return _View(storage, offset, shape, strides)
        case _Global("torch._utils _rebuild_parameter"), (_View() as view, *_):
            return view
    raise ValueError(f"it calls {str(getattr(function, 'name', function))[:100]}, which makes no tensor")
