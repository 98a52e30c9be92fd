"""The commands: `cnnbp COMMAND`, or `python -m cnnbp COMMAND`."""

import argparse
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from cnnbp.config.command_line import options_first
from cnnbp.config.config_files import add_config_folder
from cnnbp.config.error_line import errors_on_one_line
from cnnbp.config.own_modules import add_current_folder
from cnnbp.errors import UserError


class Argument:
    """The arguments of one `add_argument`."""

    def __init__(self, *names: str, **options: Any):
        self.names, self.options = names, options


class Command(NamedTuple):
    """A command.

    Attributes:
        function: MODULE:FUNCTION, imported when the command runs; it takes the arguments by name.
        help: one line, which begins with a verb.
        package, extra: what has to be installed, and the extra of cnnbp that installs it.
    """

    function: str
    help: str
    arguments: tuple[Argument, ...]
    epilog: str = ""
    package: str = ""
    extra: str = ""


RUN = Argument("directory", metavar="RUN", help="a run directory, outputs/NAME")
CHECKPOINT = Argument(
    "--checkpoint", choices=("last", "best"), default="last", help="default: last"
)
TRUST = Argument(
    "--trust",
    metavar="PACKAGE",
    action="append",
    default=[],
    help="also run this package, where the run is made of it and you know its code",
)
CONFIG_DIR = Argument("--config-dir", metavar="DIR", help="a folder of config groups of your own")
OVERRIDES = Argument("overrides", nargs="*", help="as for train.py: dropout=none optimizer.lr=0.1")

# the functions are named, not imported, so that `--help` is answered without PyTorch
COMMANDS = {
    "train": Command(
        "cnnbp.main_job:run_from_command_line", "train a network; --help lists its options", ()
    ),
    "options": Command(
        "cnnbp.config.option_table:print_options",
        "print what the values of the config may be",
        (Argument("part", nargs="?", help="such as optimizer or Network; default: all"),),
    ),
    "summary": Command(
        "cnnbp.views.summary:print_summary",
        "print the layers of the network, measured on a forward pass",
        (
            OVERRIDES,
            CONFIG_DIR,
            Argument(
                "--wide",
                action="store_true",
                help="add receptive field, jump and multiply-accumulates",
            ),
        ),
    ),
    "evaluate": Command(
        "cnnbp.views.evaluate:evaluate",
        "test a trained run, class by class",
        (
            RUN,
            CHECKPOINT,
            TRUST,
            Argument(
                "--plot", metavar="FILE.png", help="draw the confusion matrix and worst mistakes"
            ),
            Argument(
                "--tta",
                action="store_true",
                help="add test-time augmentation: the mean over shifts by one pixel",
            ),
        ),
    ),
    "predict": Command(
        "cnnbp.views.predict:predict",
        "read the digits on pictures",
        (
            RUN,
            CHECKPOINT,
            TRUST,
            Argument(
                "files",
                nargs="+",
                metavar="FILE",
                help="any picture with digits; rules, a frame, shade and noise do not matter",
            ),
            Argument(
                "--show",
                metavar="FILE.png",
                help="draw what the network saw, with boxes on the pictures",
            ),
        ),
    ),
    "explain": Command(
        "cnnbp.views.explain:explain",
        "follow one image through the network, and its gradient back",
        (
            Argument(
                "paths",
                nargs="*",
                metavar="PATH",
                help="a run directory, outputs/NAME, then perhaps a picture",
            ),
            Argument(
                "--untrained",
                nargs="*",
                metavar="OVERRIDE",
                help="a fresh network instead of a run's",
            ),
            CONFIG_DIR,
            Argument("--index", type=int, help="test image, where no picture is given; default: 7"),
            CHECKPOINT,
            TRUST,
            Argument("--plot", metavar="FILE.png", help="default: explain.png in the run"),
            Argument("--animate", metavar="FILE.gif", help="film the way forward and the way back"),
        ),
    ),
    "export": Command(
        "cnnbp.views.export:export",
        "write a trained run as a file for other programs, with a model card",
        (
            RUN,
            CHECKPOINT,
            TRUST,
            Argument("--format", choices=("onnx", "safetensors", "torch"), required=True),
            Argument(
                "--output",
                metavar="FILE",
                help="default: model.onnx, .safetensors or .pt2 in the run directory",
            ),
        ),
    ),
    "report": Command(
        "cnnbp.views.html_report:write_report",
        "write a run or a sweep as one HTML page",
        (
            Argument("directory", help="a run's or a sweep's directory, outputs/NAME"),
            TRUST,
            Argument("--output", metavar="FILE.html", help="default: report.html in the directory"),
        ),
    ),
    "page": Command(
        "cnnbp.views.page:write_page",
        "write a run as a page to draw on, to look into and to train in",
        (
            RUN,
            CHECKPOINT,
            TRUST,
            Argument("--output", metavar="FILE.html", help="default: page.html in the run"),
        ),
    ),
    "search": Command(
        "cnnbp.sweeps.search:search",
        "search for the best values of any keys, on validation images",
        (
            Argument(
                "overrides",
                nargs="*",
                help="as for train.py: name=NAME, search=CHOICE, search.n_trials=20, ...",
            ),
            CONFIG_DIR,
        ),
        epilog="The same command with the same name continues the study, "
        "also in several processes at once.",
        package="optuna",
        extra="search",
    ),
    "leaderboard": Command(
        "cnnbp.sweeps.leaderboard:print_leaderboard",
        "rank runs, one by one and over seeds",
        (
            Argument(
                "directories",
                nargs="+",
                type=Path,
                metavar="DIR",
                help="of runs, sweeps, studies: outputs/NAME",
            ),
            Argument(
                "--filter",
                nargs="+",
                default=[],
                metavar="KEY=VALUE",
                help="also KEY<VALUE: 'accuracy>0.99'",
            ),
            Argument(
                "--metric",
                metavar="NAME",
                help="val_accuracy, accuracy, val_loss, loss, seconds, or a metric that was added "
                "to the runs, such as val_f1; default: validation, else test accuracy",
            ),
            Argument(
                "--group",
                action="store_true",
                help="only the groups of runs that differ by seed and fold alone",
            ),
            Argument(
                "--format",
                choices=("table", "csv", "markdown"),
                default="table",
                help="default: table",
            ),
            Argument("--plot", metavar="FILE.png", type=Path, help="draw the best 50"),
        ),
    ),
}


def main() -> int:
    """Run one command and return its exit status."""
    with errors_on_one_line():
        # Hydra reads the rest of the command line itself
        if sys.argv[1:2] == ["train"]:
            del sys.argv[1]
            from cnnbp.main_job import run_from_command_line

            run_from_command_line()
            return 0
        add_current_folder()
        arguments = vars(build_parser().parse_args(_options_behind_command(sys.argv[1:])))
        command = COMMANDS[arguments.pop("command")]
        add_config_folder(arguments.pop("config_dir", None))
        trusted_packages = arguments.pop("trust", [])
        if trusted_packages:
            from cnnbp.runs.allowed_code import trusted

            trusted.update(trusted_packages)
        if command.package and not find_spec(command.package):
            raise UserError(
                f"needs the package {command.package}; pip install 'cnnbp[{command.extra}]'"
            )
        module, _, function = command.function.partition(":")
        status = getattr(import_module(module), function)(**arguments)
        return status if isinstance(status, int) else 0


def _options_behind_command(arguments: list[str]) -> list[str]:
    """Put `--config-dir DIR` before the overrides, between which argparse refuses it too."""
    return [*arguments[:1], *options_first(arguments[1:])]


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="cnnbp", description="Train, inspect, compare and export small networks."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    for name, command in COMMANDS.items():
        description = f"{command.help[0].upper()}{command.help[1:]}."
        part = commands.add_parser(
            name, help=command.help, description=description, epilog=command.epilog
        )
        for argument in command.arguments:
            part.add_argument(*argument.names, **argument.options)
    return parser
