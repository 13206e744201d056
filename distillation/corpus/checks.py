"""What the data contract found, as a corpus keeps it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class ContractCheck(BaseModel):
    """One expectation and what was found."""

    model_config = ConfigDict(frozen=True)

    name: str
    """What was looked at, for example `leaked_documents_share`."""
    observed: float | None
    """The figure that was found; None where there was no document to look at."""
    limit: str
    """What it must be, for example `<= 0.05`."""
    success: bool
    """Whether it is."""
    setting: str
    """The setting that holds the limit, or empty where the limit is fixed."""

    def describe(self) -> str:
        """Return the check as a phrase: what was observed, the limit, and where the limit is set."""
        observed = "nothing" if self.observed is None else f"{self.observed:.4g}"
        where = f" ({self.setting})" if self.setting else ""
        return f"{self.name} is {observed}, must be {self.limit}{where}"


class ContractResult(BaseModel):
    """All expectations of the suite."""

    model_config = ConfigDict(frozen=True)

    success: bool
    """Whether every expectation holds."""
    checks: tuple[ContractCheck, ...]
    """In the order of the suite."""

    def reason(self) -> str:
        """Return one line with every expectation that failed; empty if none did."""
        failed = [check.describe() for check in self.checks if not check.success]
        return "contract: " + "; ".join(failed) if failed else ""
