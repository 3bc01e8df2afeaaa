"""The classifier f: three convolutions and two linear layers, from pictures to logits."""

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d, relu


class CNN(nn.Module):
    """Three 3x3 convolutions (32, 64, 128 channels), each with ReLU and 2x2 max-pooling, 128 hidden units, 10 logits.

    forward(images: Tensor [n, c, 28, 28] float32, standardised) -> logits: Tensor [n, 10].
    Only the first convolution pads: digits have an empty margin, and leaving it out of the two larger
    convolutions halves the work.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 32, 3, padding=1)  # 28 -> pooled 14
        self.conv2 = nn.Conv2d(32, 64, 3)  # 12 -> 6
        self.conv3 = nn.Conv2d(64, 128, 3)  # 4 -> 2
        self.hidden = nn.Linear(128 * 2 * 2, 128)
        self.output = nn.Linear(128, 10)
        self.to(memory_format=torch.channels_last)  # the layout in which CPUs and GPUs convolve fastest

    def forward(self, images: Tensor) -> Tensor:
        return self.output(self.features(images))

    def features(self, images: Tensor) -> Tensor:
        """Activations of the last hidden layer: Tensor [n, 128]."""
        return self.activations(images)["hidden"]

    def activations(self, images: Tensor) -> dict[str, Tensor]:
        """Activations after each hidden layer, by layer name."""
        seen, x = {}, images
        for name in ("conv1", "conv2", "conv3"):
            # pooling first: max and ReLU commute, and ReLU then touches a quarter of the values
            x = seen[name] = relu(max_pool2d(getattr(self, name)(x), 2))
        seen["hidden"] = relu(self.hidden(x.flatten(1)))
        return seen


LAYERS = ("conv1", "conv2", "conv3", "hidden", "output")


def new_model(channels: int, seed: int) -> CNN:
    """An untrained CNN whose initial weights are a function of the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CNN(channels)
