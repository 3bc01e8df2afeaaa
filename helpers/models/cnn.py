"""The classifier f: three convolutions and two linear layers, from pictures to logits."""

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d, relu


class CNN(nn.Module):
    """A light network: three convolutions, one pooling, 128 hidden units; 98,874 parameters on one channel.

    | layer | kernel | output |
    |---|---|---|
    | conv1 | 6x6, stride 2 | 16 channels, 12x12 |
    | conv2 | 3x3, then 2x2 max-pooling | 32 channels, 10x10, pooled 5x5 |
    | conv3 | 3x3 | 64 channels, 3x3 |
    | hidden | linear | 128 |
    | output | linear | 10 logits |

    ReLU after every layer but the last; no padding: digits have an empty margin. Chosen for speed on processors without
    bfloat16: one core (AVX2, float32) trains 6,360 samples a second, against 1,362 for three 3x3 convolutions of 32, 64
    and 128 channels, each pooled, for .06 percentage points of accuracy on MNIST (99.21 against 99.27 % of the retained
    test samples), .3 on Colored MNIST (97.9 against 98.2) and about 1 on FashionMNIST (89.4 against 90.3 to 90.8). Five
    times as many seeds say more about unlearning than a tenth of a percentage point. `benchmarks/bench.py` measures
    both networks in one run.

    forward(images: Tensor [n, c, 28, 28] float32, standardised) -> logits: Tensor [n, 10].
    """

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 16, 6, stride=2)  # 28 -> 12
        self.conv2 = nn.Conv2d(16, 32, 3)  # 12 -> 10, pooled 5
        self.conv3 = nn.Conv2d(32, 64, 3)  # 5 -> 3
        self.hidden = nn.Linear(64 * 3 * 3, 128)
        self.output = nn.Linear(128, 10)
        self.to(memory_format=torch.channels_last)  # the layout in which CPUs and GPUs convolve fastest

    def forward(self, images: Tensor) -> Tensor:
        return self.output(self.features(images))

    def features(self, images: Tensor) -> Tensor:
        """Activations of the last hidden layer: Tensor [n, 128]."""
        return self.activations(images)["hidden"]

    def activations(self, images: Tensor) -> dict[str, Tensor]:
        """Activations after each hidden layer, by layer name."""
        seen = {"conv1": relu(self.conv1(images))}
        seen["conv2"] = relu(max_pool2d(self.conv2(seen["conv1"]), 2))  # max and ReLU commute: ReLU on a quarter
        seen["conv3"] = relu(self.conv3(seen["conv2"]))
        seen["hidden"] = relu(self.hidden(seen["conv3"].flatten(1)))
        return seen


LAYERS = ("conv1", "conv2", "conv3", "hidden", "output")


def new_model(channels: int, seed: int) -> CNN:
    """An untrained CNN whose initial weights are a function of the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CNN(channels)
