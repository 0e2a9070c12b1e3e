"""Residual networks as frozen trunks: (N, 128, 128, 3) uint8 → (N, 4, 4, 512).

`ResNet((1, 1, 1, 1))` is the "resnetv1-10-frozen" of SERL and HIL-SERL (arXiv 2401.16013, 2410.21845),
parameter by parameter under the names of its released ImageNet weights; 4,905,792 weights.
`ResNet((2, 2, 2, 2), norm="affine")` is torchvision's and timm's resnet18 once its batch norms, constant
in a frozen network, are folded into one scale and bias per channel; 11,176,512 weights.
"""

from __future__ import annotations

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # RGB in [0, 1]; what both families of weights were trained with
IMAGENET_STD = (0.229, 0.224, 0.225)
STEM = 64  # channels after the stem; each stage doubles them
GROUPS = 4
EPSILON = 1e-5
Norm = Literal["group", "affine"]


class Affine(nn.Module):
    """One scale and bias per channel: (…, C) → (…, C). What remains of a batch norm that is not trained."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        return x * scale.astype(self.dtype) + bias.astype(self.dtype)


class Block(nn.Module):
    """A basic residual block: (N, H, W, C) → (N, H / stride, W / stride, width)."""

    width: int
    stride: int
    norm: Norm
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = _conv(self, "Conv_0", self.width, 3, self.stride)(x)
        y = nn.relu(_norm(self, "MyGroupNorm_0")(y))
        y = _conv(self, "Conv_1", self.width, 3, 1)(y)
        y = _norm(self, "MyGroupNorm_1")(y)
        if x.shape != y.shape:
            x = _conv(self, "conv_proj", self.width, 1, self.stride)(x)
            x = _norm(self, "norm_proj")(x)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """Stem and four stages of ``depths`` blocks: (N, H, W, 3) uint8 → (N, H / 32, W / 32, 512) ``dtype``.

    ``norm`` "group" pads as JAX does ("SAME"), "affine" as PyTorch does: with stride 2 these differ by a
    pixel, and weights must be run as they were trained.
    """

    depths: tuple[int, ...] = (1, 1, 1, 1)
    norm: Norm = "group"
    dtype: Any = jnp.float32  # of the computation; the statistics of group norms are float32 always

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        x = (images.astype(jnp.float32) / 255.0 - jnp.array(IMAGENET_MEAN)) / jnp.array(IMAGENET_STD)
        x = _conv(self, "conv_init", STEM, 7, 2, padding=3)(x.astype(self.dtype))
        x = nn.relu(_norm(self, "norm_init")(x))
        x = nn.max_pool(x, (3, 3), (2, 2), _padding(self.norm, 1))
        strides = [2 if stage and not place else 1 for stage, depth in enumerate(self.depths) for place in range(depth)]
        widths = [STEM << stage for stage, depth in enumerate(self.depths) for _ in range(depth)]
        for number, (width, stride) in enumerate(zip(widths, strides, strict=True)):
            x = Block(width, stride, self.norm, self.dtype, name=f"ResNetBlock_{number}")(x)
        return x


def _conv(parent: Block | ResNet, name: str, width: int, size: int, stride: int, padding: int | None = None) -> nn.Conv:
    pads = _padding(parent.norm, size // 2) if padding is None else ((padding, padding),) * 2
    init = nn.initializers.he_normal()
    return nn.Conv(
        width, (size, size), (stride, stride), pads, use_bias=False, dtype=parent.dtype, kernel_init=init, name=name
    )


def _norm(parent: Block | ResNet, name: str) -> nn.Module:
    if parent.norm == "affine":
        return Affine(parent.dtype, name=name)
    return nn.GroupNorm(GROUPS, epsilon=EPSILON, dtype=parent.dtype, name=name)


def _padding(norm: Norm, width: int) -> Any:
    return "SAME" if norm == "group" else ((width, width), (width, width))
