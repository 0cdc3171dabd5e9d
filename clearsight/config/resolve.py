"""From a file, an object or nested values, and single choices over them, to one checked configuration."""

from pathlib import Path
from typing import Any

from clearsight.config.build import build_config
from clearsight.config.files import expand_setting, merge, read_config_file
from clearsight.config.schema import RunConfig
from clearsight.errors import UsageError


def resolve_config(
    config: RunConfig | str | Path | dict[str, Any] | None, settings: dict[str, Any], *, base: RunConfig | None = None
) -> RunConfig:
    """A RunConfig from a file, a RunConfig or nested values, and flat settings over it (`epochs=3` is `train.epochs`).

    Raises:
        UsageError: an unknown setting (with the nearest known one) or a bad value.
    """
    layers: list[dict[str, Any]] = [base.model_dump(exclude_unset=True)] if base else []
    where = "the settings"
    if isinstance(config, str | Path):
        where = f"{config} with the settings" if settings else str(config)
        layers.append(read_config_file(Path(config)))
    elif config is not None:
        if not isinstance(config, RunConfig | dict):
            got = type(config).__name__
            raise UsageError(f"config must be a RunConfig, a dict or a file, got {got}. Pass one of them.")
        layers.append(config.model_dump(exclude_unset=True) if isinstance(config, RunConfig) else config)
    layers += [expand_setting(name, value) for name, value in settings.items()]
    return build_config(merge(*layers), where=where)


def name_source(data: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """Flat settings with the name or path that was given as data.

    Raises:
        UsageError: data given twice.
    """
    if data is not None and "source" in settings:
        raise UsageError(f"source must be left out beside data, got {settings['source']!r}. Give one of them.")
    return {"source": str(data), **settings} if isinstance(data, str | Path) else settings
