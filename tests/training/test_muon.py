"""Muon on kernels against torch's on the same numbers as matrices."""

import io

import pytest
import torch
from torch import nn

from cnnbp.model.network import Network
from cnnbp.training import muon
from cnnbp.training.classifier import parameter_groups
from cnnbp.training.muon import Muon, move_together

OPTIONS = {"lr": 0.01, "weight_decay": 0.1}


def steps(network, optimizer, seeds):
    for seed in seeds:
        torch.manual_seed(seed)
        for parameter in network.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()


def network(layout):
    torch.manual_seed(0)
    return Network().to(memory_format=layout)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_kernels_move_as_matrices_and_the_rest_by_adamw(layout):
    ours, theirs = network(layout), network(layout)
    order = (0, 2, 3, 1) if layout == torch.channels_last else (0, 1, 2, 3)
    kernels = [p for p in theirs.parameters() if p.ndim == 4]
    matrices = [
        nn.Parameter(p.detach().permute(order).reshape(len(p), -1).clone()) for p in kernels
    ]
    vectors = [p for p in theirs.parameters() if p.ndim == 1]
    torchs = torch.optim.Muon(matrices, momentum=0.9, adjust_lr_fn="match_rms_adamw", **OPTIONS)
    adamw = torch.optim.AdamW(vectors, lr=0.01, weight_decay=0)
    optimizer = Muon(parameter_groups(ours), momentum=0.9, **OPTIONS)
    for seed in range(4):
        steps(ours, optimizer, [seed])
        torch.manual_seed(seed)
        for parameter in theirs.parameters():
            parameter.grad = torch.randn_like(parameter)
        for kernel, matrix in zip(kernels, matrices, strict=True):
            matrix.grad = kernel.grad.permute(order).reshape(matrix.shape)
        torchs.step()
        adamw.step()
    for kernel, matrix in zip((p for p in ours.parameters() if p.ndim == 4), matrices, strict=True):
        assert torch.equal(kernel.permute(order).reshape(matrix.shape), matrix)
    for vector, other in zip((p for p in ours.parameters() if p.ndim == 1), vectors, strict=True):
        assert torch.equal(vector, other)


def test_a_restored_optimizer_goes_on_exactly():
    whole, cut = network(torch.channels_last), network(torch.channels_last)
    steps(whole, Muon(parameter_groups(whole), momentum=0.9, **OPTIONS), range(5))
    first = Muon(parameter_groups(cut), momentum=0.9, **OPTIONS)
    steps(cut, first, range(2))
    torch.save(first.state_dict(), file := io.BytesIO())
    file.seek(0)
    second = Muon(parameter_groups(cut), momentum=0.9, **OPTIONS)
    second.load_state_dict(torch.load(file, weights_only=True))
    steps(cut, second, range(2, 5))
    for a, b in zip(whole.parameters(), cut.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_schedule_acts_on_both_parts():
    module = network(torch.channels_last)
    before = [p.detach().clone() for p in module.parameters()]
    optimizer = Muon(parameter_groups(module), momentum=0.9, **OPTIONS)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    steps(module, optimizer, [1])
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))


def test_a_rate_on_the_device_moves_as_far():
    numbers, tensors = network(torch.channels_last), network(torch.channels_last)
    steps(numbers, Muon(parameter_groups(numbers), momentum=0.9, **OPTIONS), range(2))
    optimizer = Muon(parameter_groups(tensors), momentum=0.9, **OPTIONS)
    for group in optimizer.param_groups:
        group["lr"] = torch.tensor(OPTIONS["lr"])
    steps(tensors, optimizer, range(2))
    for expected, moved in zip(numbers.parameters(), tensors.parameters(), strict=True):
        torch.testing.assert_close(moved, expected)


def test_a_restored_optimizer_has_the_rate_that_it_was_left_with():
    module = network(torch.channels_last)
    left = Muon(parameter_groups(module), momentum=0.9, **OPTIONS)
    for group in left.param_groups:
        group["lr"] = 0.003
    restored = Muon(parameter_groups(module), momentum=0.9, **OPTIONS)
    restored.load_state_dict(left.state_dict())
    assert [group["lr"] for group in restored.param_groups] == [0.003, 0.003]


def test_biases_and_normalisation_do_not_decay():
    module = network(torch.channels_last)
    weights, others = parameter_groups(module)
    assert all(parameter.ndim == 4 for parameter in weights["params"])
    assert "weight_decay" not in weights
    assert others["weight_decay"] == 0
    assert len(weights["params"]) + len(others["params"]) == len(list(module.parameters()))


def test_a_closure_is_evaluated_first_and_its_value_returned():
    """As by the optimizers of torch."""
    weight = nn.Parameter(torch.ones(2, 2))
    optimizer = Muon([{"params": [weight]}], momentum=0.9, **OPTIONS)

    def closure():
        weight.grad = torch.eye(2)
        return 3.5

    assert optimizer.step(closure) == 3.5
    assert weight[0, 0] < weight[0, 1] < 1


def test_a_kernel_without_a_gradient_stays():
    unused, used = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))
    used.grad = torch.eye(2)
    Muon([{"params": [unused, used]}], momentum=0.9, **OPTIONS).step()
    assert torch.equal(unused, torch.ones(2, 2))
    assert not torch.equal(used, torch.ones(2, 2))


def matrices_and_optimizer(seed, momentum, lr):
    """Two matrices, of which only the first has gradients, and their optimizer after a step."""
    generator = torch.Generator().manual_seed(seed)
    matrices = [nn.Parameter(torch.randn(6, 4, generator=generator)) for _ in range(2)]
    matrices[0].grad = torch.randn(6, 4, generator=generator)
    optimizer = Muon([{"params": matrices}], lr=lr, momentum=momentum, weight_decay=0.1)
    optimizer.step()
    return matrices, optimizer


def test_several_optimizers_together_move_as_each_alone_once_all_have_stepped(monkeypatch):
    # a batched product in bfloat16 is rounded otherwise
    monkeypatch.setattr(muon, "PRECISION", torch.float64)
    options = [(1, 0.9, 0.02), (2, 0.5, 0.3)]
    alone = [matrices_and_optimizer(*own) for own in options]
    fleet = [matrices_and_optimizer(*own) for own in options]
    move_together([optimizer for _, optimizer in fleet])
    for _ in range(3):
        before = fleet[0][0][0].detach().clone()
        fleet[0][1].step()
        assert torch.equal(fleet[0][0][0], before)
        fleet[1][1].step()
        for _, optimizer in alone:
            optimizer.step()
        for (moved, _), (expected, _) in zip(fleet, alone, strict=True):
            torch.testing.assert_close(moved[0], expected[0])
            assert torch.equal(moved[1], expected[1])


@pytest.mark.parametrize("size", [1, 1e-9], ids=["usual", "below the smallest norm"])
def test_the_weight_of_a_linear_layer_is_a_matrix_too(size):
    torch.manual_seed(1)
    ours = nn.Parameter(torch.randn(5, 8))
    theirs = nn.Parameter(ours.detach().clone())
    optimizer = Muon([{"params": [ours]}], momentum=0.9, **OPTIONS)
    torchs = torch.optim.Muon([theirs], momentum=0.9, adjust_lr_fn="match_rms_adamw", **OPTIONS)
    for _ in range(2):
        ours.grad = size * torch.randn(5, 8)
        theirs.grad = ours.grad.clone()
        optimizer.step()
        torchs.step()
    assert torch.equal(ours, theirs)
