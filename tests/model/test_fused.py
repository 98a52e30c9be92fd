"""The kernel against PyTorch's layers in float64, and its random bits against theory."""

import copy
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from cnnbp.model import fused, kernel_cache
from cnnbp.model.network import FusedBlock, Network

needs_compiler = pytest.mark.skipif(fused.kernel() is None, reason="no C compiler with OpenMP here")
SHAPES = [
    *[(2, 1, 3, 3), (5, 3, 7, 2), (128, 24, 5, 5), (3, 40, 9, 9), (33, 32, 13, 13)],
    (2, fused.MAX_CHANNELS, 2, 2),
]


def images(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    torch.manual_seed(0)
    return (
        torch.randn(shape, dtype=dtype)
        .contiguous(memory_format=torch.channels_last)
        .requires_grad_()
    )


def norm_of(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels)
    nn.init.uniform_(norm.weight, 0.5, 2)
    nn.init.uniform_(norm.bias, 2, 3)  # with these an output of 0 was dropped
    return norm


def dropped(p: float, *shape: int) -> torch.Tensor:
    """A matrix (rows, channels) of what one call drops."""
    x = torch.ones(shape).contiguous(memory_format=torch.channels_last)
    return (fused.relu_norm_dropout(x, norm_of(shape[1]), p) == 0).permute(0, 2, 3, 1).flatten(0, 2)


def test_the_kernel_is_there_where_a_compiler_with_openmp_is(tmp_path, monkeypatch):
    """Else all tests of it would be skipped."""
    source = tmp_path / "threads.c"
    source.write_text("#include <omp.h>\nint threads(void) { return omp_get_max_threads(); }\n")
    with monkeypatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path))
        try:
            kernel_cache.load(source, fused.FLAGS)
        except (kernel_cache.BuildError, OSError) as error:
            pytest.skip(f"no C compiler with OpenMP here: {error}")
    assert all(fused.kernel(dtype) is not None for dtype in fused.DTYPES)


@pytest.mark.parametrize("name", ["MAX_CHANNELS", "CHUNKS"])
def test_the_sizes_are_those_of_the_source(name):
    (size,) = re.findall(rf"^#define {name} (\d+)", fused.SOURCE.read_text(), re.MULTILINE)
    assert int(size) == getattr(fused, name)


@needs_compiler
@pytest.mark.parametrize("p", [0, 0.3])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("dtype", "rounding"), [(torch.float32, 1e-5), (torch.bfloat16, 2**-8 + 1e-5)]
)
def test_against_float64(dtype, rounding, shape, p):
    x, norm = images(*shape, dtype=dtype), norm_of(shape[1])
    exact_x, exact_norm = x.detach().double().requires_grad_(), copy.deepcopy(norm).double()
    dy = torch.randn(shape, dtype=dtype)

    y = fused.relu_norm_dropout(x, norm, p)
    y.backward(dy)
    kept = (y != 0) / (1 - p)
    exact = exact_norm(exact_x.relu()) * kept
    exact.backward(dy.double())

    assert y.dtype == x.grad.dtype == dtype
    torch.testing.assert_close(y.double(), exact, rtol=rounding, atol=2e-6)
    torch.testing.assert_close(x.grad.double(), exact_x.grad, rtol=rounding, atol=2e-6)
    for name, parameter in norm.named_parameters():
        grad = exact_norm.get_parameter(name).grad
        torch.testing.assert_close(
            parameter.grad.double(), grad, rtol=1e-5, atol=2e-6 * len(dy) ** 0.5
        )
    for name, buffer in norm.named_buffers():
        torch.testing.assert_close(
            buffer, exact_norm.get_buffer(name).to(buffer.dtype), rtol=1e-5, atol=2e-6
        )


@needs_compiler
@pytest.mark.parametrize("p", [0.05, 0.1, 0.5, 0.999])
def test_rate_and_scale(p):
    torch.manual_seed(1)
    x, norm = (
        torch.randn(64, 32, 26, 26).contiguous(memory_format=torch.channels_last),
        nn.BatchNorm2d(32),
    )
    nn.init.ones_(norm.bias)
    y = fused.relu_norm_dropout(x, norm, p)
    deviation = (p * (1 - p) / y.numel()) ** 0.5
    assert abs((y == 0).float().mean().item() - p) < 4 * deviation
    assert (
        abs(y.double().mean().item() - 1) < 4 * (2 / (1 - p) / y.numel()) ** 0.5
    )  # E y = E of the norm = bias


@needs_compiler
def test_bits_are_independent():
    """Of channels, neighbouring rows and calls, in threes, and in the number for each row."""
    p, shape = 0.5, (100, 24, 26, 26)
    torch.manual_seed(2)
    signs = dropped(p, *shape) * 2.0 - 1
    other_call = dropped(p, *shape) * 2.0 - 1
    rows, bound = len(signs), 5 * len(signs) ** -0.5

    pairs = signs.T @ signs / rows - torch.eye(24)
    assert pairs.abs().max() < bound
    for shift in 1, 2, 26, 676:
        assert (signs[shift:].T @ signs[:-shift] / rows).abs().max() < bound
    assert (signs.T @ other_call / rows).abs().max() < bound
    threes = torch.einsum("ri,rj,rk->ijk", signs, signs, signs) / rows
    distinct = torch.tensor(
        [[[len({i, j, k}) == 3 for k in range(24)] for j in range(24)] for i in range(24)]
    )
    assert threes[distinct].abs().max() < bound
    assert abs((signs.sum(1).var() / 24).item() - 1) < 5 * (2 / rows) ** 0.5


def element_bits(rows: int, channels: int, seed: int) -> np.ndarray:
    """The bits of each element, by SplitMix64 for a row and a 32-bit hash for a channel."""
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.arange(rows, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        key = (z ^ (z >> np.uint64(31)))[:, None]
        low, high = key.astype(np.uint32), (key >> np.uint64(32)).astype(np.uint32)
        h = low + np.arange(channels, dtype=np.uint32) * np.uint32(0x9E3779B9)
        h = (h ^ (h >> np.uint32(16))) * np.uint32(0x7FEB352D)
        return (h ^ (h >> np.uint32(15))) * (high | np.uint32(1))


@needs_compiler
@pytest.mark.parametrize("p", [0.05, 0.5, "bits of an element", "nearer to the next bits"])
def test_the_mask_is_that_of_its_hash(p):
    """An element is kept up to the rate that its own bits are."""
    x, norm = images(3, 40, 9, 9), norm_of(40)
    nn.init.constant_(norm.bias, 50)
    torch.manual_seed(6)
    bits = element_bits(3 * 81, 40, int(torch.empty((), dtype=torch.int64).random_()))
    rate = p
    if isinstance(p, str):
        rate = (int(bits[17, 5]) + 0.6 * (p == "nearer to the next bits")) / 2**32
    torch.manual_seed(6)
    kept = fused.relu_norm_dropout(x, norm, rate) != 0
    expected = torch.from_numpy(bits >= round(rate * 2**32))
    assert torch.equal(kept.permute(0, 2, 3, 1).flatten(0, 2), expected)


@needs_compiler
@pytest.mark.parametrize("p", [0.05, 0.1])
def test_number_dropped_in_a_row_is_binomial(p):
    torch.manual_seed(3)
    counts = dropped(p, 200, 32, 26, 26).sum(1)
    expected = torch.distributions.Binomial(32, torch.tensor(p)).log_prob(
        torch.arange(12.0)
    ).exp() * len(counts)
    seen = counts.bincount(minlength=12)[:12]
    chi_square = ((seen - expected).square() / expected)[expected > 5]
    assert chi_square.sum() < len(chi_square) + 5 * (2 * len(chi_square)) ** 0.5


@needs_compiler
def test_repeats_with_the_seed_on_any_number_of_threads():
    results, threads = [], torch.get_num_threads()
    for count in 1, 2, 3:
        torch.set_num_threads(count)
        x, norm = images(7, 24, 11, 11), nn.BatchNorm2d(24)
        torch.manual_seed(4)
        y = fused.relu_norm_dropout(x, norm, 0.2)
        y.square().sum().backward()
        results.append((y, x.grad, norm.weight.grad, norm.running_var))
    torch.set_num_threads(threads)
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))
    assert not torch.equal(y, fused.relu_norm_dropout(x, norm, 0.2))


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_not_a_number_comes_through(dtype):
    x = images(2, 4, 3, 3, dtype=dtype).detach()
    x[0, 1, 0, 0] = float("nan")
    y = fused.relu_norm_dropout(x, nn.BatchNorm2d(4), 0)
    assert y[:, 1].isnan().all()
    assert not y[:, [0, 2, 3]].isnan().any()


@needs_compiler
def test_constant_channels_have_no_variance():
    x = torch.full((64, 2, 9, 9), 100.1).contiguous(memory_format=torch.channels_last)
    assert torch.isfinite(fused.relu_norm_dropout(x, nn.BatchNorm2d(2), 0)).all()


@needs_compiler
def test_gradients_of_the_network_are_those_of_float64():
    torch.manual_seed(5)
    network, x = (
        Network(dropout=(0, 0, 0, 0)).to(memory_format=torch.channels_last),
        torch.randn(16, 1, 28, 28),
    )
    exact = copy.deepcopy(network).double()
    network(x).square().sum().backward()
    exact(x.double()).square().sum().backward()
    for ours, reference in zip(network.parameters(), exact.parameters(), strict=True):
        largest = reference.grad.abs().max().item()
        torch.testing.assert_close(ours.grad.double(), reference.grad, rtol=0, atol=1e-4 * largest)


def test_used_only_where_it_fits(monkeypatch):
    called = []
    monkeypatch.setattr(fused, "relu_norm_dropout", lambda x, norm, p: called.append(p) or x)
    monkeypatch.setattr(fused, "kernel", lambda dtype: "there")
    block = Network().conv2
    x = torch.randn(2, 24, 9, 9).contiguous(memory_format=torch.channels_last)
    assert isinstance(block, FusedBlock)
    block(x)
    assert called == [0.1]

    block.eval()(x)
    block.train().double()(x.double())
    Network(order="norm_activation").conv2(x)
    Network(activation="tanh").conv2(x)
    Network(norm="group").conv2(x)
    block.float().norm.register_forward_hook(lambda *_: None)
    block(x)
    monkeypatch.setattr(fused, "kernel", lambda dtype: None)
    Network().conv2(x)
    assert called == [0.1]


def test_trains_without_a_compiler(tmp_path):
    program = (
        "import torch; from cnnbp.model import fused; from cnnbp.model.network import Network;"
        "assert fused.kernel() is None;"
        "network = Network().to(memory_format=torch.channels_last);"
        "network(torch.zeros(4, 1, 28, 28)).sum().backward()"
    )
    environment = {
        "CC": str(tmp_path / "none"),
        "XDG_CACHE_HOME": str(tmp_path),
        "OMP_NUM_THREADS": "1",
    }
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == []
