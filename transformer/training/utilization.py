"""The share of the devices' peak that training reaches (model FLOPs utilization)."""

from collections.abc import Iterable

from transformer.config import ModelConfig

PEAKS = {
    # NVIDIA's data sheets, dense bfloat16 on tensor cores.
    "NVIDIA H200": 989e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100 80GB PCIe": 312e12,
    "NVIDIA A100-PCIE-40GB": 312e12,
    "NVIDIA L4": 121e12,
    # Google Cloud's documentation, per chip, which is one device.
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
}
"""Peak in bfloat16, in FLOP/s, of each kind of device as JAX names it."""


def peak_flops(kinds: Iterable[str], dtype: str) -> float | None:
    """Sums the peaks of devices, in FLOP/s.

    Args:
        kinds: Kind of each device, as JAX names it.
        dtype: Compute dtype.

    Returns:
        The sum, or None unless the dtype is bfloat16 and the peak of every device is known.
    """
    peaks = [PEAKS.get(kind) for kind in kinds]
    known = [peak for peak in peaks if peak is not None]
    return sum(known) if dtype == "bfloat16" and len(known) == len(peaks) else None


def step_flops(config: ModelConfig, S: int, T: int, rows: int) -> int:
    """Counts the FLOPs of the matrix products in a forward and a backward pass.

    A multiply-add is two FLOPs, and the gradient of a product takes two products of its size. Padding counts, and so
    do the keys that a mask excludes. Rematerialization does not, nor does anything but matrix products. This is the
    count of model FLOPs utilization (Chowdhery et al. 2022, PaLM, appendix B).

    Args:
        config: Architecture of the model.
        S: Source tokens of a row, with padding.
        T: Target tokens of a row, with padding.
        rows: Number of rows of a batch.
    """
    projection = config.d_model**2  # of one token, as multiply-adds; attention has four of them
    feed_forward = 2 * config.d_model * config.d_ff

    def attention(queries: int, keys: int) -> int:
        return (2 * queries + 2 * keys) * projection + 2 * queries * keys * config.d_model

    encoder = attention(S, S) + S * feed_forward
    decoder = attention(T, T) + attention(T, S) + T * feed_forward
    layers = config.num_encoder_layers * encoder + config.num_decoder_layers * decoder
    return 3 * 2 * rows * (layers + T * config.d_model * config.target_size)
