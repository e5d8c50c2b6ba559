"""Small networks, one for each way of computing that the reader of exported networks knows: `scripts/networks.py --operators`
compares them with PyTorch. Each is a convolution to a map [B, 8, 16, 16], a function of the map, the mean of what that
makes, and a linear layer."""

import torch
from torch import nn
from torch.nn import functional as F

SIDE = 32
CHANNELS, MAP = 8, 16


class Around(nn.Module):
    def __init__(self, function, classes):
        super().__init__()
        self.stem = nn.Conv2d(3, CHANNELS, 3, stride=2, padding=1)
        self.function = function if isinstance(function, nn.Module) else Function(function)
        width = self.pooled(torch.randn(2, 3, SIDE, SIDE)).shape[1]
        self.classifier = nn.Linear(width, classes)

    def pooled(self, images):
        made = self.function(self.stem(images))
        return made.mean(dim=tuple(range(2, made.dim()))) if made.dim() > 2 else made

    def forward(self, images):
        return self.classifier(self.pooled(images))


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class WithTensor(nn.Module):
    """A function of the map and a parameter."""

    def __init__(self, shape, function):
        super().__init__()
        self.tensor = nn.Parameter(torch.randn(shape))
        self.function = function

    def forward(self, x):
        return self.function(x, self.tensor)


class WithBuffer(nn.Module):
    """A function of the map and a constant."""

    def __init__(self, buffer, function, persistent=False):
        super().__init__()
        self.register_buffer("buffer", buffer, persistent=persistent)
        self.function = function

    def forward(self, x):
        return self.function(x, self.buffer)


class StandardisedConv(nn.Conv2d):
    def forward(self, x):
        weight = self.weight.reshape(1, self.out_channels, -1)
        weight = F.batch_norm(weight, None, None, training=True, momentum=0.0, eps=1e-5).reshape_as(self.weight)
        return F.conv2d(x, weight, self.bias, padding=1)


def window_mask(x):
    """Swin's mask as torchvision makes it, in the forward pass."""
    mask = x.new_zeros((16, 16))
    count = 0
    for rows in ((0, -4), (-4, -2), (-2, None)):
        for columns in ((0, -4), (-4, -2), (-2, None)):
            mask[rows[0] : rows[1], columns[0] : columns[1]] = count
            count += 1
    mask = mask.view(4, 4, 4, 4).permute(0, 2, 1, 3).reshape(16, 16)
    mask = mask.unsqueeze(1) - mask.unsqueeze(2)
    mask = mask.masked_fill(mask != 0, -100.0).masked_fill(mask == 0, 0.0)
    attention = x.flatten(1, 2).unflatten(1, (8, 16)).softmax(-1)
    return attention + 0.01 * mask.sum(0)[:, :16] @ torch.eye(16)


def positions(x):
    """Fourier positions, as EdgeNeXt makes them: one map for each image of a batch whose size is open."""
    batch, _, height, width = x.shape
    rows = (~torch.zeros((batch, height, width)).to(torch.bool)).cumsum(1, dtype=torch.float32)
    rows = rows / (rows[:, -1:, :] + 1e-6) * 6.28
    steps = torch.arange(8, dtype=torch.int64).to(torch.float32)
    steps = 10000 ** (2 * torch.div(steps, 2, rounding_mode="floor") / 8)
    angles = rows[:, :, :, None] / steps
    made = torch.stack((angles[..., 0::2].sin(), angles[..., 1::2].cos()), dim=4).flatten(3)
    return x + made.permute(0, 3, 1, 2)


def relative_rows(x, table):
    grid = torch.stack(torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij")).flatten(1)
    relative = (grid[:, :, None] - grid[:, None, :]).permute(1, 2, 0).contiguous()
    relative[:, :, 0] += 3
    relative[:, :, 1] += 3
    relative[:, :, 0] *= 7
    bias = table[:, relative.sum(-1)]
    return x.reshape(-1, 8, 16, 16) + bias.unsqueeze(0)


def autocast_off(x):
    with torch.autocast(device_type="cpu", enabled=False):
        y = x.float()
        y = y.flatten(2) @ y.flatten(2).transpose(1, 2)
    return y.to(x.dtype) / 256


def functions():
    f32 = torch.float32
    yes = torch.rand(16, 16) > 0.5
    yield "relu6", F.relu6
    yield "leaky_relu", nn.LeakyReLU(0.2, inplace=True)
    yield "rrelu", lambda x: F.rrelu(x, 0.1, 0.3, training=False)
    yield "elu", nn.ELU(0.7)
    yield "celu", nn.CELU(1.3)
    yield "selu", nn.SELU()
    yield "mish", nn.Mish(inplace=True)
    yield "softplus", nn.Softplus(beta=2.0, threshold=5.0)
    yield "log_sigmoid", F.logsigmoid
    yield "prelu", nn.PReLU(8)
    yield "prelu_one", nn.PReLU()
    yield "gelu_tanh", nn.GELU(approximate="tanh")
    yield "hardtanh", nn.Hardtanh(-0.3, 0.4)
    yield "hardsigmoid", nn.Hardsigmoid()
    yield "clamp", lambda x: x.clamp(min=-0.2) + x.clamp(max=0.1) + x.clamp(-0.5, 0.5)
    yield "powers", lambda x: (x**2 + 1).sqrt() + (x.square() + 1).rsqrt() + 1 / (x * x + 1) + x.abs().pow(1.5)
    yield "exponentials", lambda x: (x.exp() + 1).log() + torch.erf(x) + (-x).abs()
    yield "logarithms", lambda x: torch.log1p(x.abs()) + torch.log2(x.abs() + 1) + torch.log10(x * x + 1) + torch.expm1(x) + torch.exp2(x)
    yield "waves", lambda x: x + torch.sin(3 * x) ** 2 / 3 + x.cos() + x.sign() * x
    yield "lp_pool", nn.LPPool2d(2, 3, stride=2)
    yield "gem", WithTensor((1,), lambda x, p: F.adaptive_avg_pool2d(x.clamp(min=1e-6).pow(p + 3), 1).pow(1.0 / (p + 3)))
    yield "powers_of_zero", WithTensor((8, 1, 1), lambda x, p: x.relu() ** (p.abs() + 1.5) + 1.7**x)
    yield "glu", nn.GLU(dim=1)
    yield "log_softmax", lambda x: x.log_softmax(1)
    yield "logsumexp", lambda x: x.logsumexp((2, 3)) + (x * 100).logsumexp(1, keepdim=True).mean((2, 3))
    yield "arithmetic", lambda x: 2 - x + torch.add(x, x * x, alpha=0.5) - torch.sub(x, x.sigmoid(), alpha=2)
    yield "addcmul", lambda x: torch.addcmul(x, x.sigmoid(), x.tanh(), value=0.3)
    yield "lerp", WithTensor((8, 1, 1), lambda x, w: torch.lerp(x, x.sigmoid(), 0.25) + torch.lerp(x, x.tanh(), w))
    yield "addcdiv", lambda x: torch.addcdiv(x, x, x.abs() + 1, value=0.3)
    yield "extremes", lambda x: torch.maximum(x, -x * 0.5) + torch.minimum(x, x * x)
    yield "where", WithBuffer(yes, lambda x, yes: torch.where(yes, x, x * x))
    yield "comparisons", lambda x: torch.where((x > 0.1) & ~(x <= -x * 0.5), x, 0.3 * x) + x * (x < 0.4) + (x >= 0).float()
    yield "clamp_tensors", WithTensor((8, 1, 1), lambda x, low: x.clamp(low, low.abs() + 0.5) + x.clamp(max=low * 2))
    yield "thresholds", lambda x: F.threshold(x, 0.1, -0.3) + F.hardshrink(x, 0.2) + F.softshrink(x, 0.3) + F.softsign(x)
    yield "masked_fill", WithBuffer(yes, lambda x, yes: x.masked_fill(yes, -0.5))
    yield "conv_same", nn.Conv2d(8, 6, (4, 3), padding="same", dilation=(1, 2))
    yield "conv_valid", nn.Conv2d(8, 6, 3, padding="valid")
    yield "conv1d", nn.Sequential(nn.Flatten(2), nn.Conv1d(8, 12, 3, padding=2, dilation=2, groups=2))
    yield "conv1d_same", nn.Sequential(nn.Flatten(2), nn.Conv1d(8, 12, 4, padding="same"))
    yield "conv_transpose", nn.ConvTranspose2d(8, 6, (3, 2), (2, 3), padding=(1, 0), output_padding=(1, 2), dilation=(1, 2), groups=2)
    yield "conv_transpose_plain", nn.ConvTranspose2d(8, 5, 2, 2, bias=False)
    yield "conv_transpose_1d", nn.Sequential(nn.Flatten(2), nn.ConvTranspose1d(8, 8, 5, 3, padding=2, output_padding=1, dilation=2, groups=8))
    yield "standardised_conv", StandardisedConv(8, 8, 3)
    yield "weight_norm", nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 8, 3))
    yield "instance_norm", nn.InstanceNorm2d(8, affine=True)
    yield "tracked_instance_norm", nn.Sequential(nn.InstanceNorm2d(8, affine=True, track_running_stats=True), nn.ReLU())
    yield "tracked_instance_norm_1d", nn.Sequential(nn.Flatten(2), nn.InstanceNorm1d(8, momentum=0.3, track_running_stats=True))
    yield "plain_norms", nn.Sequential(nn.BatchNorm2d(8, affine=False), nn.InstanceNorm2d(8), nn.GroupNorm(2, 8, affine=False))
    yield "rms_norm", nn.Sequential(nn.Flatten(2), nn.RMSNorm(256, eps=1e-4))
    yield "local_response_norm", nn.Sequential(nn.LocalResponseNorm(5, 0.3, 0.75, 2.0), nn.Flatten(2), nn.LocalResponseNorm(2, 0.5))
    yield "avg_pool3d", lambda x: F.avg_pool3d(x[:, None], (2, 3, 3), (1, 2, 3), (1, 1, 0), ceil_mode=True).flatten(1, 2)
    yield "normalize", lambda x: F.normalize(x, dim=1)
    yield "cosine_head", WithTensor((6, 8), lambda x, w: F.linear(F.normalize(x.mean((2, 3))), F.normalize(w)) * 16)
    yield "cosine_similarity", WithTensor((6, 8), lambda x, w: F.cosine_similarity(x.mean((2, 3))[:, None], w, dim=-1))
    yield "cosine_of_maps", lambda x: F.cosine_similarity(x, x.flip(2)) * F.cosine_similarity(x, x[:, :1], dim=1, eps=0.5)
    yield "prototypes", WithTensor((6, 8), lambda x, w: torch.cdist(x.mean((2, 3)), w, compute_mode="donot_use_mm_for_euclid_dist") + torch.cdist(x.amax((2, 3)), w, p=1) + F.pairwise_distance(x[:, 0], x[:, 1]).mean(1, True))
    yield "norms", lambda x: torch.cat((x.norm(dim=(2, 3)), x.norm(p=1, dim=(2, 3)), x.norm(p=float("inf"), dim=(2, 3))), 1)
    yield "variances", lambda x: torch.cat((x.var((2, 3)), x.std((2, 3), unbiased=False), torch.var_mean(x, (2, 3))[0], *torch.std_mean(x, (2, 3))), 1)
    yield "sum", lambda x: x.sum((2, 3)) / 256 + x.sum(dim=1, keepdim=True).flatten(1)[:, :8]
    yield "cumsum", lambda x: x.cumsum(1) * x.softmax(-1).cumsum(dim=-1)
    yield "linalg_norm", lambda x: torch.hstack((torch.linalg.norm(x, dim=(2, 3)), torch.linalg.norm(x.flatten(2), ord=1, dim=2)))
    yield "amax", lambda x: x.amax((2, 3)) + x.relu().amax(dim=(2, 3))
    yield "amin", lambda x: x.amin((2, 3)) + x.min(dim=1)[0].mean((1, 2))[:, None]
    yield "max", lambda x: x * torch.max(x, dim=1, keepdim=True)[0]
    yield "max_pool_with_places", lambda x: F.max_pool2d(x, 3, 2, 1, return_indices=True)[0]
    yield "adaptive_max_pool", nn.AdaptiveMaxPool2d(4)
    yield "adaptive_max_pool_uneven", nn.AdaptiveMaxPool2d((5, 3))
    yield "adaptive_average_pool", nn.AdaptiveAvgPool2d((5, 3))
    yield "pools_1d", nn.Sequential(nn.Flatten(2), nn.MaxPool1d(3, 2, 1), nn.AvgPool1d(2), nn.AdaptiveAvgPool1d(50), nn.AdaptiveMaxPool1d(7))
    yield "stack", lambda x: torch.stack((x, x * x, x.sigmoid()), dim=2)
    yield "repeat", lambda x: x.repeat(1, 2, 1, 3) + x.tile(2, 1, 3)
    yield "repeat_interleave", lambda x: x.repeat_interleave(3, dim=1)
    yield "flip", lambda x: x * x.flip((2, 3))
    yield "pad_constant", lambda x: F.pad(x, (1, 2, -3, 1), value=0.5) ** 2
    yield "pad_reflect", lambda x: F.pad(x, (3, 1, 2, 2), mode="reflect")
    yield "pad_replicate", lambda x: F.pad(x, (3, 1, 2, 2), mode="replicate")
    yield "pad_circular", lambda x: F.pad(x, (3, 1, 2, 2), mode="circular")
    yield "index", WithBuffer(torch.tensor([[3, 1], [0, 7]]), lambda x, at: x[:, at] + x.index_select(3, at[0])[:, :2, None, :, :1])
    yield "embedding", WithTensor((12, 16), lambda x, table: x + F.embedding(torch.arange(16) % 12, table))
    yield "unfold", lambda x: x.unfold(2, 4, 3).unfold(3, 4, 4)
    yield "im2col", nn.Unfold((3, 2), dilation=2, padding=1, stride=(2, 3))
    yield "col2im", lambda x: F.fold(x.reshape(-1, 32, 64), (16, 24), 2, dilation=2, padding=1, stride=(2, 3))
    yield "unfold_and_fold", lambda x: F.fold(F.unfold(x, 3, padding=1).relu(), 16, 3, padding=1)
    yield "pixel_shuffle", nn.Sequential(nn.PixelShuffle(2), nn.PixelUnshuffle(4))
    yield "channel_shuffle", nn.ChannelShuffle(4)
    yield "upsample_nearest", nn.Upsample(scale_factor=2.5, mode="nearest")
    yield "upsample_nearest_exact", nn.Sequential(nn.Upsample(scale_factor=2.5, mode="nearest-exact"), nn.Upsample(size=(23, 9), mode="nearest-exact"))
    yield "upsample_bilinear", nn.Upsample(size=(23, 9), mode="bilinear")
    yield "upsample_aligned", nn.Upsample(scale_factor=(1.5, 2), mode="bilinear", align_corners=True)
    yield "upsample_bicubic", nn.Upsample(size=(11, 24), mode="bicubic")
    yield "upsample_antialiased", lambda x: F.interpolate(F.interpolate(x, (7, 21), mode="bicubic", antialias=True), (5, 9), mode="bilinear", antialias=True)
    yield "upsample_1d", lambda x: F.interpolate(F.interpolate(F.interpolate(x.flatten(2), 100, mode="linear"), scale_factor=0.7), 33, mode="nearest-exact")
    yield "einsum", WithTensor((8, 5, 16), lambda x, w: torch.einsum("bchw,cdw->bdhc", x, w))
    yield "einsum_sum", lambda x: torch.einsum("bchw,bdhw->bcd", x, x)
    yield "einsum_of_three", WithTensor((8, 5), lambda x, w: torch.einsum("bchw,cd,bw->bdh", x, w, x.mean((1, 2))))
    yield "einsum_ellipsis", WithTensor((6, 16), lambda x, w: torch.einsum("...w,kw->...k", x, w) + torch.einsum("...hw,w->...h", x, w[0])[..., None])
    yield "addmm", WithTensor((8, 8), lambda x, w: torch.addmm(x.mean((2, 3)), x.amax((2, 3)), w, beta=0.5, alpha=2))
    yield "baddbmm", lambda x: torch.baddbmm(x[:, 0], x[:, 1], x[:, 2], beta=0.5, alpha=0.1)
    yield "vectors", WithTensor((16,), lambda x, w: torch.cat((x @ w, w @ x), 1) * (w @ w.abs()))
    yield "outer", WithTensor((16,), lambda x, w: x @ (torch.outer(w, w.abs()) + torch.eye(16)) + torch.dot(w, w.abs()))
    yield "bilinear", WithTensor((6, 8, 8), lambda x, w: F.bilinear(x.mean((2, 3)), x.amax((2, 3)), w, w[:, 0, 0]))
    yield "tensordot", WithTensor((16, 8, 5), lambda x, w: torch.tensordot(x, w, dims=([3, 1], [0, 1])) + torch.inner(x[:, 0], w[:, 0].T))
    yield "vecdot", WithTensor((16,), lambda x, w: torch.linalg.vecdot(x, w) + torch.linalg.vecdot(x, x, dim=2))
    yield "products", WithTensor((3,), lambda x, w: x.tanh()[:, :, :7].prod(2) * w.prod() + x.sigmoid().prod(1, keepdim=True).mean(-1))
    yield "any_and_all", lambda x: x * (x > 0.3).any(1, keepdim=True) + x * (x > -0.5).all(dim=(2, 3), keepdim=True) * ((x > 0) ^ (x < 0.2))
    yield "whole_weights", WithTensor((16, 16), lambda x, w: x @ ((w - w.mean()) / w.std() * w.abs().max() / torch.linalg.norm(w)).T + w.sum() * w.min())
    yield "triangles", lambda x: x.tril(1) + x @ torch.triu(torch.ones(16, 16), -2) + x.masked_fill(torch.triu(torch.ones(16, 16), 1).bool(), -0.5)
    yield "moves", lambda x: x.movedim(1, -1).swapaxes(1, 2).mT.movedim((1, 2), (2, 3))
    yield "tensor_split", lambda x: torch.cat(x.tensor_split(3, 1)[::-1], 1) * x
    yield "second_names", lambda x: torch.multiply(x, torch.special.expit(x)) + torch.divide(torch.subtract(x, 1), 2) * torch.greater(x, 0) + x.moveaxis(2, 3).absolute() + torch.cat(x.tensor_split((3, 5), 1)[::-1], 1)
    yield "narrow", lambda x: x.narrow(1, 2, 4).squeeze() * x[:, ::2].view_as(x[:, 1::2])
    yield "dropout_2d_off", nn.Dropout2d(0.0)
    yield "window_mask", window_mask
    yield "positions", positions
    yield "relative_rows", WithTensor((8, 49), relative_rows)
    yield "autocast_off", autocast_off
    yield "attention", nn.Sequential(nn.Flatten(2), Attend())
    yield "causal", lambda x: F.scaled_dot_product_attention(x, x.flip(2), x.sigmoid(), is_causal=True, scale=0.3)
    yield "shared_keys", lambda x: F.scaled_dot_product_attention(x, x[:, ::4], x[:, 1::4], enable_gqa=True)
    yield "learned_queries", WithTensor((1, 8, 3, 16), lambda x, q: F.scaled_dot_product_attention(q, x, x))
    yield "linspace", lambda x: x * torch.linspace(-1, 1, 16, dtype=f32) + torch.full((16, 1), 0.5)


class Attend(nn.Module):
    """PyTorch's own multi-head attention."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(256, 4, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x, need_weights=False)[0] + self.attention(x, x, x)[1].sum(1, keepdim=True).mean(-1, True)


def build(name, classes):
    torch.manual_seed(1)
    return Around(dict(functions())[name], classes), SIDE


def names():
    return [name for name, _ in functions()]
