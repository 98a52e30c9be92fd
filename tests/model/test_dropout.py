import io
import pickle

import pytest
import torch
from torch import nn

from cnnbp.model.dropout import Dropout, keep_mask

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def dropped(p, *shape, seed=0):
    torch.manual_seed(seed)
    return Dropout(p)(torch.ones(*shape)) == 0


@pytest.mark.parametrize("p", [0.05, 0.1, 0.5, 0.9, 1 / 65536])
def test_the_rate_within_five_standard_deviations(p):
    count, n = int(dropped(p, 1_000_000).sum()), 1_000_000
    rate = round(p * 65536) / 65536
    assert abs(count - n * rate) <= 5 * (n * rate * (1 - rate)) ** 0.5


def test_the_expectation_is_kept():
    torch.manual_seed(0)
    y = Dropout(0.1)(torch.ones(4_000_000))
    assert abs(y.double().mean() - 1) < 5 * (0.1 / 0.9 / 4_000_000) ** 0.5
    assert y.unique().tolist() == pytest.approx([0, 65536 / (65536 - round(0.1 * 65536))])


@pytest.mark.parametrize("distance", [1, 2, 3, 4, 26, 676])
def test_elements_are_independent(distance):
    """The correlation between neighbours, lanes of a word, rows and channels vanishes."""
    mask = dropped(0.3, 2_000_000).double() - 0.3
    correlation = (mask[distance:] * mask[:-distance]).mean() / (0.3 * 0.7)
    assert abs(correlation) < 5 / 2_000_000**0.5


def test_calls_differ_and_a_seed_repeats_them():
    first, second = dropped(0.5, 1000), dropped(0.5, 1000)
    assert torch.equal(first, second)
    torch.manual_seed(0)
    layer = Dropout(0.5)
    assert not torch.equal(layer(torch.ones(1000)), layer(torch.ones(1000)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_dtype_and_memory_format_are_kept(dtype, memory_format):
    torch.manual_seed(0)
    x = torch.randn(4, 6, 5, 3).to(dtype, memory_format=memory_format)
    y = Dropout(0.25)(x)
    assert y.dtype == dtype
    assert y.stride() == x.stride()
    kept = y != 0
    assert 0 < kept.float().mean() < 1
    torch.testing.assert_close(y[kept], (x.double() / 0.75).to(dtype)[kept])


def test_a_view_that_is_not_dense():
    x = torch.ones(8, 10)[:, ::2]
    assert Dropout(0.5)(x).shape == (8, 5)
    assert torch.equal(x, torch.ones(8, 5))


def test_the_gradient_on_a_fixed_mask():
    x = torch.randn(3, 4, dtype=torch.double, requires_grad=True)

    def with_fixed_mask(x):
        torch.manual_seed(7)
        return Dropout(0.4)(x)

    assert torch.autograd.gradcheck(with_fixed_mask, x)


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_the_ends_are_those_of_torch(p):
    x = torch.randn(10)
    assert torch.equal(Dropout(p)(x), nn.Dropout(p)(x))


def test_only_on_the_cpu_masks_are_our_own(monkeypatch):
    monkeypatch.setattr("cnnbp.model.dropout.dropout", lambda x, p: pytest.fail("our own mask"))
    assert Dropout(0.5)(torch.ones(3, device="meta")).is_meta


def test_evaluation_is_the_identity():
    x = torch.randn(10)
    assert torch.equal(Dropout(0.5).eval()(x), x)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (1,), (5,)])
def test_empty_and_odd_sizes(shape):
    assert Dropout(0.5)(torch.ones(shape)).shape == shape


def test_lanes_cover_all_64_bits_of_a_word():
    """Were the top bit of a word always zero, every fourth element would be kept too often."""
    torch.manual_seed(0)
    kept = keep_mask(torch.ones(400_000), 2**15)
    assert (kept.view(-1, 4).mean(0) - 0.5).abs().max() < 5 * 0.5 / 100_000**0.5


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of TorchScript
def test_it_pickles_and_scripts_as_a_dropout():
    layer = pickle.loads(pickle.dumps(Dropout(0.3)))
    assert isinstance(layer, nn.Dropout)
    assert layer.p == 0.3
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(layer), buffer)
    buffer.seek(0)
    scripted = torch.jit.load(buffer)
    assert 0.2 < (scripted(torch.ones(10_000)) == 0).float().mean() < 0.4


def test_vmap_drops_elements_of_its_own_in_each_network():
    torch.manual_seed(0)
    layer = Dropout(0.5)
    y = torch.func.vmap(layer, randomness="different")(torch.ones(3, 1000))
    assert y.unique().tolist() == [0, 2]
    assert not torch.equal(y[0], y[1])
    same = torch.func.vmap(layer, randomness="same")(torch.ones(3, 1000))
    assert torch.equal(same[0], same[1])


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_traced_layer_draws_for_every_size():
    traced = torch.jit.trace(Dropout(0.5), torch.ones(4), check_trace=False)
    y = traced(torch.ones(1000))
    assert y.unique().tolist() == [0, 2]
    assert not torch.equal(y, traced(torch.ones(1000)))


def test_an_exported_layer_draws_for_every_size():
    sizes = {"x": {0: torch.export.Dim("n")}}
    program = torch.export.export(Dropout(0.5), (torch.ones(4),), dynamic_shapes=sizes)
    y = program.module()(torch.ones(1000))
    assert y.unique().tolist() == [0, 2]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_scale_in_16_bits_is_that_of_float32(dtype):
    torch.manual_seed(0)
    x = torch.rand(100_000).to(dtype) + 1
    y = Dropout(0.1)(x)
    exact = (x.double() * 65536 / (65536 - round(0.1 * 65536))).to(dtype)
    assert torch.equal(y[y != 0], exact[y != 0])


@pytest.mark.parametrize("drops", [1, 3277, 65535])
def test_of_all_lane_values_exactly_so_many_drop(monkeypatch, drops):
    """Each of the 65,536 values that 16 bits can have comes once."""
    every = torch.arange(-(2**15), 2**15).to(torch.int16).view(torch.int64)
    monkeypatch.setattr(torch.Tensor, "random_", lambda words, *_: words.copy_(every))
    assert int((keep_mask(torch.ones(65536), drops) == 0).sum()) == drops


def test_a_compiled_layer_is_one_graph():
    compiled = torch.compile(Dropout(0.5), backend="eager", fullgraph=True)
    assert compiled(torch.ones(1000)).unique().tolist() == [0, 2]
