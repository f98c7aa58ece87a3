"""The paper's sinusoidal positions (section 3.5) in NumPy, for some peers."""

import numpy as np


def sinusoids(length: int, d_model: int) -> np.ndarray:
    """The sinusoidal positions of section 3.5, in float32, of shape [length, d_model].

    PE[pos, 2i] = sin(pos / 10000^(2i/d)), PE[pos, 2i + 1] = cos(pos / 10000^(2i/d)).
    """
    angle = np.arange(length)[:, None] / 10000.0 ** (np.arange(0, d_model, 2) / d_model)
    return np.stack([np.sin(angle), np.cos(angle)], axis=-1).reshape(length, d_model).astype(np.float32)
