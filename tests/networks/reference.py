"""A pre-activation LM-ResNet written out in NumPy, loop by loop, from the paper alone: nothing of lmjax is used."""

import numpy as np


def conv(x, kernel, stride=1):
    """Cross-correlation of [N, H, W, C] with [k, k, C, D], zeros around."""
    k = kernel.shape[0]
    p = k // 2
    x = np.pad(x, ((0, 0), (p, p), (p, p), (0, 0)))
    rows, columns = ((size - k) // stride + 1 for size in x.shape[1:3])
    out = np.zeros((len(x), rows, columns, kernel.shape[3]))
    for i in range(rows):
        for j in range(columns):
            patch = x[:, i * stride : i * stride + k, j * stride : j * stride + k]
            out[:, i, j] = np.tensordot(patch, kernel, axes=3)
    return out


def bn_relu(x, norm, mean, var):
    """Normalized by the batch if mean is None, else by the running statistics."""
    if mean is None:
        mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    x = (x - mean) / np.sqrt(var + 1e-5)
    return np.maximum(x * norm["scale"] + norm["bias"], 0)


class Reference:
    """logits = Reference(params, statistics)(images); statistics None normalizes by the batch."""

    def __init__(self, params, statistics):
        self.params, self.statistics = params, statistics

    def act(self, x, params, statistics):
        stats = (None, None) if statistics is None else (statistics["norm"]["mean"], statistics["norm"]["var"])
        return bn_relu(x, params["norm"], *stats)

    def branch(self, x, p, s, stride=1):
        x = self.act(x, p["act1"], s and s["act1"])
        x = conv(x, p["conv1"]["kernel"], stride)
        x = self.act(x, p["act2"], s and s["act2"])
        return conv(x, p["conv2"]["kernel"])

    def __call__(self, images):
        params, statistics = self.params, self.statistics
        u = conv(images, params["stem"]["conv"]["kernel"])
        for i in range(3):
            p, s = params["stages"][i], statistics and statistics["stages"][i]
            entry, entry_statistics = p["entry"], s and s["entry"]
            v = u
            if i > 0:
                shortcut = entry["shortcuts"][0]
                v = self.act(u, shortcut["act"], s and entry_statistics["shortcuts"][0]["act"])
                v = conv(v, shortcut["conv"]["kernel"], stride=2)
            f = self.branch(u, entry["branches"][0], s and entry_statistics["branches"][0], stride=1 if i == 0 else 2)
            previous, u = v, v + f
            steps, step_statistics = p["steps"]["item"], s and s["steps"]["item"]
            for n in range(len(steps["coefficients"][0])):
                branch = pick(steps["branches"][0], n)
                k = steps["coefficients"][0][n]
                f = self.branch(u, branch, step_statistics and pick(step_statistics["branches"][0], n))
                previous, u = u, (1 - k) * u + k * previous + f
        u = self.act(u, params["activation"], statistics and statistics["activation"])
        return u.mean((1, 2)) @ params["head"]["kernel"] + params["head"]["bias"]


def pick(tree, n):
    return {key: pick(value, n) if isinstance(value, dict) else value[n] for key, value in tree.items()}
