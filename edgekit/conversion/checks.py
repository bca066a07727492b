"""What can be asked of a conversion: formats, their quantizations, and settings that only some formats have."""

from edgekit.conversion.base import WeighsRounding, converter
from edgekit.errors import SettingError, UnknownPluginError
from edgekit.settings import Converting
from edgekit.utils import registry


def check_quant(to: str, quant: str | None) -> str:
    """The quantization to use. Raises `SettingError`, which lists those of the converter."""
    module = converter(to)
    quant = (quant or module.DEFAULT).lower()
    if quant not in module.QUANTS:
        raise SettingError(f"unknown quantization {quant!r} for {to}: choose from {', '.join(module.QUANTS)}")
    return quant


def check_format(to: str) -> str:
    """The converter's own name for a format. Raises `UnknownPluginError`, which lists the formats."""
    to = registry.ALIASES.get(to, to)
    if to not in registry.names("converters"):
        raise UnknownPluginError(f"unknown format {to!r}: choose from {', '.join(registry.names('converters'))}")
    return to


def check_importance(to: str, settings: Converting) -> None:
    """Raises `SettingError` if the settings ask for importance and the converter cannot round by it."""
    if settings.importance is not None and not isinstance(converter(to), WeighsRounding):
        raise SettingError(f"importance is a setting of gguf: {to} does not weigh its rounding")
