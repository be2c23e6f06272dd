"""A GPU computes what the CPU computes. Skipped where there is no GPU."""

import pandas as pd
import pytest
import torch
from torch import nn

from metalib import Compute, generate, judge, load_model, load_null, null_distribution, wrap_model
from metalib.evaluation.transfer import transfer_study

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")

NAMES = ["zoo/vgg-standard-0", "zoo/vgg-robust-0", "zoo/cct-standard-0", "zoo/convnext-standard-0"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("optimizer", ["adam", "spectral_lbfgs"])
def test_a_run_begins_as_on_the_cpu_and_ends_as_close(samples, name, optimizer):
    made = {device: generate(load_model(name), samples[:6], "group3", optimizer=optimizer, steps=40,
                             device=device)
            for device in ("cpu", "cuda")}
    torch.testing.assert_close(made["cuda"].loss[:4], made["cpu"].loss[:4], rtol=1e-3, atol=1e-5)
    ends = {device: metamers.loss[-1].log().median() for device, metamers in made.items()}
    assert abs(ends["cuda"] - ends["cpu"]) < 0.3


@pytest.mark.parametrize("options, compute", [
    ({}, {}), ({"optimizer": "adam", "jitter": 2}, {}), ({}, {"precision": "tf32"}),
    ({}, {"precision": "bfloat16"})])
def test_cuda_graphs_change_nothing(samples, options, compute):
    model = load_model("zoo/vgg-standard-0", device="cuda")
    null = None if options or compute else load_null(model, "group1")
    eager, graphed = (generate(model, samples[:8], "group1", steps=30, stop=null, check_every=2,
                               compute=Compute(cuda_graphs=graphs, **compute), **options)
                      for graphs in (False, True))
    torch.testing.assert_close(graphed.loss[:5], eager.loss[:5], rtol=1e-4, atol=1e-6,
                               equal_nan=True)
    if null is None:  # the batch stays the same, and so does every bit
        assert torch.equal(graphed.images, eager.images)
    else:  # images leave the batch, and the others run in the graph of a larger one
        assert set(eager.evaluations.tolist()) != {30}
        assert (graphed.status == eager.status
                and (graphed.evaluations - eager.evaluations).abs().max() <= 2)


@pytest.mark.parametrize("stacked", [False, True])
def test_joint_metamers_with_cuda_graphs(samples, stacked):
    names = (["zoo/cct-standard-0", "zoo/cct-robust-0", "zoo/convnext-standard-0"] if stacked
             else NAMES[:3])
    models, stages = [load_model(name, device="cuda") for name in names], ["group2"] * 3
    eager, graphed = (generate(models, samples[:4], stages, steps=10,
                               compute=Compute(stacked=stacked, cuda_graphs=graphs))
                      for graphs in (False, True))
    torch.testing.assert_close(graphed.member_loss, eager.member_loss, rtol=1e-4, atol=1e-6)


def test_a_network_that_cannot_be_recorded_says_so(samples):
    class Reading(nn.Module):
        def forward(self, x):
            return x * (2.0 if x.mean().item() > 100 else 1.0)

    model = wrap_model(nn.Sequential(nn.Conv2d(3, 4, 3), Reading(), nn.Flatten(),
                                     nn.Linear(4 * 900, 10)), stages=["1"]).to("cuda")
    with pytest.raises(RuntimeError, match="without cuda_graphs"):
        generate(model, samples[:2], "1", steps=2, compute=Compute(cuda_graphs=True))


def test_nulls_and_judgements_are_those_of_the_cpu(samples):
    tables, thresholds = {}, {}
    metamers = generate(load_model("zoo/vgg-standard-0"), samples[:6], "group2", steps=20)
    for device in ("cpu", "cuda"):
        model = load_model("zoo/vgg-standard-0", device=device)
        tables[device] = judge(model, "group2", metamers, load_null(model, "group2"))
        thresholds[device] = null_distribution(model, "group2", samples).maximum
    assert thresholds["cuda"] == pytest.approx(thresholds["cpu"], abs=1e-4)
    numbers = tables["cpu"].select_dtypes("number").columns
    pd.testing.assert_frame_equal(tables["cuda"][numbers], tables["cpu"][numbers], rtol=1e-3,
                                  atol=1e-3)
    assert tables["cuda"]["passed"].equals(tables["cpu"]["passed"])


def test_a_study_sees_the_same_in_the_same_metamers(samples, tmp_path):
    """Metamers made on the GPU are found by their address, and observed anew on the CPU, with
    another batch size.
    """
    arguments = {"stages": ["group1", "features"], "steps": 20, "directory": tmp_path}
    tables = [transfer_study(NAMES[:2], NAMES, samples[:5], **arguments, device=device,
                             batch_size=batch)
              for device, batch in (("cuda", 100), ("cpu", 99))]
    pd.testing.assert_frame_equal(tables[1], tables[0], rtol=1e-3, atol=1e-3)
