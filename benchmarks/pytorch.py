"""The PyTorch peers: LM-ResNet as Lu et al. (2018) define it, and a step of training in three styles.

- "eager": the authors' way. NCHW, float32 with TF32 where the GPU has it, the LM step as they write it (k expanded to
  the shape of the features, two products, two sums), `torch.optim.SGD` as it comes.
- "channels_last": eager as well, with NHWC strides and the LM step in as few operations: the best of eager on a CPU.
- "best": NHWC strides, bfloat16 autocast, `torch.compile(mode="max-autotune")`, which brings CUDA graphs, fused SGD.
  Without a GPU the compiler is left out, which would take minutes: only that the code runs can be seen there.

Every style makes forward, loss, backward and SGD with momentum 0.9 and weight decay 1e-4 (not on k), on one batch that
lies on the device.
"""

import contextlib

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks.batch import random_batch


def _conv(cin, cout, size, stride=1):
    conv = nn.Conv2d(cin, cout, size, stride, size // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out")
    return conv


class Branch(nn.Module):
    """BN-ReLU-conv3x3-BN-ReLU-conv3x3."""

    def __init__(self, cin: int, cout: int, stride: int):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(cin), _conv(cin, cout, 3, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(cout), _conv(cout, cout, 3)

    def forward(self, u: torch.Tensor) -> torch.Tensor:
        u = self.conv1(functional.relu(self.bn1(u), inplace=True))
        return self.conv2(functional.relu(self.bn2(u), inplace=True))


class Shortcut(nn.Module):
    """BN-ReLU-conv1x1 with the stride."""

    def __init__(self, cin: int, cout: int, stride: int):
        super().__init__()
        self.bn, self.conv = nn.BatchNorm2d(cin), _conv(cin, cout, 1, stride)

    def forward(self, u: torch.Tensor) -> torch.Tensor:
        return self.conv(functional.relu(self.bn(u), inplace=True))


class Stage(nn.Module):
    """A plain first block, then LM steps from the history that the shortcut gives; or plain steps."""

    def __init__(self, cin: int, cout: int, depth: int, stride: int, lm: bool, authors: bool):
        super().__init__()
        self.shortcut = nn.Identity() if stride == 1 and cin == cout else Shortcut(cin, cout, stride)
        strides = [stride] + [1] * (depth - 1)
        self.branches = nn.ModuleList(Branch(cin if i == 0 else cout, cout, s) for i, s in enumerate(strides))
        self.k = nn.ParameterList(nn.Parameter(torch.empty(1).uniform_(-0.1, 0)) for _ in range(lm * (depth - 1)))
        self.authors = authors

    def forward(self, u: torch.Tensor) -> torch.Tensor:
        previous = self.shortcut(u)
        u = previous + self.branches[0](u)
        for i, branch in enumerate(self.branches[1:]):
            if not self.k:
                u = u + branch(u)
            elif self.authors:
                k = self.k[i].expand_as(u)
                u, previous = (1 - k) * u + k * previous + branch(u), u
            else:  # the same: u + k (previous - u) + f(u)
                u, previous = torch.lerp(u, previous, self.k[i].to(u.dtype)) + branch(u), u
        return u


class LMResNet(nn.Module):
    """The pre-activated network of depth 6n + 2 for CIFAR; `lm=False` makes it the ResNet (He et al. 2016b)."""

    def __init__(self, depth: int, *, lm: bool = True, authors: bool = False, width: float = 1, classes: int = 10):
        super().__init__()
        stem, *channels = (max(1, round(c)) for c in (16 * min(width, 1), 16 * width, 32 * width, 64 * width))
        self.stem = _conv(3, stem, 3)
        widths = [stem, *channels]
        self.stages = nn.Sequential(
            *(Stage(widths[i], widths[i + 1], (depth - 2) // 6, 1 if i == 0 else 2, lm, authors) for i in range(3))
        )
        self.bn, self.head = nn.BatchNorm2d(channels[-1]), nn.Linear(channels[-1], classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        u = functional.relu(self.bn(self.stages(self.stem(images))), inplace=True)
        return self.head(u.mean((2, 3)))


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


class Step:
    """A step of training in one of the styles, on one batch.

    Args:
        model: takes [N, 3, H, W].
        images, labels: float32 [N, H, W, 3] and int [N].
        style: see above.
        threads: on a CPU.
    """

    steps = 1

    def __init__(self, model: nn.Module, images: np.ndarray, labels: np.ndarray, style: str, threads: int):
        torch.set_num_threads(threads)
        self.device = device()
        layout = torch.contiguous_format if style == "eager" else torch.channels_last
        self.model = model.to(self.device, memory_format=layout).train()
        self.images = torch.from_numpy(images).permute(0, 3, 1, 2).to(self.device).contiguous(memory_format=layout)
        self.labels = torch.from_numpy(labels).long().to(self.device)
        best = style == "best"
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
        self.autocast = torch.autocast(self.device, torch.bfloat16) if best else contextlib.nullcontext()
        self.loss = torch.compile(self._loss, **self._compiler()) if best else self._loss
        k = [p for name, p in model.named_parameters() if ".k." in name]
        rest = [p for name, p in model.named_parameters() if ".k." not in name]
        groups = [{"params": rest, "weight_decay": 1e-4}] + ([{"params": k}] if k else [])
        self.optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9, fused=True if best else None)

    def _compiler(self):
        options = {"mode": "max-autotune"} if self.device == "cuda" else {"backend": "eager"}
        return {"fullgraph": True, "dynamic": False} | options

    def _loss(self, images, labels):
        return functional.cross_entropy(self.model(images).float(), labels)

    def __call__(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        with self.autocast:
            loss = self.loss(self.images, self.labels)
        loss.backward()
        self.optimizer.step()

    def wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


def lm_step(
    depth: int, style: str, threads: int, *, width: float, batch: int, size: int, classes: int
) -> tuple[Step, dict]:
    """For a `Companion`: the step of an LM-ResNet, and how many parameters it has."""
    network = LMResNet(depth, width=width, classes=classes)
    return Step(network, *random_batch(batch, size, classes), style, threads), {"parameters": parameters(network)}
