"""What an encoder's weights do not show, and who said it: the user, the file, its producer, or a default."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from sslmem.errors import SpecError

Options = Mapping[str, Any]
OPTIONS = {
    "num_heads": int,
    "norm_eps": float,
    "activation": str,
    "pooling": str,
    "rope_temperature": float,
    "stem_padding": int,
    "max_pool": bool,
}
Source = Literal["told", "weights", "file", "producer", "default"]


class Setting(BaseModel):
    """A choice that weights do not show.

    Attributes:
        value: what was taken.
        source: ``told`` by the user, seen in the ``weights``, said by the ``file``, the ``producer``'s custom, or a
            ``default``.
    """

    model_config = ConfigDict(frozen=True)

    value: int | float | bool | str | list[float]
    source: Source


class Chooser:
    """Chooses, and writes down what was chosen and why: the user's word goes before the file's, and so on.

    Args:
        told: by the user.
        said: by the file.
        usual: of the producer.
    """

    def __init__(self, told: Options, said: Options | None = None, usual: Options | None = None) -> None:
        self.told, self._said, self._usual = told, said or {}, usual or {}
        self.settings: dict[str, Setting] = {}

    def choose(self, name: str, default: Any) -> Any:  # noqa: ANN401  of the option's type
        """What holds for an option of this encoder."""
        by: tuple[tuple[Source, Options], ...] = (
            ("told", self.told),
            ("file", self._said),
            ("producer", self._usual),
        )
        source, value = next(((s, values[name]) for s, values in by if name in values), ("default", default))
        self.settings[name] = Setting(value=value, source=source)
        return value

    def shown(self, name: str, value: Any) -> None:  # noqa: ANN401  of the option's type
        """Writes down what the weights of this encoder do show, unlike those of others.

        Raises:
            SpecError: something else was told.
        """
        if self.told.get(name, value) != value:
            raise SpecError(f"the weights show {name} {value}; found {self.told[name]} told")
        self.settings[name] = Setting(value=value, source="weights")

    def heads(self, width: int, default: int) -> int:
        """The number of attention heads, which must divide the width.

        Raises:
            SpecError: it does not.
        """
        usual = self._usual.get("heads_by_width", {}).get(width, default)
        heads: int = self.choose("num_heads", usual)
        if usual != default and self.settings["num_heads"].source == "default":
            self.settings["num_heads"] = Setting(value=heads, source="producer")
        if heads <= 0 or width % heads:
            raise SpecError(f"expected a number of heads that divides the width {width}; found {heads}")
        return heads

    def one_of(self, name: str, default: str, known: Mapping[str, Any]) -> str:
        """A choice among names.

        Raises:
            SpecError: it is none of them.
        """
        value: str = self.choose(name, default)
        if value not in known:
            raise SpecError(f"expected {name} to be one of {', '.join(known)}; found {value}")
        return value

    def check_used(self) -> None:
        """Refuses what was told and is of no use for this encoder.

        Raises:
            SpecError: something is.
        """
        if unused := [name for name in self.told if name not in self.settings]:
            raise SpecError(f"the option {unused[0]} is of no use for this encoder: its weights or architecture say it")

    @property
    def notes(self) -> list[str]:
        """What nobody said, as sentences."""
        return [
            f"{name} {setting.value}, which weights do not show: say it if it was another"
            for name, setting in self.settings.items()
            if name in OPTIONS and setting.source in ("default", "producer")
        ]


def check_options(told: Options) -> None:
    """Refuses options that no encoder has.

    Raises:
        SpecError: the name or the kind of an option is wrong.
    """
    for name, value in told.items():
        kind = OPTIONS.get(name)
        right = type(value) in (int, float) if kind is float else kind is not None and type(value) is kind
        if not right:
            expected = ", ".join(f"{key} ({kind.__name__})" for key, kind in OPTIONS.items())
            raise SpecError(f"expected options among {expected}; found {name}={value!r}")
