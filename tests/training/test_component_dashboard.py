"""What the dashboard writes, against the same numbers worked out apart from it."""

import copy
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize
from hydra.core.hydra_config import HydraConfig
from pytorch_lightning import Callback
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray
from torch import nn
from torch.nn import functional as F

from cnnbp.config.compose import compose as compose_run
from cnnbp.data.datamodule import DataModule
from cnnbp.figures.evaluation_images import confusion_matrix, mistake_sheet
from cnnbp.figures.network_images import feature_maps, filters
from cnnbp.model.network import Network
from cnnbp.training.build import build
from cnnbp.training.component_values import activations

CONVOLUTIONS = {
    "conv1.0": "conv1.0.conv",
    "conv1.1": "conv1.1.conv",
    "conv2": "conv2.conv",
    "conv3": "conv3.conv",
    "conv4": "conv4.conv",
    "conv5": "conv5",
}
BLOCKS = [name for name in CONVOLUTIONS if name != "conv5"]
STEPS = 3


class Spy(Callback):
    """Keeps what the last step of training started from, what it led to, and what was evaluated.

    Saves a checkpoint.
    """

    def __init__(self, checkpoint):
        self.checkpoint = checkpoint

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.before, self.batch, self.random = (
            copy.deepcopy(module.network),
            batch,
            torch.get_rng_state(),
        )

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.after = copy.deepcopy(module.network)
        if trainer.global_step == STEPS + 1:
            trainer.save_checkpoint(self.checkpoint)

    def on_validation_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.evaluated = (*batch, outputs)


@cache
def smoke_config():
    settings = [
        "trainer=smoke",
        "logger=tensorboard",
        "+trainer.enable_checkpointing=false",
        "run_dir=none",
    ]
    settings += [
        f"trainer.limit_train_batches={STEPS}",
        "data.batch_size=32",
        "data.eval_batch_size=200",
    ]
    settings += ["trainer.precision=32-true"]  # as what it is compared with
    with initialize(version_base="1.3", config_path="../../conf"):
        return compose("config", settings, return_hydra_config=True)


def fit(directory, *overrides, dashboard=True, dead=0, checkpoint=None, **options):
    """Train on smoke settings with a dashboard alone.

    Returns the trainer, the spy and what TensorBoard would read.

    Args:
        dead: so many channels of conv1.1 start where no image can bring them to life.
    """
    config = copy.deepcopy(smoke_config())
    config.merge_with_dotlist([f"run_dir={directory}", *overrides])
    HydraConfig.instance().set_config(config)
    target = {"_target_": "cnnbp.training.callbacks.component_dashboard.Dashboard", **options}
    config.callbacks = {"dashboard": target} if dashboard else {}
    data, model, trainer = build(config)
    model.network.conv1[1].conv.bias.data[:dead] = -100
    trainer.callbacks.append(spy := Spy(directory / "middle.ckpt"))
    trainer.fit(model, data, ckpt_path=checkpoint, weights_only=True)
    return (
        trainer,
        spy,
        EventAccumulator(str(directory), size_guidance={"images": 0, "tensors": 0}).Reload(),
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return fit(tmp_path_factory.mktemp("run"), "trainer.max_epochs=2", dead=3, embedding=True)


def last(events, tag):
    point = events.Scalars(tag)[-1]
    assert point.step == 2 * STEPS
    return point.value


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_gradients_are_what_autograd_gives_for_the_last_step(run, name):
    _, spy, events = run
    network, (images, labels) = copy.deepcopy(spy.before), spy.batch
    with torch.random.fork_rng():
        torch.set_rng_state(spy.random)
        loss = F.cross_entropy(network(DataModule().prepare(images)), labels)
    component, weight = (
        network.get_submodule(name),
        network.get_submodule(CONVOLUTIONS[name]).weight,
    )
    gradients = torch.autograd.grad(loss, list(component.parameters()), retain_graph=True)
    norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
    assert last(events, f"gradient/{name}") == pytest.approx(norm.item(), rel=1e-4)
    histogram = events.Histograms(f"weight_gradient/{name}")[-1].histogram_value
    (gradient,) = torch.autograd.grad(loss, weight)
    assert (histogram.num, histogram.max) == (
        weight.numel(),
        pytest.approx(gradient.max().item(), rel=1e-4),
    )


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_update_ratio_compares_the_weights_around_the_last_step(run, name):
    _, spy, events = run
    old, new = (
        network.get_submodule(CONVOLUTIONS[name]).weight.detach()
        for network in (spy.before, spy.after)
    )
    ratio = ((new - old).square().sum() / old.square().sum()).sqrt()
    assert last(events, f"update_ratio/{name}") == pytest.approx(ratio.item(), rel=1e-5)
    histogram = events.Histograms(f"weight/{name}")[-1].histogram_value
    assert (histogram.num, histogram.min) == (new.numel(), pytest.approx(new.min().item()))


@pytest.mark.parametrize("name", BLOCKS)
def test_dead_counts_the_channels_that_no_fixed_image_activates(run, name):
    trainer, spy, events = run
    data, network, seen = trainer.datamodule, copy.deepcopy(spy.after).eval(), []
    network.get_submodule(name).activation.register_forward_hook(
        lambda module, inputs, output: seen.append(output)
    )
    with torch.no_grad():
        network(data.normalise(data.splits["test"][0][:100].unsqueeze(1).float()))
    dead = [bool((channel <= 0).all()) for channel in seen[0].unbind(1)]
    assert last(events, f"dead/{name}") == pytest.approx(sum(dead) / len(dead))
    assert name != "conv1.1" or sum(dead) >= 3  # those of the fixture


@pytest.mark.parametrize("name", BLOCKS)
def test_batch_norm_shows_the_running_statistics(run, name):
    _, spy, events = run
    norm = spy.after.get_submodule(name).norm
    assert last(events, f"batch_norm_mean/{name}") == pytest.approx(norm.running_mean.mean().item())
    assert last(events, f"batch_norm_std/{name}") == pytest.approx(
        norm.running_var.sqrt().mean().item()
    )


@pytest.mark.parametrize("digit", range(10))
def test_precision_recall_counts_the_evaluated_images(run, digit):
    _, spy, events = run
    _, labels, logits = spy.evaluated
    is_digit, taken = labels == digit, logits.softmax(1)[:, digit] >= 63 / 126
    true, false = make_ndarray(events.Tensors(f"precision_recall/{digit}")[-1].tensor_proto)[:2]
    assert len(true) == 127
    assert (true[0], false[0]) == (is_digit.sum(), (~is_digit).sum())
    assert (true[63], false[63]) == ((is_digit & taken).sum(), (~is_digit & taken).sum())


def test_pictures_layout_and_embedding_are_there(run):
    trainer, _, events = run
    features = {f"features/{name}" for name in CONVOLUTIONS} | {"features/conv1.0_filters"}
    pictures = features | {"evaluation/confusion_matrix", "evaluation/worst_mistakes"}
    assert set(events.Tags()["images"]) == pictures
    for tag in pictures:
        assert [picture.step for picture in events.Images(tag)] == [STEPS, 2 * STEPS]
    assert (
        b"^loss/" in make_ndarray(events.Tensors("custom_scalars__config__")[0].tensor_proto).item()
    )
    embedding = Path(trainer.logger.log_dir) / "00006" / "features"
    assert {file.name for file in embedding.iterdir()} == {
        "tensors.tsv",
        "metadata.tsv",
        "sprite.png",
    }
    assert np.loadtxt(embedding / "tensors.tsv").shape == (1000, 16)


def test_training_is_the_same_without_it_to_the_bit(run, tmp_path):
    with_it, _, _ = run
    without, _, events = fit(tmp_path, "trainer.max_epochs=2", dead=3, dashboard=False)
    assert not events.Tags()["images"]
    for of in (
        lambda trainer: trainer.lightning_module.state_dict(),
        lambda trainer: trainer.callback_metrics,
    ):
        assert of(with_it).keys() == of(without).keys()
        assert all(torch.equal(value, of(without)[key]) for key, value in of(with_it).items())


def test_it_is_written_as_often_as_asked_for_and_for_other_networks(tmp_path):
    other = ["data.val_size=500", "model.network.norm=group", "model.network.widths=[12,8,8,8,8]"]
    _, _, events = fit(tmp_path, "trainer.max_epochs=3", *other, every_n_epochs=2)
    assert [point.step for point in events.Scalars("loss/train")] == [STEPS, 2 * STEPS, 3 * STEPS]
    assert [point.step for point in events.Scalars("gradient/conv5")] == [2 * STEPS]
    assert [picture.step for picture in events.Images("evaluation/confusion_matrix")] == [2 * STEPS]


@pytest.mark.parametrize(("every", "steps"), [(1, [1, 2, 3]), (2, [2])])
def test_in_a_multirun_only_the_last_epoch_has_pictures(tmp_path, every, steps):
    options = {"every_n_epochs": every, "pictures": "last"}
    _, _, events = fit(tmp_path, "trainer.max_epochs=3", **options)
    scalars = [point.step for point in events.Scalars("gradient/conv5")]
    assert scalars == [step * STEPS for step in steps]
    for tag in ("evaluation/confusion_matrix", "features/conv2"):
        assert [picture.step for picture in events.Images(tag)] == scalars[-1:]
    assert [weight.step for weight in events.Histograms("weight/conv2")] == scalars[-1:]
    assert [curve.step for curve in events.Tensors("precision_recall/3")] == scalars[-1:]


@pytest.mark.parametrize(("run_dir", "pictures"), [(None, "each"), ("trial-0001", "last")])
def test_a_single_run_has_pictures_of_each_epoch_and_a_trial_of_its_last(run_dir, pictures):
    assert compose_run([], run_dir).callbacks.dashboard.pictures == pictures


def test_a_run_continued_in_the_middle_of_an_epoch_shows_the_same(run, tmp_path):
    _, spy, events = run
    _, _, continued = fit(tmp_path, "trainer.max_epochs=2", dead=3, checkpoint=spy.checkpoint)
    for tag in (
        f"{group}/{name}" for group in ("gradient", "update_ratio", "dead") for name in BLOCKS
    ):
        assert [(point.step, point.value) for point in continued.Scalars(tag)] == [
            (2 * STEPS, last(events, tag))
        ]


def test_training_that_diverges_is_still_shown(tmp_path):
    _, spy, events = fit(tmp_path, "optimizer.lr=1e30")
    assert not spy.after.conv5.weight.isfinite().any()
    assert "evaluation/worst_mistakes" in events.Tags()["images"]


def test_activations_leave_modes_and_statistics_alone():
    network = Network()
    network.conv2.norm.eval()
    modes, state = (
        [module.training for module in network.modules()],
        copy.deepcopy(network.state_dict()),
    )
    activations(network, torch.randn(4, 1, 28, 28))
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(state[key], value) for key, value in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())


def test_pictures_show_what_they_say():
    weight = torch.zeros(9, 1, 5, 5)
    weight[0, 0, 0, 0], weight[1, 0, 0, 0] = 2, -1
    picture = np.asarray(filters(weight))
    assert picture.shape == (2 * 42, 8 * 42, 3)
    assert picture[2, 2].tolist() == [255, 0, 0]
    assert picture[2, 44].tolist() == [127, 127, 255]
    assert picture[20, 20].tolist() == [255, 255, 255]

    maps = torch.zeros(3, 2, 13, 13)
    maps[1, 0, 0, 0], maps[2, 0, 0, 0] = 4, 2
    picture = np.asarray(feature_maps(torch.rand(3, 1, 28, 28), maps))
    assert picture.shape == (3 * 30, 3 * 30)
    # channel 0, below the images: 13 pixels are drawn as 26, in the middle of 28
    assert picture[33, 3::30].tolist() == [0, 255, 127]
    assert picture[35, 3::30].tolist() == [0, 0, 0]


def test_mistakes_come_worst_first():
    labels = torch.tensor([0, 1, 2, 3])
    logits = 5 * F.one_hot(torch.tensor([0, 2, 2, 1]), 10).float()
    logits[1] *= 2
    wrong = torch.zeros(2, 1, 28, 28)
    wrong[0, 0, 3, 3] = wrong[1, 0, 20, 20] = 1
    picture = np.asarray(mistake_sheet(logits, labels, wrong).convert("L"))
    dark = [np.argwhere(picture[30:86, x : x + 56] == 0)[0].tolist() for x in (7, 77)]
    assert dark == [[6, 6], [40, 40]]
    matrix = np.asarray(confusion_matrix(logits, labels))
    assert matrix.shape == (350, 350, 3)
    assert matrix[32, 32].tolist() == [225, 240, 225]
    assert matrix[2 * 31 + 1, 3 * 31 + 1].tolist() == [255, 95, 95]


def test_only_maps_are_activations():
    """A linear layer's output (N, K) has none, and would be drawn as one."""
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2 * 26 * 26, 3))
    found = activations(network, torch.ones(4, 1, 28, 28))
    assert {name: tuple(maps.shape) for name, maps in found.items()} == {"0": (4, 2, 26, 26)}
