"""What Hydra's errors mean: one module reads its prose, and these tests hold it to the version."""

import pytest
from hydra import version as hydra_version

from cnnbp.config.compose import compose
from cnnbp.config.hydra_errors import explain, is_wrong_group_choice

CASES = {
    "optimizer=foo": "optimizer=foo: no such choice; choose adam, adamw, muon, rmsprop, sgd",
    "optimizer.lrr=1": "optimizer.lrr=1: no such key; choose lr, momentum, weight_decay, fused; "
    "a key that the class takes beside them is added as +optimizer.lrr=1",
    "optimiser=adam": "optimiser=adam: no such key; choose data, ",
    "trainer=5": "Config group override must be a string or a list. Got int; give a choice, as in ",
    "callbacks=null": "Config group override must be a string or a list. Got NoneType; give a "
    "choice, as in optimizer=adam, logger=none or callbacks=none; --help lists them",
    "~callbacks=1": "~callbacks=1: deletes no choice of the group; give a choice, as in ",
    "~augment=[null,null]": "~augment=[null,null]: deletes no choice of the group; ",
    "dropout.rates=[1,": "dropout.rates=[1,: is not KEY=VALUE as Hydra reads it",
    "ckpt_path=a=b,c": "ckpt_path=a=b,c: is not KEY=VALUE as Hydra reads it; quoted for Hydra and "
    "the shell: 'ckpt_path=\"a=b,c\"'",
    "seed=${foo}": "Interpolation key 'foo' not found",
}


def test_the_version_whose_prose_is_read():
    assert hydra_version.__version__.startswith("1.3.")


@pytest.mark.parametrize("override", CASES)
def test_an_error_of_hydra_is_one_plain_line(override):
    with pytest.raises(Exception) as caught:  # noqa: PT011  of many kinds
        compose([override])
    line = explain(caught.value)
    assert line.startswith(CASES[override])
    assert "\n" not in line


def test_an_error_of_ours_is_no_group_choice():
    assert not is_wrong_group_choice(ValueError("something else"))


def test_another_class_with_the_keys_of_the_one_before_says_how_to_replace_it(train):
    with pytest.raises(SystemExit) as stopped:
        train("trainer=smoke", "optimizer._target_=torch.optim.NAdam")
    assert "'momentum'" in stopped.value.code
    assert "'~optimizer' '+optimizer._target_=...'" in stopped.value.code
