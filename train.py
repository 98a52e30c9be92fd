"""Train the network: `python train.py --help` names the options."""

import hydra
from omegaconf import DictConfig

from cnnbp.errors import in_one_line
from cnnbp.run import Run, open_run, told_at_the_end
from cnnbp.schema import validate


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(config: DictConfig) -> float | list[str]:
    """Train, test and write result.json; return the accuracy that a sweep maximises, or what went wrong in a job."""
    with in_one_line(), told_at_the_end() as failures, open_run(config) as run:
        validate(config)
        if not run.finished:
            train(config, run)
        return run.score()
    return failures


def train(config: DictConfig, run: Run) -> None:
    """Seed, build, fit and test."""
    from cnnbp.training import build, summarise  # heavy imports come after the cheap checks

    data, model, trainer = build(config)
    run.start()
    trainer.fit(model, data, ckpt_path=run.last_checkpoint or config.ckpt_path, weights_only=True)
    if data.val_size and "accuracy/val" not in trainer.callback_metrics:
        trainer.validate(model, data, verbose=False)  # killed after its last epoch, before its result was stored
    validation = dict(trainer.callback_metrics)
    trainer.test(model, data, verbose=False)
    run.finish(summarise(trainer, validation, config.seed))


if __name__ == "__main__":
    with in_one_line():
        main()
