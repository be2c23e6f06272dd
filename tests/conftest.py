"""What tests share: the bundled images, a small untrained network, and the place of CIFAR-10."""

import contextlib
import signal
from pathlib import Path

import pytest
import torch
from torch import nn

from metalib import load_images, load_model, wrap_model
from metalib.runs.recipe import run

RECIPE = {"models": ["zoo/vgg-robust-0", "zoo/resnet-robust-0"], "stages": ["group1", "group2"],
          "images": {"source": "cifar10-samples", "n": 2}, "steps": 100}
CIFAR_ARCHIVE = Path(__file__).parents[2] / "shared" / "data" / "cifar10-jpeg.zip"


def small_network(seed=0):
    """Two convolutions and a linear layer with random weights; stage "2" ends in `torch.relu`."""
    torch.manual_seed(seed)

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(8, 6, 3, padding=1, stride=2)

        def forward(self, x):
            return torch.relu(self.conv(x))

    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(inplace=True), Block(),
                         nn.AvgPool2d(4), nn.Flatten(), nn.Linear(6 * 16, 10))


@pytest.fixture(scope="session", autouse=True)
def ctrl_c():
    """What a shell starts in the background ignores Ctrl-C, and so would what tests start."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module")
def scheduler():
    """The address of a Dask cluster whose two workers are threads of this process."""
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=False, protocol="tcp", host="127.0.0.1",
            dashboard_address="127.0.0.1:0") as cluster:
        yield cluster.scheduler_address


@pytest.fixture(scope="module")
def chromium():
    """A headless browser."""
    sync_api = pytest.importorskip("playwright.sync_api")
    import browser
    with sync_api.sync_playwright() as playwright:
        try:
            program = browser.launch(playwright)
        except browser.NoBrowser as error:
            pytest.skip(str(error))
        yield program
        program.close()


@pytest.fixture
def small():
    """A `Model` of that network.

    Its stages "0", "1", "2", "3", "5" are conv, relu, block, pooled, logits.
    """
    return wrap_model(small_network(), stages=["0", "1", "2", "3", "5"], mean=(0.4,) * 3,
                      std=(0.2,) * 3, name="small")


@pytest.fixture(scope="session")
def samples():
    return load_images("cifar10-samples")


@pytest.fixture(scope="session")
def robust():
    return load_model("zoo/vgg-robust-0")


@contextlib.contextmanager
def one_thread():
    """Use one thread, as the processes that tests start do, so that sums round alike."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.fixture(scope="session")
def one_process(tmp_path_factory):
    """The metamers of `RECIPE` as one process makes them with one thread, undisturbed."""
    with one_thread():
        return run(RECIPE, tmp_path_factory.mktemp("one"))


@pytest.fixture
def handlers():
    """Let the handlers of signals be as they were after a command was called as a function."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
