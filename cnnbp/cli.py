"""`python -m cnnbp COMMAND`: what can be done beside training; heavy imports come after the arguments are read."""

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path

from omegaconf import DictConfig

from cnnbp.errors import UserError, in_one_line


def main() -> int | None:
    """Run one command and return its exit status."""
    arguments = parser().parse_args()
    with in_one_line():
        return arguments.command(arguments)


def parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    top = argparse.ArgumentParser(
        prog="python -m cnnbp", description="What can be done beside training."
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def add(name, command, text):
        sub = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        sub.set_defaults(command=command)
        return sub

    sub = add("summary", summary, "print the layers of the network, measured on a forward pass")
    sub.add_argument(
        "overrides", nargs="*", help="as for train.py: dropout=none model.network.norm=group"
    )
    sub.add_argument(
        "--wide", action="store_true", help="add receptive field, jump and multiply-accumulates"
    )

    sub = add("evaluate", evaluate, "test a trained run, class by class")
    _add_run(sub)
    sub.add_argument(
        "--plot", metavar="FILE.png", help="draw the confusion matrix and the worst mistakes"
    )
    sub.add_argument(
        "--tta",
        action="store_true",
        help="also test-time augmentation: the mean over shifts by one pixel",
    )

    sub = add("predict", predict, "read the digits on pictures")
    _add_run(sub)
    sub.add_argument(
        "files", nargs="+", metavar="FILE", help="any picture with one digit on a plain ground"
    )

    sub = add("explain", explain, "follow one image through the network, and its gradient back")
    sub.add_argument(
        "paths",
        nargs="*",
        metavar="PATH",
        help="a run directory, outputs/NAME, then perhaps a picture",
    )
    sub.add_argument(
        "--untrained", nargs="*", metavar="OVERRIDE", help="a fresh network instead of a run's"
    )
    sub.add_argument(
        "--index", type=int, help="which test image, where no picture is given (default: 7)"
    )
    sub.add_argument("--checkpoint", choices=("last", "best"), default="last", help="default: last")
    sub.add_argument(
        "--plot",
        metavar="FILE.png",
        help="the journey as a picture; default: explain.png in the run",
    )
    sub.add_argument(
        "--animate", metavar="FILE.gif", help="film the wave forward and the wave back"
    )

    sub = add(
        "export", export, "write a trained run as a file for other programs, with a model card"
    )
    _add_run(sub)
    sub.add_argument("--format", choices=("onnx", "safetensors", "torch"), required=True)
    sub.add_argument(
        "--output",
        metavar="FILE",
        help="default: model.onnx, .safetensors or .pt2 in the run directory",
    )

    sub = add("report", report, "write a run or a sweep as one HTML page")
    sub.add_argument("directory", help="a run's or a sweep's directory, outputs/NAME")
    sub.add_argument("--output", metavar="FILE.html", help="default: report.html in the directory")

    sub = add("search", search, "look for the best values of any keys, on validation images")
    sub.add_argument(
        "overrides",
        nargs="*",
        help="as for train.py: name=NAME, search=CHOICE, search.n_trials=20, ...",
    )
    sub.epilog = "The same command with the same name continues the study, also in several processes at once."

    sub = add("leaderboard", leaderboard, "rank runs, one by one and over seeds")
    sub.add_argument(
        "directories",
        nargs="+",
        type=Path,
        metavar="DIR",
        help="of runs, sweeps, studies: outputs/NAME",
    )
    sub.add_argument(
        "--filter",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="also KEY<VALUE: 'accuracy>0.99'",
    )
    metrics = ("val_accuracy", "accuracy", "val_loss", "loss", "seconds")
    sub.add_argument(
        "--metric", choices=metrics, help="what to rank by; default: validation, else test accuracy"
    )
    sub.add_argument(
        "--group",
        action="store_true",
        help="only the groups of runs that differ by their seed alone",
    )
    sub.add_argument(
        "--format", choices=("table", "csv", "markdown"), default="table", help="default: table"
    )
    sub.add_argument("--plot", metavar="FILE.png", help="draw the best 50")
    return top


def _add_run(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("run", help="a run directory, outputs/NAME")
    sub.add_argument("--checkpoint", choices=("last", "best"), default="last", help="default: last")


def summary(arguments: argparse.Namespace) -> None:
    """Print the table of the model that the overrides describe."""
    import torch
    from hydra.utils import instantiate

    from cnnbp.model.layer_table import measure, table

    config = _compose(arguments.overrides)
    print(
        table(
            measure(instantiate(config.model.network), torch.zeros(1, 1, 28, 28)),
            wide=arguments.wide,
        )
    )


def explain(arguments: argparse.Namespace) -> None:
    """Follow a picture, or a test image, through a run's network or a fresh one."""
    import torch
    from hydra.utils import instantiate

    from cnnbp.data import user_pictures
    from cnnbp.training.restore import restore
    from cnnbp.views.explain import explain

    paths = list(arguments.paths)
    if arguments.untrained is not None:
        config, source = _compose(arguments.untrained), "untrained"
        torch.manual_seed(config.seed)
        data, network = instantiate(config.data), instantiate(config.model.network)
    elif paths:
        source = paths.pop(0)
        config, data, model = restore(source, arguments.checkpoint)
        network = model.network
    else:
        raise UserError("explain: name a run directory, outputs/NAME, or give --untrained")
    if len(paths) > 1:
        raise UserError(f"explain: takes one picture, not {len(paths)}")
    if paths:
        if arguments.index is not None:
            raise UserError("explain: takes a picture or --index, not both")
        name, image, label = paths[0], user_pictures.load(paths[0]), None
    else:
        index = 7 if arguments.index is None else arguments.index
        name, (image, label) = f"test image {index}", data.test_image(index)
    title = f"{source}, {name}"
    plot = arguments.plot or str(
        Path("." if arguments.untrained is not None else source) / "explain.png"
    )
    explain(
        network, image, data.prepare, config.optimizer.lr, title, label, plot, arguments.animate
    )


def _compose(overrides: list[str]) -> DictConfig:
    from cnnbp.config.compose import compose

    return compose(overrides)


def evaluate(arguments: argparse.Namespace) -> None:
    """Test a run."""
    from cnnbp.views.evaluate import evaluate

    evaluate(arguments.run, arguments.checkpoint, arguments.plot, arguments.tta)


def predict(arguments: argparse.Namespace) -> int:
    """Read pictures; exit status 1 when one could not be read."""
    from cnnbp.views.predict import predict

    return min(predict(arguments.run, arguments.files, arguments.checkpoint), 1)


def export(arguments: argparse.Namespace) -> None:
    """Write a run's network as a file for other programs."""
    from cnnbp.views.export import export

    export(arguments.run, arguments.format, arguments.output, arguments.checkpoint)


def report(arguments: argparse.Namespace) -> None:
    """Write a run or a sweep as one HTML page."""
    from cnnbp.views.html_report import report

    print(report(arguments.directory, arguments.output))


def search(arguments: argparse.Namespace) -> None:
    """Search with Optuna."""
    if not find_spec("optuna"):
        raise UserError("search needs Optuna; pip install 'cnnbp[search]'")
    from cnnbp.sweeps.search import search

    search(arguments.overrides)


def leaderboard(arguments: argparse.Namespace) -> None:
    """Print the runs, their groups over seeds, and apart from these the runs without a result."""
    from cnnbp.sweeps import leaderboard as board

    directories = [directory for directory in arguments.directories if any(board.runs(directory))]
    empty = [str(directory) for directory in arguments.directories if directory not in directories]
    if not directories:
        raise UserError(f"{', '.join(empty)}: no runs here; give a directory such as outputs/NAME")
    for directory in empty:
        print(f"{directory}: no runs here", file=sys.stderr)
    rows = board.ranked(*directories, metric=arguments.metric)
    failed = [row for row in rows if "error" in row]
    finished = board.keep([row for row in rows if "error" not in row], arguments.filter)
    groups = board.over_seeds(finished, arguments.metric)
    write = {"table": board.table, "csv": board.comma_separated, "markdown": board.markdown}[
        arguments.format
    ]
    if not finished:
        print("no finished run" + " that meets --filter" * bool(arguments.filter), file=sys.stderr)
    if finished or arguments.format == "csv":  # whose header another program reads
        if not arguments.group:
            print(write(finished))
        if arguments.group or arguments.format != "csv":
            print(
                *[] if arguments.group else ["\nover seeds\n"],
                write(groups, board.SEED_COLUMNS),
                sep="",
            )
    if failed:
        file = sys.stdout if arguments.format == "table" else sys.stderr
        print(f"\nwithout a result\n{board.table(failed)}", file=file)
    if arguments.plot:
        board.draw(groups if arguments.group else finished, Path(arguments.plot), arguments.metric)


if __name__ == "__main__":
    sys.exit(main())
