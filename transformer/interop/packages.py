"""Optional packages of the extra `interop`."""

from importlib.util import find_spec

from transformer.errors import InputError


def require_package(name: str) -> None:
    """Raises InputError unless a package of the extra `interop` is installed."""
    if find_spec(name) is None:
        raise InputError(f"This needs the package {name}. Install it with: pip install 'transformer-jax[interop]'")
