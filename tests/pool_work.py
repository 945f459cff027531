"""Work for the tests of pools, in a module that a worker can import."""

from __future__ import annotations

import os
from dataclasses import dataclass

from visionthink.errors import DataError
from visionthink.pools.work import Finished


@dataclass(frozen=True)
class Squares:
    """Squares numbers; `refused` is an error that the user is told, `fatal` ends its worker."""

    refused: int | None = None
    fatal: int | None = None

    def __call__(self):
        return self._square

    def _square(self, number: int) -> Finished:
        if number == self.refused:
            raise DataError(f"row {number}: cannot be squared")
        if number == self.fatal:
            os._exit(7)
        return Finished(record={"number": number, "square": number**2}, worker=str(os.getpid()))
