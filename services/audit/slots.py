"""How much reading goes on at once: whoever may only read must not keep others from recording or reading."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from services.common.errors import ResourceExhausted


class Slots:
    """So many in all, and at most so many of one reader. Belongs to one event loop."""

    def __init__(self, what: str, total: int, each: int) -> None:
        self._what, self._total, self._each = what, total, each
        self._taken: Counter[str] = Counter()

    @contextmanager
    def of(self, peer: str) -> Iterator[None]:
        """Holds a place for a reader, by the SPIFFE path of its certificate.

        Raises:
            ResourceExhausted: there is none left.
        """
        if self._taken[peer] >= self._each or self._taken.total() >= self._total:
            raise ResourceExhausted(
                f"{self._what} under way: {self._taken[peer]} of {peer} (at most {self._each}), {self._taken.total()} "
                f"in all (at most {self._total}). End one, or try again.",
                retry_after=1,
            )
        self._taken[peer] += 1
        try:
            yield
        finally:
            self._taken[peer] -= 1
            if not self._taken[peer]:
                del self._taken[peer]
