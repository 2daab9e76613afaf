"""A pre-activation LM-ResNet written out from the formula of its authors: nothing of lmjax is used.

The arrays are those of NumPy, JAX or PyTorch: all that is asked of a library is `pad`.
"""

import numpy as np


def numpy_pad(x, p):
    """Zeros around the pixels of [N, H, W, C]."""
    return np.pad(x, ((0, 0), (p, p), (p, p), (0, 0)))


def conv(x, kernel, stride, pad):
    """Cross-correlation of [N, H, W, C] with [k, k, C, D], zeros around."""
    k = kernel.shape[0]
    rows, columns = ((size + 2 * (k // 2) - k) // stride + 1 for size in x.shape[1:3])
    x = pad(x, k // 2)
    seen = [
        x[:, i : i + stride * (rows - 1) + 1 : stride, j : j + stride * (columns - 1) + 1 : stride] @ kernel[i, j]
        for i in range(k)
        for j in range(k)
    ]
    return sum(seen)


def bn_relu(x, norm, mean, var):
    """Normalized by the batch if mean is None, else by the running statistics."""
    if mean is None:
        mean = x.mean((0, 1, 2))
        var = ((x - mean) ** 2).mean((0, 1, 2))
    x = (x - mean) / (var + 1e-5) ** 0.5
    return (x * norm["scale"] + norm["bias"]).clip(0)


class Reference:
    """logits = Reference(params, statistics)(images); statistics None normalizes by the batch."""

    def __init__(self, params, statistics, pad=numpy_pad):
        self.params, self.statistics, self.pad = params, statistics, pad

    def act(self, x, params, statistics):
        stats = (None, None) if statistics is None else (statistics["norm"]["mean"], statistics["norm"]["var"])
        return bn_relu(x, params["norm"], *stats)

    def conv(self, x, params, stride=1):
        return conv(x, params["kernel"], stride, self.pad)

    def branch(self, x, p, s, stride=1):
        x = self.act(x, p["act1"], s and s["act1"])
        x = self.conv(x, p["conv1"], stride)
        x = self.act(x, p["act2"], s and s["act2"])
        return self.conv(x, p["conv2"])

    def __call__(self, images):
        params, statistics = self.params, self.statistics
        u = self.conv(images, params["stem"]["conv"])
        for i in range(3):
            p, s = params["stages"][i], statistics and statistics["stages"][i]
            entry, entry_statistics = p["entry"], s and s["entry"]
            v = u
            if i > 0:
                shortcut = entry["shortcuts"][0]
                v = self.act(u, shortcut["act"], s and entry_statistics["shortcuts"][0]["act"])
                v = self.conv(v, shortcut["conv"], stride=2)
            f = self.branch(u, entry["branches"][0], s and entry_statistics["branches"][0], stride=1 if i == 0 else 2)
            previous, u = v, v + f
            steps, step_statistics = p["steps"]["item"], s and s["steps"]["item"]
            for n in range(len(steps["coefficients"][0])):
                branch = pick(steps["branches"][0], n)
                k = 1 - steps["coefficients"][0][n]  # as the authors' code writes it
                f = self.branch(u, branch, step_statistics and pick(step_statistics["branches"][0], n))
                previous, u = u, k * u + (1 - k) * previous + f
        u = self.act(u, params["activation"], statistics and statistics["activation"])
        return u.mean((1, 2)) @ params["head"]["kernel"] + params["head"]["bias"]


def pick(tree, n):
    return {key: pick(value, n) if isinstance(value, dict) else value[n] for key, value in tree.items()}
