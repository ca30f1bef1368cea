"""The cluster as one object: everything that is constructed, in the order of construction."""

from __future__ import annotations

from services.dev_cluster import custom
from services.dev_cluster.auth import Authenticator
from services.dev_cluster.clock import Clock
from services.dev_cluster.controllers import Controllers
from services.dev_cluster.rbac import Rbac
from services.dev_cluster.reviews import Reviews
from services.dev_cluster.service_accounts import Tokens
from services.dev_cluster.store import Store
from services.dev_cluster.writes import Writer


class Cluster:
    """State and behaviour of one development cluster, without its HTTP side."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.store = Store(self.clock)
        self.store.subscribe(custom.follower(self.store.drop))
        self.rbac = Rbac(self.store)
        self.tokens = Tokens(self.store)
        self.authenticator = Authenticator(self.tokens, self.rbac)
        self.reviews = Reviews(self.rbac, self.tokens)
        self.writer = Writer(self.store, self.rbac)
        self.controllers = Controllers(self.store)
