"""Which network is this? One hash of what decides its output, whatever it is called.

    fingerprint(model)      # weights, normalisation, classes, and code as far as it can be read
    code_of(function)       # a loss or an update rule that a user gave

Results are kept, found again and compared by it.
"""

import collections
import dataclasses
import dis
import enum
import functools
import hashlib
import importlib.util
import json
import sys
import tokenize
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

OF_CLASSES = {"__annotations__", "__dict__", "__doc__", "__module__", "__qualname__", "__weakref__"}
# What every module has, of which the registered parts are taken by themselves; and where timm notes
# from which file the weights come.
APART = {*vars(nn.Module()), "default_cfg", "pretrained_cfg"}


def fingerprint(model: Any) -> str:
    """Hash of what decides the output of a Model, 40 hexadecimal digits.

    These count:

    - weights and buffers, also those that are not saved, quantised ones, and extra state;
    - normalisation, input size, and the names and members of classes;
    - of each layer its class and its own settings: numbers, texts, functions, and tensors that are
      no buffers. Settings that a forward pass changes, such as attention maps that are kept to be
      looked at, do not count;
    - the code of a user's own classes and functions, as compiled by this minor version of Python,
      with what is called from it, also where it was typed into a notebook; of installed packages
      their versions; hooks, and methods that were replaced on one object.

    The names of the model and of its stages do not count, since they change no activations. Nor do
    the device, and state that lives outside Python.
    """
    return hashlib.sha256(json.dumps(_Reader(model).read(model)).encode()).hexdigest()[:40]


def code_of(function: Any) -> str:
    """Hash of a function that a user gave: its code with what it calls and uses, as above."""
    return hashlib.sha256(json.dumps(_Reader().setting(function)).encode()).hexdigest()[:40]


@functools.cache
def code_behind(module: str) -> str:
    """Hash of a module and of all modules of its package that it imports, directly or not.

    Imports inside functions do not count, nor do comments, docstrings, layout and data files.

    Args:
        module: its full name, such as "metalib.runs.tasks.generation".

    Raises:
        ValueError: there is no such module, or it is no Python file.
    """
    return hashlib.sha256("".join(f"{name} {_code_of_module(name)[0]}"
                                  for name in sorted(_behind(module))).encode()).hexdigest()


def _behind(module: str) -> set[str]:
    found, waiting = set(), {module}
    while waiting:
        found |= waiting
        waiting = {other for name in waiting for other in _code_of_module(name)[1]} - found
    return found


@functools.cache
def _code_of_module(name: str) -> tuple[str, frozenset[str]]:
    """The hash of one module's code, and the modules of its package that it imports."""
    spec = importlib.util.find_spec(name)
    if spec is None or not (spec.origin or "").endswith(".py"):
        raise ValueError(f"there is no module {name} in a Python file")
    package, files = name.partition(".")[0], set()
    statements = list(_statements(Path(str(spec.origin))))
    for statement in statements:
        if statement[0] == "from" and "import" in statement and statement[1] == package:
            parent = "".join(statement[1:statement.index("import")])
            words = statement[statement.index("import") + 1:]
            files |= {file for file in (parent, *(f"{parent}.{word}" for word in words))
                      if file != package and file.count(".") and _is_module(file)}
    return (hashlib.sha256(json.dumps(statements).encode()).hexdigest(), frozenset(files))


def _statements(path: Path) -> Iterator[list[str]]:
    """The statements of a file as lists of words, without comments and docstrings."""
    blocks, statement = {tokenize.INDENT, tokenize.DEDENT}, []
    with tokenize.open(path) as file:
        for token in tokenize.generate_tokens(file.readline):
            if token.type in blocks:
                yield [tokenize.tok_name[token.type]]
            elif token.type == tokenize.NEWLINE:
                if any(kind != tokenize.STRING for kind, _ in statement):
                    yield [word for _, word in statement]
                statement = []
            elif token.type not in (tokenize.COMMENT, tokenize.NL):
                statement.append((token.type, token.string))


def _is_module(name: str) -> bool:
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError:  # its parent is no package
        return False
    return spec is not None and (spec.origin or "").endswith(".py") and spec.name == name


class _Reader:
    """Describes what a model, or a function, consists of as nested lists of texts."""

    def __init__(self, model: Any = None):
        self.modules: dict[str, nn.Module] = {}
        self.known: dict[int, tuple[int, Any]] = {}  # values, too, lest an id is given out again
        if model is not None:
            network = getattr(model.module, "_orig_mod", model.module)  # before torch.compile
            self.modules = dict(network.named_modules())
            for module in (model, *self.modules.values()):
                self.known[id(module)] = len(self.known), module

    def read(self, model: Any) -> list:
        network = self.modules[""]
        tensors = {**dict(network.named_parameters()), **dict(network.named_buffers()),
                   **network.state_dict()}
        own = {name: value for name, value in model.state_dict().items()
               if not name.startswith("module.")}
        changing = _changing(model) if self._may_change() else frozenset()
        layers = [[name, self.of(type(module)), self._settings(module, name, changing)]
                  for name, module in self.modules.items()]
        return [layers, *map(self.of, (tensors, own, model.input_size, model.class_names,
                                       model.coarse_names))]

    def _may_change(self) -> bool:
        """Whether there are settings of a user's own layers, or tensors among those of others."""
        return any(isinstance(value, Tensor) or not _package(type(module).__module__)
                   for module in self.modules.values() for value in _plain(module).values())

    def _settings(self, module: nn.Module, name: str, changing: frozenset) -> list:
        plain = {key: self.setting(value) for key, value in sorted(_plain(module).items())
                 if (name, key) not in changing}
        hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
        code = getattr(module, "code", None)  # of scripted and traced networks
        return [plain, [self.of(hook) for hook in hooks], code if isinstance(code, str) else None]

    def setting(self, value: Any) -> Any:
        """A setting; of an object of a user's own class also what it holds."""
        described = self.of(value)
        if isinstance(described, str) or not hasattr(value, "__dict__") or isinstance(
                value, (type, types.FunctionType, nn.Module, Tensor)):
            return described
        return [described, self._mapping(vars(value))]

    def of(self, value: Any) -> Any:
        """What a value is, as texts."""
        for kinds, describe in self.KINDS:
            if isinstance(value, kinds):
                return describe(self, value)
        if dataclasses.is_dataclass(value):
            return self._once(value, lambda: [self.of(type(value)), self.of(vars(value))])
        if hasattr(value, "__wrapped__"):
            return self.of(value.__wrapped__)
        return getattr(value, "__qualname__", None) or self.of(type(value))

    def _once(self, value: Any, describe: Callable[[], Any]) -> Any:
        """The description where a value is first met; it may contain itself."""
        if id(value) in self.known:
            return self.known[id(value)][0]
        self.known[id(value)] = len(self.known), value
        return describe()

    def _mapping(self, value: Mapping) -> Any:
        return self._once(value, lambda: [
            [repr(key), self.of(each)] for key, each in sorted(
                value.items(), key=lambda item: str(item[0]))])

    def _several(self, value: Iterable) -> Any:
        return self._once(value, lambda: [self.of(each) for each in value])

    def _module(self, value: nn.Module) -> Any:
        """A network that is held, but not registered as a part."""
        return self._once(value, lambda: [
            [self.of(type(module)), self._settings(module, name, frozenset()),
             self.of({**dict(module.named_buffers()), **module.state_dict()})]
            for name, module in value.named_modules()])

    def _class(self, value: type) -> Any:
        return _package(value.__module__, value) or self._once(value, lambda: [value.__qualname__, [
            [key, self.of(each)] for base in value.__mro__ if not _package(base.__module__)
            for key, each in sorted(vars(base).items()) if key not in OF_CLASSES],
            [_package(base.__module__, base) for base in value.__mro__]])

    def _function(self, value: types.FunctionType) -> Any:
        return _package(value.__module__, value) or self._once(value, lambda: [
            self.of(value.__code__), self.of([value.__defaults__, value.__kwdefaults__]),
            [self.of(cell.cell_contents) for cell in value.__closure__ or () if _filled(cell)],
            [[name, self.of(value.__globals__[name])] for name in _global_names(value.__code__)
             if name in value.__globals__]])

    def _code(self, value: types.CodeType) -> list:
        return [value.co_code.hex(), list(value.co_names), list(value.co_varnames),
                [self.of(each) for each in value.co_consts]]

    KINDS: list[tuple[Any, Callable]] = [
        ((type(None), bool, int, float, complex, str, bytes, range, slice, enum.Enum, np.generic,
          torch.dtype), lambda _, x: repr(x)),
        (Tensor, lambda _, x: _content(x)),
        (np.ndarray, lambda _, x: [x.dtype.str, list(x.shape), _hash(x)]),
        (torch.device, lambda _, x: "device"),
        (nn.Module, _module),
        (Mapping, _mapping),
        ((list, tuple, collections.deque), _several),
        ((set, frozenset), lambda self, x: sorted(map(repr, x))),
        (types.SimpleNamespace, lambda self, x: self._mapping(vars(x))),
        (type, _class),
        (types.CodeType, _code),
        (types.FunctionType, _function),
        (types.MethodType, lambda self, x: self.of(x.__func__)),
        ((staticmethod, classmethod), lambda self, x: self.of(x.__func__)),
        (property, lambda self, x: [self.of(x.fget)]),
        (functools.partial, lambda self, x: [self.of(x.func), self.of(list(x.args)),
                                             self.of(dict(x.keywords))]),
        (types.ModuleType, lambda _, x: x.__name__),
    ]


def _plain(module: nn.Module) -> dict[str, Any]:
    """What is set on a module beside its registered parts."""
    return {key: value for key, value in vars(module).items() if key not in APART}


def _changing(model: Any) -> frozenset:
    """Pairs (module, attribute) of what two forward passes leave with different values."""
    seen = []
    for seed in (0, 1):
        generator = torch.Generator().manual_seed(seed)
        image = torch.rand((1, *model.input_shape), generator=generator).to(model.device)
        with torch.no_grad():
            model.activations(image, model.stages[-1])
        reader = _Reader(model)
        seen.append({(name, key): reader.of(value) for name, module in reader.modules.items()
                     for key, value in _plain(module).items()})
    first, second = seen
    return frozenset(place for place in second if first.get(place) != second[place])


@functools.cache
def _version(top: str) -> str | None:
    """The version of an installed package; None for anything else, which is a user's own code."""
    module: Any = sys.modules.get(top)
    place = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", [])), "")
    own = top == "__main__" or not {"site-packages", "dist-packages"} & set(Path(place).parts)
    if top in (*sys.builtin_module_names, *sys.stdlib_module_names) and top != "__main__":
        return ""
    if own and top != "metalib":
        return None
    return str(getattr(module, "__version__", "")).partition("+")[0]


def _package(module: str | None, part: Any = None) -> str | None:
    """For code of an installed package its name and version, and the name of the part."""
    top = (module or "__main__").partition(".")[0]
    version = _version(top)
    return None if version is None else (
        f"{module} {version} {getattr(part, '__qualname__', '')}".strip())


def _global_names(code: types.CodeType) -> list[str]:
    """The global names that are read by code, and by functions that are defined in it."""
    names = {step.argval for step in dis.get_instructions(code) if step.opname == "LOAD_GLOBAL"}
    inner = [each for each in code.co_consts if isinstance(each, types.CodeType)]
    return sorted(names.union(*map(_global_names, inner)))


def _filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:  # a variable that was not set yet
        return False


def _content(tensor: Tensor) -> Any:
    """Shape, type and hash of the values of a tensor of any kind."""
    taken_apart: Any = getattr(tensor, "__tensor_flatten__", None)
    if taken_apart:  # one that is made of others, such as torchao's
        parts, about = taken_apart()
        return [repr(about), *(_content(getattr(tensor, part)) for part in parts)]
    kind = [str(tensor.dtype), list(tensor.shape)]
    if tensor.is_meta:
        return kind
    if tensor.is_quantized:
        tensor = tensor.dequantize()
    values = tensor.detach().to_dense() if tensor.layout != torch.strided else tensor.detach()
    values = values.cpu().resolve_conj().resolve_neg().contiguous().flatten()
    return [*kind, _hash(values.view(torch.uint8).numpy() if values.numel() else np.empty(0))]


def _hash(values: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data).hexdigest()
