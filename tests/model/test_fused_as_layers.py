"""A block that trains with the kernel does what PyTorch's layers do, in each of their states."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cnnbp.model import fused
from cnnbp.model.dropout import Dropout
from cnnbp.model.network import FusedBlock, Network

pytestmark = pytest.mark.skipif(fused.kernel() is None, reason="no C compiler with OpenMP here")

NAN, INFINITY = float("nan"), float("inf")


def channels_last(x: torch.Tensor) -> torch.Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def images(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    torch.manual_seed(0)
    return channels_last(torch.randn(shape, dtype=dtype))


def layers_of(channels: int, rate: float = 0.0) -> list[nn.Module]:
    """The layers after a convolution, with random scale, shift and running statistics."""
    torch.manual_seed(1)
    norm = nn.BatchNorm2d(channels)
    for values in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        nn.init.uniform_(values, 0.5, 2)
    return [nn.ReLU(), norm, *([Dropout(rate)] if rate else [])]


def published() -> Network:
    """A network whose layers after the convolutions all go through the kernel, without dropout."""
    torch.manual_seed(2)
    return Network(dropout=(0, 0, 0, 0)).to(memory_format=torch.channels_last)


@pytest.fixture
def by_kernel(monkeypatch):
    """Count the calls of the kernel."""
    calls = []
    step = fused.relu_norm_dropout

    def counted(*arguments):
        calls.append(arguments)
        return step(*arguments)

    monkeypatch.setattr(fused, "relu_norm_dropout", counted)
    return calls


def without_kernel(function, monkeypatch):
    """What `function` returns with PyTorch's layers."""
    with monkeypatch.context() as patch:
        patch.setattr(fused, "kernel", lambda dtype=None: None)
        return function()


# --- numbers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4, 24, 5, 5), (128, 32, 26, 26), (128, 16, 7, 7)])
@pytest.mark.parametrize("mean", [0, 1, 10, 100, 1_000, 10_000])
@pytest.mark.parametrize("spread", [1.0, 1e-3])
def test_as_exact_as_torch_for_every_mean(shape, mean, spread):
    """Largest error against float64, relative to the largest value: PyTorch's, or 20 bits right."""
    if mean * 1e-6 > spread:
        pytest.skip("float32 has too few digits for such images")
    x = channels_last(images(*shape) * spread + mean)
    dy = torch.randn(shape)
    _, norm = layers_of(shape[1])
    dtypes = {"kernel": torch.float32, "torch": torch.float32, "exact": torch.float64}
    results = {}
    for name, dtype in dtypes.items():
        own, leaf = copy.deepcopy(norm).to(dtype), x.detach().to(dtype).requires_grad_()
        y = fused.relu_norm_dropout(leaf, own, 0) if name == "kernel" else own(leaf.relu())
        y.backward(dy.to(dtype))
        values = (y.detach(), leaf.grad, own.weight.grad, own.bias.grad, own.running_mean)
        results[name] = [value.double() for value in (*values, own.running_var)]
    for kernel, theirs, exact in zip(*results.values(), strict=True):
        scale = exact.abs().max().item()
        error = (kernel - exact).abs().max().item() / scale
        assert error <= max((theirs - exact).abs().max().item() / scale, 2**-20)
        assert spread < 1 or error <= 2**-20


def test_a_first_row_far_from_all_others_costs_no_digits():
    """It is the first pivot, which must not stay one."""
    x = images(128, 24, 7, 7).abs()
    x[0, :, 0, 0] = 10_000
    x, (_, norm) = channels_last(x), layers_of(24)
    exact = copy.deepcopy(norm).double()
    y, expected = fused.relu_norm_dropout(x, norm, 0), exact(x.double())
    torch.testing.assert_close(y.double(), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(norm.running_var.double(), exact.running_var, rtol=1e-6, atol=0)


def test_outliers_at_the_start_of_every_chunk_cost_no_digits():
    """They are in the first pivots, which must not stay."""
    side, chunks = 1440, fused.CHUNKS
    x = images(1, 1, side, side).abs()
    x.view(-1)[:: side * side // chunks] = 10_000
    _, norm = layers_of(1)
    exact = copy.deepcopy(norm).double()
    fused.relu_norm_dropout(x, norm, 0), exact(x.double())
    torch.testing.assert_close(norm.running_var.double(), exact.running_var, rtol=3e-7, atol=0)


@pytest.mark.parametrize("value", [0.1, 100.1, 1_234_567.125, 7_000_000.5])
def test_a_constant_channel_becomes_the_shift(value):
    """Rounding may leave a variance below 0, from which there is no root."""
    _, norm = layers_of(3)
    x = channels_last(torch.full((3, 3, 7, 5), value))
    y = fused.relu_norm_dropout(x, norm, 0)
    torch.testing.assert_close(y, norm.bias.view(1, 3, 1, 1).expand_as(y), rtol=0, atol=1e-2)


def test_bfloat16_is_float32_rounded():
    x, layers = images(8, 24, 9, 9, dtype=torch.bfloat16), layers_of(24)
    y = fused.relu_norm_dropout(x, copy.deepcopy(layers[1]), 0)
    exact = fused.relu_norm_dropout(x.float(), copy.deepcopy(layers[1]), 0)
    assert torch.equal(y, exact.to(torch.bfloat16))


def test_half_way_between_two_bfloat16_goes_to_the_even_one():
    """The output of a constant channel is the shift."""
    _, norm = layers_of(4)
    shifts = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, -1 - 3 * 2**-8])
    norm.bias = nn.Parameter(shifts)
    x = channels_last(torch.ones(2, 4, 3, 3, dtype=torch.bfloat16))
    y = fused.relu_norm_dropout(x, norm, 0)
    assert torch.equal(y, shifts.to(torch.bfloat16).view(1, 4, 1, 1).expand_as(y))


@pytest.mark.parametrize("name", ["weight", "bias"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_nan_stays_nan(name, dtype):
    """Also the one whose bits are all 1, which rounding by its bits alone would turn into 0."""
    _, norm = layers_of(4)
    all_ones = torch.tensor([2**31 - 1], dtype=torch.int32).view(torch.float32)
    with torch.no_grad():
        getattr(norm, name)[2] = all_ones[0]
    y = fused.relu_norm_dropout(images(2, 4, 3, 3, dtype=dtype), norm, 0.5)
    assert y[:, 2].isnan().all()


def test_values_that_square_beyond_float32_have_a_finite_output():
    """`nn.BatchNorm2d` overflows as well; what is finite must be right."""
    x, (_, norm) = images(8, 4, 5, 5) * 1e15, layers_of(4)
    exact = copy.deepcopy(norm).double()
    y, expected = fused.relu_norm_dropout(x, norm, 0), exact(x.double().relu())
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-5)


# --- NaN and infinity --------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rate", [0, 0.4])
@pytest.mark.parametrize("value", [NAN, INFINITY, -INFINITY])
@pytest.mark.parametrize("place", [(0, 0, 0), (5, 4, 7)])
def test_nan_and_infinity_spread_as_in_torch(dtype, rate, value, place):
    x, dy = images(8, 4, 9, 9, dtype=dtype), images(8, 4, 9, 9, dtype=dtype).abs() + 1
    image, row, column = place
    x[image, 1, row, column] = value
    results = []
    for kernel in (True, False):
        _, norm = layers_of(4)
        leaf = x.clone().requires_grad_()
        y = fused.relu_norm_dropout(leaf, norm, rate) if kernel else norm(leaf.relu())
        y.backward(dy)
        buffers = norm.running_mean, norm.running_var
        results.append([y.detach(), leaf.grad, norm.weight.grad, norm.bias.grad, *buffers])
    for ours, theirs in zip(*results, strict=True):
        assert torch.equal(ours.isfinite(), theirs.isfinite())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_scale_beyond_float32_spoils_its_channel_as_in_torch(dtype):
    """What has no variance is scaled by 1 / sqrt(1e-5), here of the largest numbers."""
    x, (_, norm) = channels_last(torch.ones(8, 2, 5, 5, dtype=dtype)), layers_of(2)
    nn.init.constant_(norm.weight[1], 3e38)
    y = fused.relu_norm_dropout(x, norm, 0.4)
    assert norm(x)[:, 1].isnan().all()
    assert y[:, 1].isnan().all()
    assert y[:, 0].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("value", [NAN, INFINITY])
def test_a_gradient_that_is_not_finite_spreads_from_what_was_dropped_too(dtype, value):
    x, (_, norm) = images(8, 4, 9, 9, dtype=dtype).requires_grad_(), layers_of(4)
    nn.init.constant_(norm.bias, 50.0)  # an output of 0 was dropped
    y = fused.relu_norm_dropout(x, norm, 0.4)
    dy = torch.ones_like(y)
    dy[tuple((y == 0).nonzero()[0])] = value
    channel = (y == 0).nonzero()[0][1]
    y.backward(dy)
    assert norm.bias.grad[channel].isnan()
    assert x.grad[:, channel][x[:, channel] > 0].isnan().all()
    assert x.grad[:, channel][x[:, channel] < 0].eq(0).all()
    others = [other for other in range(4) if other != channel]
    assert x.grad[:, others].isfinite().all()


def test_an_infinite_running_mean_stays_infinite():
    x, layers = images(8, 4, 9, 9), layers_of(4)
    ours, theirs = layers[1], copy.deepcopy(layers[1])
    for norm in (ours, theirs):
        norm.running_mean[0] = norm.running_var[0] = INFINITY
    fused.relu_norm_dropout(x, ours, 0), theirs(x.relu())
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


# --- modes and options of the layers -----------------------------------------------------------

STATES = {
    "training": lambda block: block.train(),
    "evaluation": lambda block: block.eval(),
    "norm in evaluation": lambda block: block.norm.eval(),
    "norm in training in a block in evaluation": lambda block: block.eval().norm.train(),
    "cumulative average": lambda block: setattr(block.norm, "momentum", None),
    "momentum 0": lambda block: setattr(block.norm, "momentum", 0.0),
    "momentum 0.7": lambda block: setattr(block.norm, "momentum", 0.7),
    "momentum 1": lambda block: setattr(block.norm, "momentum", 1.0),
    "large eps": lambda block: setattr(block.norm, "eps", 1.0),
    "no running statistics": lambda block: setattr(
        block, "norm", nn.BatchNorm2d(24, track_running_stats=False)
    ),
    "no scale and shift": lambda block: setattr(block, "norm", nn.BatchNorm2d(24, affine=False)),
    "no shift": lambda block: setattr(block.norm, "bias", None),
    "another norm": lambda block: setattr(block, "norm", nn.InstanceNorm2d(24)),
    "another activation": lambda block: setattr(block, "activation", nn.Tanh()),
    "one more layer": lambda block: block.append(nn.Sigmoid()),
    "a scale with a parametrization": lambda block: nn.utils.parametrize.register_parametrization(
        block.norm, "weight", nn.Softplus()
    ),
    "a scale that is a view": lambda block: setattr(
        block.norm, "weight", nn.Parameter(torch.rand(48)[::2])
    ),
}


@pytest.mark.parametrize("state", STATES.values(), ids=STATES)
def test_every_state_of_the_layers_is_respected(state):
    block = published().conv3
    nn.init.uniform_(block.norm.bias)
    state(block)
    reference = copy.deepcopy(block)
    for seed in range(2):
        torch.manual_seed(seed)
        x, dy = channels_last(torch.randn(6, 16, 9, 9)), torch.randn(6, 24, 5, 5)
        block.zero_grad(), reference.zero_grad()
        y = block(x)
        expected = x
        for layer in reference:
            expected = layer(expected)
        y.backward(dy), expected.backward(dy)
        torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(block.state_dict(), reference.state_dict())
        for ours, theirs in zip(block.parameters(), reference.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-4)


def test_dropout_in_evaluation_drops_nothing(by_kernel):
    block = Network().to(memory_format=torch.channels_last).conv2
    x = images(6, 24, 9, 9)
    assert (block(x) == 0).any()
    block.dropout.eval()
    plain = copy.deepcopy(block)
    y = block(x)
    torch.testing.assert_close(y, plain.norm(plain.activation(plain.conv(x))))
    assert len(by_kernel) == 2


@pytest.mark.parametrize("rate", [0.0, 1.0, 1 - 1e-12, 1e-12])
def test_rates_at_the_ends(rate):
    block = Network().to(memory_format=torch.channels_last).conv2
    block.dropout.p = rate
    y = block(images(6, 24, 9, 9))
    assert (y == 0).all() if rate > 0.5 else (y != 0).all()


def test_another_dropout_is_respected(by_kernel):
    block = Network().to(memory_format=torch.channels_last).conv2
    block.dropout = nn.Dropout2d(0.5)
    maps = (block(images(6, 24, 9, 9)) == 0).flatten(2)
    assert torch.equal(maps.any(2), maps.all(2))
    assert by_kernel == []


def test_one_value_for_each_channel_is_refused():
    block = published().conv3
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        block(torch.randn(1, 16, 1, 1))


def test_another_number_of_channels_is_refused():
    block = published().conv3
    block.conv = nn.Conv2d(16, 48, 3)
    with pytest.raises(RuntimeError, match="running_mean"):
        block(images(2, 16, 9, 9))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_parameters_of_another_dtype_use_torchs_layers(dtype, by_kernel):
    network = published().to(dtype)
    logits = network(channels_last(torch.randn(4, 1, 28, 28)).to(dtype))
    logits.sum().backward()
    assert logits.dtype == network.conv2.norm.weight.grad.dtype == dtype
    assert by_kernel == []


@pytest.mark.parametrize("name", ["weight", "bias", "running_mean", "running_var"])
def test_one_tensor_of_another_dtype_uses_torchs_layers(name):
    _, norm = layers_of(4)
    values = getattr(norm, name)
    setattr(
        norm, name, nn.Parameter(values.double()) if name in ("weight", "bias") else values.double()
    )
    assert not fused.fits(images(2, 4, 3, 3), [nn.ReLU(), norm])
    assert fused.fits(images(2, 4, 3, 3), layers_of(4))


def test_more_channels_than_the_kernel_has_room_for_use_torchs_layers():
    assert fused.fits(images(2, 512, 3, 3), layers_of(512))
    assert not fused.fits(images(2, 513, 3, 3), layers_of(513))


HOOKS = (
    "register_forward_hook",
    "register_forward_pre_hook",
    "register_full_backward_hook",
    "register_full_backward_pre_hook",
)


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("layer", ["activation", "norm", "dropout"])
def test_every_hook_is_called(layer, hook):
    block = Network().to(memory_format=torch.channels_last).conv2
    called = []
    getattr(block.get_submodule(layer), hook)(lambda *_: called.append(1) and None)
    block(images(2, 24, 9, 9).requires_grad_()).sum().backward()
    assert called == [1]


def test_a_hook_on_all_modules_is_called():
    seen = []
    handle = nn.modules.module.register_module_forward_hook(
        lambda module, *_: seen.append(type(module).__name__)
    )
    try:
        published().conv2(images(2, 24, 9, 9))
    finally:
        handle.remove()
    assert seen == ["Conv2d", "ReLU", "BatchNorm2d", "FusedBlock"]


def test_synchronised_batch_normalisation_replaces_ours():
    network = nn.SyncBatchNorm.convert_sync_batchnorm(published())
    layers = [network.conv2.activation, network.conv2.norm]
    assert not fused.fits(images(2, 16, 9, 9), layers)


# --- derivatives -------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0, 0.3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_second_derivatives_are_those_of_float64(dtype, rate):
    x = images(6, 4, 5, 5, dtype=dtype)
    dy = torch.randn_like(x)
    _, norm = layers_of(4)
    nn.init.constant_(norm.bias, 10.0)
    exact = copy.deepcopy(norm).double()

    def penalty(norm, x, y):
        leaves = [x, norm.weight, norm.bias]
        first = torch.autograd.grad((y * dy.to(y.dtype)).sum(), leaves, create_graph=True)
        (first[0].square().sum() + first[1].square().sum()).backward()
        return x.grad.double(), norm.weight.grad.double()

    ours = x.clone().requires_grad_()
    y = fused.relu_norm_dropout(ours, norm, rate)
    kept = (y != 0).double() / (1 - rate)
    theirs = x.double().requires_grad_()
    expected = penalty(exact, theirs, exact(theirs.relu()) * kept)
    tolerance = 2e-2 if dtype == torch.bfloat16 else 1e-4
    for actual, reference in zip(penalty(norm, ours, y), expected, strict=True):
        scale = reference.abs().max().item()
        assert (actual - reference).abs().max().item() <= tolerance * scale


def test_a_gradient_penalty_on_the_network_is_that_of_torchs_layers(monkeypatch, by_kernel):
    x = channels_last(torch.randn(8, 1, 28, 28))

    def norms():
        network, pixels = published(), x.clone().requires_grad_()
        (dx,) = torch.autograd.grad(network(pixels).square().sum(), pixels, create_graph=True)
        dx.square().sum().backward()
        # the last bias does not change dx
        return [p.grad.norm().item() for p in list(network.parameters())[:-1]]

    ours = norms()
    assert len(by_kernel) == 5
    assert ours == pytest.approx(without_kernel(norms, monkeypatch), rel=1e-3, abs=1e-4)


def test_torch_func_grad_is_autograd(by_kernel):
    network, x = published(), channels_last(torch.randn(4, 1, 28, 28))
    parameters, buffers = dict(network.named_parameters()), dict(network.named_buffers())

    def loss(parameters):
        copies = {name: values.clone() for name, values in buffers.items()}
        return torch.func.functional_call(network, (parameters, copies), x).square().sum()

    gradients = torch.func.grad(loss)(parameters)
    assert by_kernel == []
    network(x).square().sum().backward()
    assert len(by_kernel) == 5
    for name, parameter in parameters.items():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-3, atol=1e-2)


def test_vmap_over_networks_is_each_network(by_kernel):
    networks = [published().eval() for _ in range(3)]
    for network in networks:
        network.conv2.norm.train()
        nn.init.normal_(network.conv1[0].conv.weight)
    parameters, buffers = torch.func.stack_module_state(networks)
    x = torch.randn(4, 1, 28, 28)

    def run(parameters, buffers):
        return torch.func.functional_call(networks[0], (parameters, buffers), x)

    together = torch.func.vmap(run)(parameters, buffers)
    for one, network in zip(together, networks, strict=True):
        torch.testing.assert_close(one, network(x), rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # PyTorch's own use of TorchScript
def test_forward_mode_is_a_difference_quotient(by_kernel):
    _, norm = layers_of(4)
    block = FusedBlock()
    for name, layer in (("conv", nn.Identity()), ("activation", nn.ReLU()), ("norm", norm)):
        block.add_module(name, layer)
    block.double()
    x, direction = (channels_last(torch.randn(3, 4, 5, 5, dtype=torch.double)) for _ in range(2))
    block, x, direction = block.float(), x.float(), direction.float()
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, direction)
        tangent = torch.autograd.forward_ad.unpack_dual(block(dual)).tangent
    assert by_kernel == []
    block.double()
    ahead, behind = (block(x.double() + step * direction.double()) for step in (1e-6, -1e-6))
    torch.testing.assert_close(tangent.double(), (ahead - behind) / 2e-6, rtol=1e-3, atol=1e-4)


# --- tracing, exporting, pickling --------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_traced_network_trains_on_other_images():
    network = Network().to(memory_format=torch.channels_last)
    traced = torch.jit.trace(network, channels_last(torch.randn(2, 1, 28, 28)), check_trace=False)
    torch.manual_seed(3)
    x = channels_last(torch.randn(5, 1, 28, 28))
    assert traced(x).shape == (5, 10)
    assert not torch.equal(traced(x), traced(x))


def test_a_compiled_block_is_one_graph():
    """The operators of the layers, that is, without the kernel between two graphs."""
    block = published().conv3
    x = images(6, 16, 9, 9)
    compiled = torch.compile(block, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), copy.deepcopy(block)(x), rtol=1e-4, atol=1e-5)


def test_an_exported_training_network_has_dropout_and_moves_statistics():
    network = Network().to(memory_format=torch.channels_last)
    x = channels_last(torch.randn(4, 1, 28, 28))
    program = torch.export.export(
        network, (x,), dynamic_shapes={"images": {0: torch.export.Dim("n")}}
    )
    module = program.module()
    before = module.state_dict()["conv2.norm.running_mean"].clone()
    assert module(torch.cat([x, x])).shape == (8, 10)
    assert not torch.equal(before, module.state_dict()["conv2.norm.running_mean"])
    assert not torch.equal(module(x), module(x))


def test_a_dispatch_mode_sees_every_operator(by_kernel):
    class Names(torch.utils._python_dispatch.TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.names = []

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            self.names.append(str(function))
            return function(*args, **(kwargs or {}))

    with Names() as mode:
        published().conv2(images(2, 24, 9, 9))
    assert any("batch_norm" in name for name in mode.names)
    assert by_kernel == []


def test_gradient_checkpointing_repeats_the_mask(by_kernel):
    torch.manual_seed(4)
    plain = Network().to(memory_format=torch.channels_last)
    saving = copy.deepcopy(plain)
    x = channels_last(torch.randn(4, 1, 28, 28))
    torch.manual_seed(5)
    plain(x).square().sum().backward()
    torch.manual_seed(5)
    run = torch.utils.checkpoint.checkpoint
    run(saving, x, use_reentrant=False).square().sum().backward()
    for ours, theirs in zip(saving.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)


def test_an_input_that_changes_before_the_backward_pass_is_refused():
    x, (_, norm) = images(2, 4, 3, 3).requires_grad_(), layers_of(4)
    between = x * 1
    y = fused.relu_norm_dropout(channels_last(between), norm, 0)
    between.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_frozen_parameters_get_no_gradient_and_the_images_do():
    network, x = published().requires_grad_(False), torch.randn(4, 1, 28, 28, requires_grad=True)
    F.cross_entropy(network(channels_last(x)), torch.arange(4)).backward()
    assert math.isfinite(x.grad.norm())
    assert x.grad.norm() > 0
    assert all(parameter.grad is None for parameter in network.parameters())
