"""Check the values of a part by what its class or function declares."""

import inspect
import json
from collections.abc import Mapping
from typing import Any, get_type_hints

# hydra.utils.get_object, which also logs what it does not find
from hydra._internal.utils import _locate
from omegaconf import DictConfig, OmegaConf
from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from cnnbp.config.hydra_errors import how_to_replace
from cnnbp.config.options import reason_of
from cnnbp.errors import UserError

# arguments of networks and metrics that building a run adds, and the facts of the data set that
# they are given
OF_THE_DATA_SET = {
    "channels": "channels",
    "image_size": "image_size",
    "classes": "classes",
    "num_classes": "classes",
}
# pydantic's errors for types that no value of a config file has
OF_OBJECTS = {"callable_type", "is_instance_of", "is_subclass_of", "is_type"}


def check_call(place: str, part: DictConfig, is_partial: bool = False) -> None:
    """Check a part of a config against the signature of its `_target_`.

    What the signature does not declare is passed: a class that takes any name, an argument without
    an annotation, or with one that no value of a config file can have.

    Args:
        place: of the part in the config, for the message.
        is_partial: training adds arguments, so that none is missing.

    Raises:
        UserError: names the first key that is wrong.
    """
    target = part["_target_"]
    try:
        built = _locate(target)
        parameters = inspect.signature(built).parameters
    except Exception:
        # what is wrong is told when the part is built
        return
    kinds = {parameter.kind for parameter in parameters.values()}
    given = {}
    for key in part:
        if not str(key).startswith("_"):
            given[str(key)] = part[key]
    unknown = [key for key in given if key not in parameters]
    if unknown and inspect.Parameter.VAR_KEYWORD not in kinds:
        known = ", ".join(parameters) or "none"
        raise UserError(
            f"{place}.{unknown[0]}: {target} takes no such key, but {known}"
            + how_to_replace(place, target)
        )
    if not is_partial and "_args_" not in part and "_partial_" not in part:
        _refuse_missing(place, target, parameters, given)
    _check_types(place, built, parameters, given)


def _refuse_missing(
    place: str, target: str, parameters: Mapping[str, inspect.Parameter], given: Mapping[str, Any]
) -> None:
    for name, parameter in parameters.items():
        is_single = parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        is_missing = parameter.default is parameter.empty and name not in given
        if is_single and is_missing and name not in OF_THE_DATA_SET:
            raise UserError(
                f"{place}.{name}: {target} needs it; add it as +{place}.{name}=..., "
                f"or +{place}._partial_=true where training is to call it"
            )


def _check_types(
    place: str, built: Any, parameters: Mapping[str, inspect.Parameter], given: Mapping[str, Any]
) -> None:
    try:
        annotations = get_type_hints(built.__init__ if isinstance(built, type) else built)
    except Exception:
        # names that are known in their file alone, or while types are checked
        return
    for key, value in given.items():
        # None is often the default of an argument that is declared as a number
        if key in annotations and key in parameters and value != parameters[key].default:
            _check_type(f"{place}.{key}", annotations[key], value)


def _check_type(name: str, annotation: Any, value: Any) -> None:
    if OmegaConf.is_config(value):
        value = OmegaConf.to_container(value, resolve=True)
    text = json.dumps(value)
    # parts are built before the class sees them
    if "_target_" in text or isinstance(value, dict):
        return
    try:
        adapter = TypeAdapter(annotation)
    except PydanticUserError:
        # a type that pydantic does not know, such as torch's
        return
    try:
        # as JSON, in which a tuple or a path is written as it is in a config file
        adapter.validate_json(text, strict=True)
    except ValidationError as error:
        details = error.errors(include_url=False)
        if not {detail["type"] for detail in details} & OF_OBJECTS:
            reasons = dict.fromkeys(reason_of(detail) for detail in details)
            raise UserError(f"{name}={value}: must {', or '.join(reasons)}") from None
