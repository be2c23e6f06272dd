"""Networks as people bring them: the loss that is reported is the true one, or a sentence says why.

`TAKEN` are odd networks that are taken. Whatever their modules return, and on whatever axis their
images are, the loss of a run must be that computed independently: on a network built anew, in
float64, by plain forward hooks, one image at a time, so that all that a module returns is that
image's. `REFUSED` are those that cannot be read, and `UNFIT` those that `check_model` finds fault
with, each with a pattern of what is said.
"""

import dataclasses
import warnings
from collections import OrderedDict, namedtuple
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune, rnn

from metalib import check_model, generate, store, wrap_model

SIDE, MEAN, STD = 16, (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
LUMINANCE = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64).view(3, 1, 1)


class Net(nn.Module):
    """A network by its submodules, which become its own, and its forward pass."""

    def __init__(self, forward, **modules):
        super().__init__()
        self.pass_, self.modules_ = forward, list(modules)
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x):
        return self.pass_(self, x)


class Layer(Net):
    """A module that is a function of anything."""

    def forward(self, *inputs, **named):
        return self.pass_(*inputs, **named)


def conv(channels=3, out=4, stride=4):
    return nn.Conv2d(channels, out, 4, stride)


def tokens(x):
    """Pixels as 16 tokens of 48 numbers, (B, 16, 48)."""
    return F.unfold(x, 4, stride=4).mT


def head(inputs=64, out=5):
    return nn.Linear(inputs, out)


# --- Where the images are ------------------------------------------------------------------------

def sequence_first(forward=lambda net, x: net.head(net.body(tokens(x).transpose(0, 1)).mean(0))):
    layer = nn.TransformerEncoderLayer(48, 4, 32, 0.0)
    return Net(forward, body=nn.TransformerEncoder(layer, 1, enable_nested_tensor=False),
               head=head(48))


def fast_path():
    layer = nn.TransformerEncoderLayer(48, 4, 32, 0.0, batch_first=True, norm_first=False)
    return Net(lambda net, x: net.head(net.body(tokens(x)).mean(1)),
               body=nn.TransformerEncoder(layer, 2), head=head(48))


def attention(batch_first=True):
    def forward(net, x):
        x = tokens(x) if batch_first else tokens(x).transpose(0, 1)
        x, _ = net.attention(query=x, key=x, value=x)
        return net.head(x.mean(1 if batch_first else 0))
    return Net(forward, attention=nn.MultiheadAttention(48, 4, batch_first=batch_first),
               head=head(48))


def rows(kind, **options):
    """A recurrent network over the rows of an image, (16, B, 48)."""
    def forward(net, x):
        x = x.permute(2, 0, 3, 1).flatten(2)
        output, _ = net.body(x.transpose(0, 1) if options.get("batch_first") else x)
        return net.head(output[:, -1] if options.get("batch_first") else output[-1])
    wide = 2 if options.get("bidirectional") else 1
    return Net(forward, body=kind(48, 8, **options), head=head(8 * wide))


def packed():
    def forward(net, x):
        x = x.permute(0, 2, 3, 1).flatten(2)
        x = rnn.pack_padded_sequence(x, torch.full((len(x),), 16), batch_first=True)
        x, _ = rnn.pad_packed_sequence(net.body(x)[0], batch_first=True)
        return net.head(x[:, -1])
    return Net(forward, body=nn.GRU(48, 8, batch_first=True), head=head(8))


def windows(interleaved):
    """Attention in windows, (B * 4, 4, 48) or (4 * B, 4, 48)."""
    def forward(net, x):
        x = tokens(x).unflatten(1, (4, 4))
        x = x.transpose(0, 1) if interleaved else x
        x = net.windows(x.flatten(0, 1))
        x = x.unflatten(0, (4, -1)).transpose(0, 1) if interleaved else x.unflatten(0, (-1, 4))
        return net.head(x.mean((1, 2)))
    return Net(forward, windows=nn.Linear(48, 8), head=head(8))


def frames(faint=1.0):
    """Shifted copies as frames, folded time-first into the batch; a constant is added."""
    def forward(net, x):
        x = net.frames(torch.stack([x, x.roll(1, 3), x.roll(2, 3)]).flatten(0, 1))
        x = net.body(x * faint + 1)
        return net.head(x.unflatten(0, (3, -1)).mean(0).flatten(1))
    return Net(forward, frames=conv(), body=nn.Conv2d(4, 4, 1), head=head())


def two_views():
    """All images, then all once more in a mirror, (2 * B, ...)."""
    def forward(net, x):
        plain, mirrored = net.body(torch.cat([x, x.flip(3)])).chunk(2)
        return net.head((plain + mirrored).flatten(1))
    return Net(forward, body=nn.Sequential(conv(), nn.Tanh()), head=head())


def pixel_by_pixel():
    """Every place as a row of its own, (B * 16, 4)."""
    def forward(net, x):
        x = net.conv(x).permute(0, 2, 3, 1)
        return net.head(net.rows(x.flatten(0, 2)).view(len(x), -1))
    return Net(forward, conv=conv(), rows=nn.Linear(4, 4), head=head())


def with_template():
    """A constant image stands before those of the batch, (1 + B, ...)."""
    return Net(lambda net, x: net.head(net.conv(torch.cat([x[:1] * 0, x]))[1:].flatten(1)),
               conv=conv(), head=head())


def in_channels():
    """One grouped convolution over a batch in the channel axis, (1, B * 4, 4, 4)."""
    def forward(net, x):
        weight = net.weight.weight.view(4, 3, 4, 4).repeat(len(x), 1, 1, 1)
        y = net.mixed(F.conv2d(x.flatten(0, 1)[None], weight, stride=4, groups=len(x)))
        return net.head(y.view(len(x), -1))
    return Net(forward, weight=nn.Linear(48, 4), mixed=nn.ReLU(), head=head())


def channels_first_tokens():
    """Features on the first axis and images on the last, (48, 16, B), and so the logits (5, B)."""
    return Net(lambda net, x: net.head(net.turned(tokens(x)).mean(1).T).T,
               turned=Layer(lambda x: torch.relu(x).permute(2, 1, 0)), head=head(48))


def vmapped():
    return Net(lambda net, x: net.head(torch.vmap(lambda image: net.body(image[None])[0])(x)),
               body=nn.Sequential(conv(), nn.Flatten()), head=head())


def two_branches():
    """Two resolutions at once, as a list between blocks."""
    two = Net(lambda net, x: [net.conv(x), x.mean(1)], conv=conv())
    block = Layer(lambda xs: [xs[0].tanh(), xs[1] * 2])
    return Net(lambda net, x: net.head(net.block(net.two(x))[0].flatten(1)), two=two, block=block,
               head=head())


def one_by_one():
    """A loop over images. What is in it is no stage, and what is around it is."""
    body = nn.Sequential(conv(), nn.ReLU())
    loop = Net(lambda net, x: torch.cat([net.body(image[None]) for image in x]), body=body)
    return nn.Sequential(OrderedDict(loop=loop, flat=nn.Flatten(), head=head()))


# --- What modules return -------------------------------------------------------------------------

class ModelOutput(OrderedDict):
    """As that of Hugging Face: a dict whose entries are attributes, and without those of None."""

    def __init__(self, **fields):
        super().__init__({key: value for key, value in fields.items() if value is not None})
        self.__dict__.update(fields)


@dataclasses.dataclass
class Answer:
    logits: torch.Tensor
    loss: torch.Tensor | None = None


Named = namedtuple("Named", ["logits", "auxiliary"])


class Block(nn.Module):
    """As those of Hugging Face: called by keyword, returns a tuple."""

    def __init__(self):
        super().__init__()
        self.dense = nn.Linear(48, 48)

    def forward(self, hidden_states=None, output_attentions=False):
        return (hidden_states + torch.tanh(self.dense(hidden_states)),)


def hugging_face(answer):
    """Blocks that are called by keyword; `answer` makes what is returned of hidden states, logits.
    """
    def forward(net, x):
        hidden = tokens(x)
        for block in (net.block1, net.block2):
            hidden = block(hidden_states=hidden)[0]
        return answer(hidden, net.head(input=hidden.mean(1)))
    return Net(forward, block1=Block(), block2=Block(), head=head(48))


def classifier(end, **more):
    """A convolution, then `end` makes what is returned of the logits (B, 5)."""
    return Net(lambda net, x: end(net.head(net.conv(x).flatten(1))), conv=conv(), head=head(),
               **more)


def features_and_logits():
    return Net(lambda net, x: (net.conv(x).flatten(1), net.head(x.flatten(1))), conv=conv(),
               head=head(768))


def spectrum(conjugate=False):
    """A Fourier transform, whose numbers are complex."""
    return Net(lambda net, x: net.head(net.fft(net.conv(x)).abs().flatten(1)), conv=conv(),
               fft=Layer(lambda x: torch.fft.rfft2(x).conj() if conjugate else torch.fft.rfft2(x)),
               head=head(48))


# --- How they are made ---------------------------------------------------------------------------

def sequential(*layers):
    return nn.Sequential(conv(), *layers, nn.Flatten(), head())


def shared():
    """One module with two names, of which the second is the stage."""
    network = Net(lambda net, x: net.head(net.second(x).flatten(1)), first=conv(), head=head())
    network.second = network.first
    return network


class Extra(nn.Module):
    def forward(self, x):
        return x * 2

    def get_extra_state(self):
        return {"seen": 3}

    def set_extra_state(self, state):
        pass


def masked():
    """Causal attention over tokens, whose mask is a buffer with -inf."""
    network = Net(lambda net, x: net.head(net.mixed((net.mask + tokens(x) @ tokens(x).mT)
                                                    .softmax(-1) @ tokens(x)).mean(1)),
                  mixed=nn.Linear(48, 8), head=head(8))
    network.register_buffer("mask", torch.full((16, 16), -torch.inf).triu(1))
    return network


def mixed():
    """A layer in float64 in a network in float32."""
    return Net(lambda net, x: net.head(
        net.exact(net.conv(x).double()).to(net.head.weight.dtype).flatten(1)),
        conv=conv(), exact=nn.Linear(4, 4).double(), head=head())


def in_training(network):
    return network.train()


def lazy():
    network = nn.Sequential(nn.LazyConv2d(4, 4, 4), nn.Flatten(), nn.LazyLinear(5))
    network(torch.zeros(1, 3, SIDE, SIDE))
    return network


def weighted(norm):
    return nn.Sequential(norm(conv()), nn.ReLU(), nn.Flatten(), norm(head()))


def pruned():
    network = sequential(nn.ReLU())
    prune.l1_unstructured(network[0], "weight", 0.5)
    return network


def checkpointed():
    def forward(net, x):
        x = torch.utils.checkpoint.checkpoint(net.body, x, use_reentrant=False)
        return net.head(x.flatten(1))
    return Net(forward, body=nn.Sequential(conv(), nn.Tanh()), head=head())


class Fallback(nn.Module):
    """Catches what goes wrong in its fast layer."""

    def __init__(self):
        super().__init__()
        self.fast, self.slow, self.head = conv(), conv(), head()

    def forward(self, x):
        try:
            x = self.fast(x)
        except Exception:
            x = self.slow(x)
        return self.head(x.flatten(1))


def in_place_on_pixels():
    return Net(lambda net, x: net.head(net.conv(x.sub_(0.1).mul_(2)).flatten(1)), conv=conv(),
               head=head())


def reshaped_in_place():
    """The axes of a stage's output are swapped in place later on."""
    return Net(lambda net, x: net.head(net.conv(x).flatten(2).transpose_(1, 2).flatten(1)),
               conv=conv(), head=head())


def quantised_head():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(
            sequential(nn.ReLU()), {nn.Linear}, dtype=torch.qint8)


def quietly(wrapper):
    """A network in a wrapper of torch, without its warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return wrapper(sequential(nn.ReLU()).eval())


def traced(net):
    """As torch.jit sees it; torch.jit.script depends on what was compiled before."""
    return torch.jit.trace(net, torch.zeros(1, 3, SIDE, SIDE))


def scripted_part():
    return quietly(lambda net: nn.Sequential(traced(net[:2]), *net[2:]))


class Stubborn(nn.BatchNorm2d):
    """Stays in training mode."""

    def train(self, mode=True):
        return super().train(True)


class Case(NamedTuple):
    build: object
    stages: list | None = None
    options: dict = {}
    channels: int = 3
    found: tuple = ()  # stages that must be among the default ones
    true: object = None  # what to build instead in float64


TAKEN = {
    "sequence-first encoder": Case(sequence_first, ["body", "body.layers.0.linear1", "head"]),
    "sequence-first encoder by default": Case(sequence_first, found=("head",)),
    "fast path of an encoder": Case(fast_path, ["body.layers.0", "body.layers.1", "head"]),
    "inside a fast path": Case(fast_path, ["body.layers.0.linear2", "body.layers.1.norm2"]),
    "attention by keyword": Case(attention, ["attention", "head"]),
    "input by keyword": Case(attention, ["attention:input", "head:input"]),
    "attention, sequence-first": Case(partial(attention, False), ["attention", "head"]),
    "LSTM over rows": Case(partial(rows, nn.LSTM), ["body", "body:input", "head"]),
    "GRU both ways": Case(partial(rows, nn.GRU, bidirectional=True), ["body", "head"]),
    "RNN, batch-first": Case(partial(rows, nn.RNN, batch_first=True), ["body", "head"]),
    "packed sequence": Case(packed, ["body", "head"]),
    "vmap around": Case(vmapped, ["head"]),
    "windows": Case(partial(windows, False), ["windows", "windows:input", "head"]),
    "windows, interleaved": Case(partial(windows, True), ["windows", "windows:input", "head"]),
    "frames": Case(frames, ["frames", "body", "head"]),
    "faint frames": Case(partial(frames, 1e-4), ["frames", "body", "body:input"]),
    "two views": Case(two_views, ["body.0", "body", "body:input", "head"]),
    "pixel by pixel": Case(pixel_by_pixel, ["conv", "rows", "rows:input", "head"]),
    "batch in the channels": Case(in_channels, ["mixed", "head"]),
    "images on the last axis": Case(channels_first_tokens, ["turned", "head"]),
    "one by one": Case(one_by_one, ["loop", "head"]),
    "one by one by default": Case(one_by_one, found=("loop", "head")),
    "blocks by keyword": Case(partial(hugging_face, lambda hidden, logits: logits),
                              ["block1", "block2:input", "head"]),
    "blocks by keyword by default": Case(
        partial(hugging_face, lambda hidden, logits: logits), found=("block1", "head")),
    "logits of an object": Case(partial(
        hugging_face, lambda hidden, logits: ModelOutput(
            loss=None, logits=logits, hidden_states=(hidden,))), found=("head",)),
    "last hidden state": Case(partial(
        hugging_face, lambda hidden, logits: ModelOutput(last_hidden_state=hidden,
                                                         pooler_output=logits)), ["block1"]),
    "logits of a dataclass": Case(partial(classifier, Answer), found=("head",)),
    "logits of a named tuple": Case(
        partial(classifier, lambda x: Named(x, x.sum())), found=("head",)),
    "logits of a dict": Case(partial(classifier, lambda x: {"logits": x}), found=("head",)),
    "the only tensor of a dict": Case(
        partial(classifier, lambda x: {"answer": x}), found=("head",)),
    "the first of a list": Case(two_branches, ["two", "block", "block:input", "head"]),
    "the first of a tuple": Case(partial(classifier, lambda x: (x, [x])), found=("head",)),
    "logits beside features": Case(
        features_and_logits, ["conv", "head"], {"class_names": "abcde"}),
    "a key": Case(partial(classifier, lambda x: {"a": x, "b": -x}), options={"output": "b"},
                  found=("conv",)),
    "a function of the output": Case(
        partial(classifier, lambda x: [x.sum(), {"y": x}]), options={"output": lambda y: y[1]["y"]},
        found=("head",)),
    "one logit": Case(lambda: nn.Sequential(conv(), nn.Flatten(), head(64, 1)), found=("2",)),
    "one number": Case(lambda: nn.Sequential(conv(), nn.Flatten(), head(64, 1), nn.Flatten(0)),
                       ["0", "2"]),
    "feature maps": Case(
        lambda: nn.Sequential(conv(), nn.ReLU(), nn.Conv2d(4, 6, 3)), found=("2",)),
    "embeddings": Case(lambda: sequential(nn.ReLU()), options={"classes": False}, found=("3",)),
    "complex numbers": Case(spectrum, ["fft", "fft:input", "head"]),
    "conjugate numbers": Case(partial(spectrum, True), ["fft", "head"]),
    "shared module": Case(shared, ["second", "head"]),
    "extra state": Case(lambda: sequential(Extra()), ["1", "3"]),
    "mask of -inf": Case(masked, ["mixed", "head"]),
    "half weights": Case(lambda: sequential(nn.ReLU()).half(), ["0", "1", "3"]),
    "bfloat16 weights": Case(lambda: sequential(nn.ReLU()).bfloat16(), ["0", "1", "3"]),
    "float64 weights": Case(lambda: sequential(nn.ReLU()).double(), ["0", "1", "3"]),
    "mixed weights": Case(mixed, ["conv", "exact", "head"]),
    "grey-scale": Case(lambda: nn.Sequential(conv(1), nn.ReLU(), nn.Flatten(), head()), ["1", "3"],
                       {"mean": (0.5,), "std": (0.2,)}, channels=1),
    "grey-scale, colour images": Case(
        lambda: nn.Sequential(conv(1), nn.ReLU(), nn.Flatten(), head()), ["1", "3"],
        {"mean": (0.5,), "std": (0.2,)}),
    "not square": Case(lambda: nn.Sequential(conv(), nn.ReLU(), nn.Flatten(), head(96)), ["1", "3"],
                       {"input_size": (16, 24)}),
    "channels last": Case(lambda: sequential(nn.ReLU()), ["0", "1", "3"], {"channels_last": True}),
    "channels last inside": Case(lambda: nn.Sequential(
        conv(), Layer(lambda x: x.permute(0, 2, 3, 1)), nn.Linear(4, 4), nn.Flatten(), head()),
        ["0", "1", "2"]),
    "training mode": Case(lambda: in_training(sequential(nn.BatchNorm2d(4), nn.Dropout(0.5))),
                          ["1", "2", "4"]),
    "weight norm": Case(partial(weighted, parametrizations.weight_norm), ["0", "3"]),
    "spectral norm": Case(partial(weighted, parametrizations.spectral_norm), ["0", "3"]),
    "old weight norm": Case(lambda: weighted(torch.nn.utils.weight_norm), ["0", "3"]),
    "pruned": Case(pruned, ["0", "3"]),
    "lazy, once run": Case(lazy, ["0", "2"]),
    "checkpointed": Case(checkpointed, ["body.0", "body", "head"]),
    "fallback": Case(Fallback, ["fast", "head"]),
    "data-parallel": Case(lambda: nn.DataParallel(sequential(nn.ReLU())), ["0", "1", "3"]),
    "compiled": Case(lambda: torch.compile(sequential(nn.ReLU())), ["0", "1", "3"]),
    "scripted part": Case(scripted_part, ["2"]),
    "scripted part by default": Case(scripted_part, found=("2",)),
    "traced by torch.fx": Case(lambda: torch.fx.symbolic_trace(sequential(nn.ReLU())), ["0", "3"]),
    "in place after the stage": Case(lambda: sequential(
        nn.Identity(), Layer(lambda x: x.mul_(3)), nn.ReLU(inplace=True)), ["0", "1", "2", "5"]),
    "the same tensor": Case(lambda: sequential(nn.Identity(), nn.Dropout(0), nn.ReLU(inplace=True)),
                            ["0", "1", "2"]),
    "in place on the pixels": Case(in_place_on_pixels, ["conv", "conv:input", "head"]),
    "in place on the pixels by default": Case(in_place_on_pixels, found=("conv", "head")),
    "reshaped in place": Case(reshaped_in_place, ["conv", "head"]),
    "detached branch": Case(
        lambda: sequential(Layer(lambda x: x + x.detach().flip(1))), ["1", "3"]),
    "quantised head": Case(quantised_head, ["0", "1"], true=lambda: sequential(nn.ReLU())),
}

SCRIPTED = "scripted|torch.jit"
STRAYING = "other images in the batch|chance"

REFUSED = {
    "images that need a loop": (one_by_one, {"stages": ["loop.body"]}, "name the block around it"),
    "no axis for images": (
        lambda: Net(lambda net, x: net.head(net.conv(x).flatten(1) + net.shift(x.sum())),
                    conv=conv(), head=head(), shift=Layer(lambda x: x[None])),
        {"stages": ["shift"]}, "has no axis for the images"),
    "a template in the batch": (
        with_template, {"stages": ["conv"]}, "cannot be told apart"),
    "similarities": (
        lambda: Net(lambda net, x: net.head(net.conv(x).flatten(1)) * net.all(x.flatten(1)).sum(),
                    conv=conv(), head=head(), all=Layer(lambda x: x @ x.T)),
        {"stages": ["all"]}, "cannot be told apart"),
    "logits of one image without an axis": (
        lambda: nn.Sequential(conv(), nn.Flatten(), head(64, 1), Layer(torch.squeeze)), {},
        "keep the batch axis"),
    "nothing that is known": (
        partial(classifier, lambda x: {"a": x, "b": -x}), {}, "pass output="),
    "features and logits": (features_and_logits, {"stages": ["conv"]}, "pass output="),
    "nothing and logits": (partial(classifier, lambda x: (None, x)), {}, "pass output="),
    "no such key": (partial(classifier, lambda x: {"a": x}), {"output": "b"}, "is not in what"),
    "a stage of several unknown tensors": (
        lambda: Net(lambda net, x: net.head(net.two(x)["a"].flatten(1)), head=head(),
                    two=Net(lambda net, x: {"a": net.conv(x), "b": x}, conv=conv())),
        {"stages": ["two"]}, "returns a dict with a, b"),
    "folded in the middle": (
        lambda: Net(lambda net, x: net.head(net.fold(net.conv(x)).unflatten(
            0, (2, -1, 2)).transpose(0, 1).flatten(1)), conv=conv(), head=head(),
            fold=Layer(lambda x: x.unflatten(1, (2, 2)).transpose(0, 1).flatten(0, 2))),
        {"stages": ["fold"]}, STRAYING),
    "a scripted stage": (scripted_part, {"stages": ["0"]}, "scripted"),
    "inside vmap": (vmapped, {"stages": ["body"]}, "has no axis for the images"),
    "quantised": (quantised_head, {}, "quantised layers.*stages="),
    "old weight norm, half": (lambda: weighted(torch.nn.utils.weight_norm).half(), {},
                              r"network.float\(\)"),
    "quantised stage": (
        lambda: sequential(Layer(lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8)),
                           Layer(torch.dequantize)), {"stages": ["1"]}, "quantised"),
    "batch statistics": (
        lambda: sequential(nn.BatchNorm2d(4, track_running_stats=False)), {"stages": ["1", "3"]},
        STRAYING),
    "batch statistics by a function": (
        lambda: sequential(Layer(lambda x: F.batch_norm(x, None, None, training=True))),
        {"stages": ["1"]}, STRAYING),
    "stubborn training mode": (
        lambda: sequential(Stubborn(4)), {"stages": ["1"]}, STRAYING),
    "dropout that is always on": (
        lambda: sequential(Layer(F.dropout)), {"stages": ["1", "3"]},
        STRAYING),
    "all detached": (
        lambda: sequential(Layer(torch.detach)), {}, "remove torch.no_grad, detach"),
    "channels last": (
        lambda: Net(lambda net, x: net.head(net.conv(x.permute(0, 3, 1, 2)).flatten(1)),
                    conv=conv(), head=head()), {}, "3 channels"),
    "grey-scale without word": (
        lambda: nn.Sequential(conv(1), nn.Flatten(), head()), {}, r"mean=\(m,\)"),
    "six channels": (lambda: nn.Sequential(conv(6), nn.Flatten(), head()), {}, "3 channels"),
    "another size": (lambda: nn.Sequential(conv(), nn.Flatten(), head(100)), {}, "input_size="),
    "two inputs": (
        lambda: Layer(lambda x, y: x + y), {}, "wrap a module that takes normalised images alone"),
    "a list of images": (
        lambda: Net(lambda net, x: net.head(net.conv(torch.stack(list(x["pixels"]))).flatten(1)),
                    conv=conv(), head=head()),
        {}, "wrap a module that takes normalised images alone"),
    "one image only": (
        lambda: Net(lambda net, x: net.head(net.conv(x).reshape(1, 64)), conv=conv(), head=head()),
        {}, "batch axis have any length"),
    "no submodules": (lambda: Layer(lambda x: x.mean((2, 3))), {}, "nn.Sequential"),
    "scripted": (lambda: quietly(traced), {"stages": ["0"]}, SCRIPTED),
    "scripted by default": (lambda: quietly(traced), {}, SCRIPTED),
    "traced": (lambda: quietly(
        lambda net: torch.jit.trace(net, torch.zeros(2, 3, SIDE, SIDE))), {}, SCRIPTED),
    "frozen": (lambda: quietly(
        lambda net: torch.jit.freeze(traced(net))), {}, SCRIPTED),
    "lazy": (lambda: nn.Sequential(nn.LazyConv2d(4, 4, 4), nn.Flatten(), nn.LazyLinear(5)), {},
             "run one batch"),
    "meta": (lambda: sequential().to("meta"), {}, "meta device: load them"),
    "not finite": (lambda: sequential(nn.ReLU()), {}, "'0.weight' are not finite"),
    "a function": (lambda: torch.relu, {}, "not a torch.nn.Module"),
    "a state dict": (lambda: sequential().state_dict(), {}, "not a torch.nn.Module"),
}

UNFIT = {
    "sight of the next image": (
        lambda: sequential(Layer(lambda x: torch.cat([x[:-1] + x[1:], x[-1:]]))),
        {"stages": ["1", "3"]}, "other images in the batch"),
    "images in pieces": (
        lambda: Net(lambda net, x: net.head(torch.cat(
            [net.conv(part) for part in x.split(2)]).flatten(1)), conv=conv(), head=head()),
        {"stages": ["conv", "head"]}, "other images in the batch|rows|pieces"),
    "detached stage": (
        lambda: sequential(Layer(torch.detach)), {"stages": ["1"]}, "no gradient"),
    "whole numbers": (
        lambda: sequential(Layer(lambda x: (x > 0).long()), Layer(torch.Tensor.float)),
        {"stages": ["1"]}, "no gradient"),
    "constant": (
        lambda: sequential(Layer(lambda x: x * 0 + 1)), {"stages": ["1"]}, "gradient.*zero"),
    "inference mode": (
        lambda: Net(lambda net, x: net.head(torch.inference_mode()(net.conv)(x).flatten(1)),
                    conv=conv(), head=head()), {"stages": ["conv"]}, "no gradient"),
    "reentrant checkpoint": (
        lambda: Net(lambda net, x: net.head(torch.utils.checkpoint.checkpoint(
            net.body, x, use_reentrant=True).flatten(1)), body=nn.Sequential(conv(), nn.Tanh()),
            head=head()), {"stages": ["body"]}, "no gradient"),
    "in place": (
        lambda: sequential(nn.ReLU(), Layer(lambda x: x.mul_(3))), {"stages": ["2"]}, "in ?place"),
}


def wrapped(network, stages=None, **options):
    return wrap_model(network, stages=stages, **{
        "input_size": SIDE, "mean": MEAN, "std": STD, "name": "stranger"} | options)


def one_tensor(output):
    """The tensor that stands for an output, by hand."""
    if isinstance(output, torch.Tensor):
        return output
    return one_tensor(output[0])


def true_activations(network, options, images, stage):
    """All that a stage gives for each image alone, (B, D), by a plain hook in float64."""
    seen, submodule = [], network.get_submodule(stage.removesuffix(":input"))

    def keep(output):
        seen.append(one_tensor(output).detach().clone().flatten())

    if stage.endswith(":input"):
        handle = submodule.register_forward_pre_hook(
            lambda _module, inputs, named: keep((inputs or list(named.values()))[0]),
            with_kwargs=True)
    else:
        handle = submodule.register_forward_hook(lambda _module, _inputs, output: keep(output))
    mean, std = (torch.tensor(options.get(key, default), dtype=torch.float64).view(-1, 1, 1)
                 for key, default in (("mean", MEAN), ("std", STD)))
    if len(mean) < images.shape[1]:
        images = (images * LUMINANCE).sum(1, keepdim=True)
    with torch.no_grad():
        for image in images.double():
            network(((image - mean) / std)[None])
    handle.remove()
    return torch.stack(seen)


def assert_same(activations, true):
    """Unit by unit; of complex numbers both parts are units."""
    true = torch.view_as_real(true).flatten(1) if true.is_complex() else true
    torch.testing.assert_close(activations, true.float(), rtol=0, atol=1e-5 * true.abs().max())


def independent(build):
    """The network once more, in float64, in evaluation mode, without what is wrapped around it."""
    torch.manual_seed(0)
    network = build()
    network = getattr(network, "_orig_mod", network)
    network = network.module if isinstance(network, nn.DataParallel) else network
    return network.double().eval()


@pytest.mark.filterwarnings("ignore:.*weight_norm")
@pytest.mark.parametrize("case", TAKEN.values(), ids=TAKEN.keys())
def test_the_loss_of_an_odd_network_is_the_true_one(case):
    torch.manual_seed(0)
    model = check_model(wrapped(case.build(), case.stages, **case.options))
    assert set(case.stages or case.found) <= set(model.stages)
    network = independent(case.true or case.build)
    images = torch.rand(4, case.channels, *model.input_shape[1:],
                        generator=torch.Generator().manual_seed(1))
    for stage in model.stages:
        metamers = generate(model, images, stage, steps=2, progress=False)
        made, goal = (true_activations(network, case.options, x, stage)
                      for x in (metamers.starts, images))
        assert_same(model.activations(images, stage), goal)
        true = (made - goal).norm(dim=1) / goal.norm(dim=1)
        for count in (1, 4):
            reported = generate(model, images[:count], stage, start=metamers.starts[:count],
                                steps=1, progress=False).loss[0]
            torch.testing.assert_close(reported.double(), true[:count], atol=1e-3, rtol=0)


@given(st.permutations(range(4)), st.sampled_from(["apart", "behind", "before"]))
@settings(max_examples=25, deadline=None)
def test_images_are_found_on_any_axis_and_folded_into_any_other(order, folded):
    """Of features (B, 4, 4, 4), channels may be folded into the batch, behind it or before it."""
    def turned(x):
        if folded != "apart":
            x = (x if folded == "behind" else x.transpose(0, 1)).flatten(0, 1)
        return x.permute([axis for axis in order if axis < x.ndim])

    def build():
        return Net(lambda net, x: net.head(net.conv(x).flatten(1)) + 0 * net.turned(
            net.conv(x)).sum(), conv=conv(), turned=Layer(turned), head=head())

    torch.manual_seed(0)
    model = wrapped(build(), ["turned"])
    images = torch.rand(3, 3, SIDE, SIDE)
    assert_same(model.activations(images, "turned"),
                true_activations(independent(build), {}, images, "turned"))


@pytest.mark.filterwarnings("ignore:.*weight_norm")
@pytest.mark.parametrize("build, options, message", REFUSED.values(), ids=REFUSED.keys())
def test_a_network_that_cannot_be_read_is_refused_in_a_sentence(build, options, message):
    network = build()
    if message.endswith("not finite"):
        network[0].weight.data[0] = torch.nan
    with pytest.raises(ValueError, match=message):
        wrapped(network, **options)


@pytest.mark.filterwarnings("ignore:None of the inputs")
@pytest.mark.parametrize("build, options, message", UNFIT.values(), ids=UNFIT.keys())
def test_a_network_that_metamers_cannot_be_made_for_is_told_what_to_mend(build, options, message):
    model = wrapped(build(), **options)
    with pytest.raises(ValueError, match=f"(?s){message}"):
        check_model(model)


def test_public_architectures_were_tried_and_agree():
    """By `benchmarks/networks.py`, whose table is in the book."""
    rows = store.load_table(
        Path(__file__).parents[1] / "results" / "benchmark-networks.parquet").to_dict("records")
    taken = [row for row in rows if row["verdict"] != "refused"]
    assert len({row["network"] for row in taken}) >= 30
    assert all(float(row[losses]) < 1e-3 for row in taken for losses in ("alone", "batch of 4"))
    assert all(row["verdict"].startswith("agrees") for row in taken)
    assert all("stages=" in f"{row['remark']}" for row in rows if row not in taken)
