"""Where a gate's verdict is written, besides the terminal."""

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from sslmem.errors import SigningError, SpecError, SslmemError
from sslmem.formats.junit import render_junit, render_junit_error
from sslmem.formats.markdown import render_markdown, render_not_evaluated
from sslmem.formats.sarif import render_sarif
from sslmem.gate.report import Report
from sslmem.gate.signature import read_signer, sign_statement
from sslmem.gate.statement import make_statement

if TYPE_CHECKING:
    from securesystemslib.signer import Signer

Images = Callable[[str], bytes] | None


@dataclass(frozen=True)
class Outputs:
    """Where to write what."""

    markdown: Path | None = None
    json: Path | None = None
    junit: Path | None = None
    sarif: Path | None = None
    html: Path | None = None
    scores: Path | None = None
    statement: Path | None = None
    sign: Path | None = None
    spared: frozenset[Path] = frozenset()

    def sparing(self, files: Mapping[str, Path]) -> Self:
        """The same, but for these files nothing is removed: an earlier report may be a baseline of this one."""
        return replace(self, spared=frozenset(path.resolve() for path in files.values()))

    @property
    def files(self) -> list[Path]:
        """All that may be written."""
        places = (self.markdown, self.json, self.junit, self.sarif, self.html, self.scores, self.statement)
        return [place for place in places if place is not None]

    def check(self, inputs: Iterable[Path] = ()) -> None:
        """Finds out before minutes are spent what cannot be written.

        Args:
            inputs: that must not be written over.

        Raises:
            SpecError: a file's folder is not there, or it is a folder itself.
            SigningError: there is nothing to sign, or the key cannot.
            ModuleNotFoundError: the HTML page or the signature needs what is not installed.
        """
        taken = {path.resolve() for path in inputs}
        for file in self.files:
            if file.is_dir() or not file.parent.is_dir():
                raise SpecError(f"expected a file in a folder that exists; found {file}")
            if file.resolve() in taken:
                raise SpecError(f"expected a file of its own for each output; {file} is an input or another output")
            taken.add(file.resolve())
        if self.html is not None:
            import sslmem.formats.html  # noqa: F401, PLC0415  needs sslmem[score]
        if self.sign is not None:
            if self.statement is None:
                raise SigningError("--sign signs the statement; expected --statement FILE as well")
            self._signer(self.sign)

    def write(self, report: Report, summary: dict[str, Any], images: Images) -> None:
        """Writes all that was asked for, and the job summary where CI has a place for one.

        Raises:
            EvidenceError: a statement was asked for, and the digests of the targets' files are not known.
        """
        self._summarize(render_markdown(report))
        texts: list[tuple[Path | None, Callable[[], str]]] = [
            (self.json, report.to_json),
            (self.junit, lambda: render_junit(report)),
            (self.sarif, lambda: render_sarif(report, Path.cwd())),
            (self.statement, lambda: self._statement(report)),
        ]
        for place, render in texts:
            if place is not None:
                place.write_text(render(), encoding="utf-8")
        if self.html is not None:
            from sslmem.formats.html import render_html  # noqa: PLC0415  needs sslmem[score]

            page = render_html(report, summary, images, title="Memorization gate")
            self.html.write_text(page, encoding="utf-8")

    def summarize_error(self, error: BaseException) -> None:
        """Says in the job summary that there is no verdict, and why; a missing one could be taken for a pass."""
        with suppress(OSError):  # what cannot be written is what the error may be about
            self._summarize(render_not_evaluated(_reason(error)), to_file=False)

    def write_not_evaluated(self, error: BaseException) -> None:
        """Says that there is no verdict, wherever it can, and leaves no file of an earlier run to pass for one."""
        for place in (self.json, self.sarif, self.html, self.scores, self.statement):
            if place is not None and place.is_file() and place.resolve() not in self.spared:
                place.unlink()
        with suppress(OSError):  # what cannot be written is what the error may be about
            if self.junit is not None:
                self.junit.write_text(render_junit_error(_reason(error)), encoding="utf-8")
            self._summarize(render_not_evaluated(_reason(error)))

    def _signer(self, key: Path) -> "Signer":
        return read_signer(key, os.environ.get("SSLMEM_KEY_PASSWORD"))

    def _statement(self, report: Report) -> str:
        statement = make_statement(report)
        if self.sign is None:
            return statement
        return sign_statement(statement, self._signer(self.sign))

    def _summarize(self, markdown: str, *, to_file: bool = True) -> None:
        if place := os.environ.get("GITHUB_STEP_SUMMARY"):
            with Path(place).open("a", encoding="utf-8") as file:
                file.write(markdown)
        if self.markdown is not None and to_file:
            self.markdown.write_text(markdown, encoding="utf-8")


def _reason(error: BaseException) -> str:
    return f"{error.detail} [{error.code}]" if isinstance(error, SslmemError) else f"{type(error).__name__} {error}"
