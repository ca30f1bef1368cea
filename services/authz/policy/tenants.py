"""Tenants own namespaces, and no namespace has two owners (R13)."""

from collections.abc import Iterator, Sequence

from services.authz.policy.model import Tenant
from services.authz.policy.scope import Glob, Scope


def overlaps(tenants: Sequence[Tenant]) -> Iterator[tuple[str, str, str]]:
    """Pairs of tenants that own a namespace together, with one such name or pattern; each pair once.

    Sorted by prefix, whatever can match the same names as an entry lies below it on the stack, so this costs
    about n log n and not n squared.
    """
    owned: list[tuple[str, str, Glob | None]] = []
    for tenant in tenants:
        owned += [(name, tenant.name, None) for name in tenant.scope.names]
        owned += [(glob.prefix, tenant.name, glob) for glob in tenant.scope.globs]
    # Where a name equals a prefix, the pattern comes first, so that the name finds it.
    owned.sort(key=lambda each: (each[0], each[2] is None, each[1], str(each[2])))
    found: set[tuple[str, str]] = set()
    stack: list[tuple[str, str, Glob | None]] = []
    for entry in owned:
        prefix, tenant_name, _ = entry
        while stack and not prefix.startswith(stack[-1][0]):
            stack.pop()
        for other in stack:
            pair = (other[1], tenant_name) if other[1] < tenant_name else (tenant_name, other[1])
            if other[1] == tenant_name or pair in found:
                continue
            shared = _scope(entry).intersect(_scope(other))
            if not shared.empty:
                found.add(pair)
                yield (*pair, shared.patterns()[0])
        stack.append(entry)


def _scope(entry: tuple[str, str, Glob | None]) -> Scope:
    name, _, glob = entry
    return Scope(False, globs=(glob,)) if glob is not None else Scope(False, names=frozenset((name,)))
