"""The policy engine: reads the YAML, says what is wrong with it, and decides. No clock, no gRPC, and no IO
but ``load_policy``.

``document`` reads YAML with positions, ``parse`` turns it into the ``model``, ``permissions`` is the one
table of what can be granted, ``scope`` knows namespaces, and ``engine`` decides.
"""

from services.authz.policy.file import PolicyError, load_policy

__all__ = ["PolicyError", "load_policy"]
