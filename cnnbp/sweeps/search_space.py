"""The space of a search: choices and ranges over any keys of the config."""

import json
from typing import Any

from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.trial import Trial

from cnnbp.errors import UserError

RANGE_KEYS = {"low", "high", "log", "step"}
WANTED = "must be a list of choices, or {low, high} with log or step"

Domain = list | dict[str, Any]


class SearchSpace:
    """Domains by key: a list of choices, or a range with `low`, `high` and perhaps `log` or `step`.

    Args:
        domains: as the config has them; a key with null is left out.

    Raises:
        UserError: there is no key, or a domain is wrong.
    """

    def __init__(self, domains: dict[str, Domain | None]):
        self.domains = {key: domain for key, domain in domains.items() if domain is not None}
        if not self.domains:
            raise UserError(
                "search.space: is empty; give the keys to search over, "
                "as in conf/search/default.yaml"
            )
        for key, domain in self.domains.items():
            _check_domain(key, domain)

    def suggest(self, trial: Trial) -> None:
        """Let a trial draw a value for each key."""
        for key, domain in self.domains.items():
            if isinstance(domain, list):
                # Optuna takes no lists as choices
                texts = [json.dumps(item) if isinstance(item, list) else item for item in domain]
                trial.suggest_categorical(key, texts)
            elif _distribution(domain) is IntDistribution:
                trial.suggest_int(key, **domain)
            else:
                trial.suggest_float(key, **domain)

    def samples(self) -> list[list[str]]:
        """Overrides that together hold every choice and both ends of every range."""
        values = {}
        for key, domain in self.domains.items():
            is_range = isinstance(domain, dict)
            values[key] = [domain["low"], domain["high"]] if is_range else domain
        samples = []
        for index in range(max(map(len, values.values()))):
            # shorter lists start again
            chosen = {key: items[index % len(items)] for key, items in values.items()}
            samples.append(as_overrides(chosen))
        return samples


def as_overrides(values: dict[str, Any]) -> list[str]:
    """Write values by key as overrides of the config."""
    overrides = []
    for key, value in values.items():
        text = value if isinstance(value, str) else json.dumps(value)
        overrides.append(f"{key}={text}")
    return overrides


def _check_domain(key: str, domain: Domain) -> None:
    if isinstance(domain, list) and domain:
        return
    if not isinstance(domain, dict) or not {"low", "high"} <= domain.keys() <= RANGE_KEYS:
        raise UserError(f"search.space.{key}: {WANTED}")
    try:
        if domain["low"] >= domain["high"]:
            raise ValueError(f"low={domain['low']} must be less than high={domain['high']}")
        _distribution(domain)(**domain)
    except (TypeError, ValueError) as error:
        raise UserError(f"search.space.{key}: {error}") from None


def _distribution(domain: dict[str, Any]) -> type[BaseDistribution]:
    is_whole = isinstance(domain["low"], int) and isinstance(domain["high"], int)
    return IntDistribution if is_whole else FloatDistribution
