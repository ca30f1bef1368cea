"""One store of authn that may be opened again and again, in either engine."""

from pathlib import Path

from services.authn.adapters.store import Store
from tests.fakes.clock import FakeClock
from tests.unit.authn.support import NOW


class Target:
    """One store that may be opened again and again."""

    def __init__(self, target: Path | str, password: str) -> None:
        self.target, self.password = target, password
        self.clock = FakeClock(NOW)
        self.opened: list[Store] = []

    def open(self) -> Store:
        store = Store.open(self.target, self.clock, password=self.password)
        self.opened.append(store)
        return store

    def reopen(self) -> Store:
        """As after a restart."""
        self.close()
        return self.open()

    def close(self) -> None:
        for store in self.opened:
            store.close()
        self.opened = []
