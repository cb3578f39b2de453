"""Optimizers and schedules of a phase."""

import pytest
import torch
from torch import nn

from sktl import Phase
from sktl.exceptions import ParameterError
from sktl.training._phase import OPTIMIZERS
from sktl.utils._parameters import ParameterChecks


def rates(phase, epochs, steps=4, losses=None):
    """Learning rate at the start of each epoch."""
    optimizer = phase.make_optimizer([{"params": [nn.Parameter(torch.zeros(1))], "scale": 1.0}])
    schedule = phase.make_schedule(optimizer, steps)
    seen = []
    for epoch in range(epochs):
        seen.append(optimizer.param_groups[0]["lr"])
        for _ in range(steps):
            optimizer.step()
            schedule.after_batch()
        schedule.after_epoch(1.0 if losses is None else losses[epoch])
    return seen


def test_schedules():
    assert rates(Phase(lr=1.0), 3) == [1, 1, 1]
    assert rates(Phase(lr=1.0, schedule="step", step_size=2, gamma=0.5), 5) == [
        1,
        1,
        0.5,
        0.5,
        0.25,
    ]
    table = rates(Phase(schedule={0: 0.004, 3: 0.001}), 5)
    assert table == pytest.approx([0.004, 0.004, 0.004, 0.001, 0.001])
    cosine = rates(Phase(epochs=4, lr=1.0, schedule="cosine"), 4)
    assert cosine == pytest.approx([1, 0.8536, 0.5, 0.1464], abs=1e-4)
    plateau = Phase(lr=1.0, schedule="plateau", step_size=1, gamma=0.1)
    assert rates(plateau, 5, losses=[3, 2, 2, 2, 2]) == pytest.approx([1, 1, 1, 0.1, 0.01])
    cycle = rates(Phase(epochs=10, lr=1.0, schedule="one_cycle"), 10)
    assert cycle[0] == pytest.approx(0.04)
    assert max(cycle) == pytest.approx(1.0, abs=0.02)
    assert cycle[-1] < 0.1


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_goes_downhill(name):
    x = nn.Parameter(torch.tensor([1.0]))
    optimizer = Phase(optimizer=name).make_optimizer([{"params": [x], "scale": 1.0}])
    for _ in range(30):
        optimizer.zero_grad()
        x.square().sum().backward()
        optimizer.step()
    assert x.item() < 1


def test_groups_have_their_share_of_the_rate():
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "scale": s} for s in (1.0, 0.1)]
    optimizer = Phase(lr=0.5, nesterov=True, weight_decay=0.1).make_optimizer(groups)
    assert [g["lr"] for g in optimizer.param_groups] == [0.5, 0.05]
    assert all(g["nesterov"] and g["weight_decay"] == 0.1 for g in optimizer.param_groups)


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"train": "last:0"}, "train"), ({"train": "everything"}, "train"), ({"train": 3}, "train"),
        ({"train": []}, "a list of module paths"),
        ({"epochs": 0}, "epochs"), ({"optimizer": "sdg"}, "Did you mean 'sgd'"),
        ({"lr": -1}, "lr"), ({"lr": "fast"}, "lr"), ({"schedule": "cosin"}, "cosine"),
        ({"schedule": {}}, "schedule"), ({"gamma": 0}, "gamma"), ({"clip_norm": 0}, "clip_norm"),
    ],
)  # fmt: skip
def test_wrong_parameters_are_named(parameters, named):
    checks = ParameterChecks("CNNClassifier")
    Phase(**parameters).check(checks, "phases__train")
    with pytest.raises(ParameterError, match=named):
        checks.done()
