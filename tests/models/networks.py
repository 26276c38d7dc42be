"""Small real networks for the tests and benchmarks of the model path: each as its users would train or export it.

`digits_cnn` is trained here in a few seconds and is as good as its data allow; `resnet18` and `encoder` have the shapes
of the networks that people deploy with seeded weights, so that speed and size mean something and accuracy does not.
"""

import functools
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from examples.digits.train import Digits, split_digits
from torch import nn

__all__ = ["DigitsCnn", "Encoder", "ResNet18", "digits_cnn", "digits_images", "encoder", "export_onnx", "resnet18"]

OPSET = 20
_SEED = 20


class DigitsCnn(nn.Module):
    """Three convolutions and two dense layers over `[n, 1, 8, 8]` pixels from 0 to 16; 210,000 weights."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_conv(1, 32), *_conv(32, 96), *_conv(96, 96), nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.3)
        )
        self.head = nn.Sequential(nn.Linear(96 * 16, 64), nn.ReLU(), nn.Linear(64, 10))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(image))


def _conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    return convolution, nn.BatchNorm2d(outputs), nn.ReLU()


def digits_images() -> Digits:
    """The repository's one split of the digits, with images as `[n, 1, 8, 8]`: 1,257 to learn from, 540 held out."""
    digits = split_digits()
    return Digits(
        train_images=digits.train_images.reshape(-1, 1, 8, 8),
        train_labels=digits.train_labels,
        held_out_images=digits.held_out_images.reshape(-1, 1, 8, 8),
        held_out_labels=digits.held_out_labels,
    )


@functools.cache
def digits_cnn(epochs: int = 8) -> DigitsCnn:
    """The network, trained on one thread from a fixed seed (a few seconds); in eval mode."""
    digits = digits_images()
    images, labels = torch.from_numpy(digits.train_images), torch.from_numpy(digits.train_labels)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(_SEED)
    try:
        network = DigitsCnn()
        optimizer = torch.optim.AdamW(network.parameters(), lr=5e-3, weight_decay=1e-2)
        batches = (len(images) + 63) // 64
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=5e-3, total_steps=epochs * batches)
        for _ in range(epochs):
            for rows in torch.randperm(len(images)).split(64):
                optimizer.zero_grad()
                nn.functional.cross_entropy(network(images[rows]), labels[rows]).backward()
                optimizer.step()
                schedule.step()
    finally:
        torch.set_num_threads(threads)
    return network.eval()


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.main = nn.Sequential(*_conv(inputs, outputs, 3, stride), *_conv(outputs, outputs)[:2])
        plain = stride == 1 and inputs == outputs
        self.side = nn.Identity() if plain else nn.Sequential(*_conv(inputs, outputs, 1, stride)[:2])

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.main(rows) + self.side(rows))


class ResNet18(nn.Module):
    """The layers and widths of ResNet-18 for `[n, 3, 224, 224]` and 1,000 classes: 11.7 million weights."""

    def __init__(self) -> None:
        super().__init__()
        widths = ((64, 64, 1), (64, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1), (256, 512, 2))
        blocks = [_Block(*width) for width in (*widths, (512, 512, 1))]
        stem = (*_conv(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1))
        self.layers = nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.layers(image)


def resnet18() -> ResNet18:
    """Seeded weights and batch statistics of noise; in eval mode."""
    torch.manual_seed(_SEED)
    network = ResNet18().train()
    with torch.no_grad():
        for _ in range(2):
            network(torch.randn(4, 3, 224, 224))
    return network.eval()


class Encoder(nn.Module):
    """Six transformer layers of width 384 with six heads over `[n, tokens, 384]`: 10.6 million weights."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(384, 6, 1536, batch_first=True, norm_first=True)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="enable_nested_tensor")
            self.layers = nn.TransformerEncoder(layer, 6)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.layers(tokens)


def encoder() -> Encoder:
    """Seeded weights; in eval mode."""
    torch.manual_seed(_SEED)
    return Encoder().eval()


def export_onnx(
    network: nn.Module, example: np.ndarray, path: Path, *, names: Sequence[str] = ("image", "logits")
) -> Path:
    """The network as ONNX in one file, its first dimension free."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network, (torch.from_numpy(example),), path, dynamo=True, dynamic_shapes=({0: "batch"},),
            opset_version=OPSET, external_data=False, input_names=[names[0]], output_names=[names[1]], verbose=False,
        )  # fmt: skip
    return path
