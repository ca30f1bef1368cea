"""Whether a changed policy file may be only the beginning of one.

A file that is written in place is short for a moment, and stays so where the disk is full. Many beginnings of a policy
are a policy, and one that ends before `namespaces:` grants everywhere. So what a change takes away at its very end
counts as cut off, unless the file says that it is whole: with `...`, YAML's end of a document, as its last line.
"""

from services.authz.policy.document import Mapping, Node, Problem, Scalar, Sequence, read

END = b"..."


def cut_off(before: bytes, now: bytes) -> Problem | None:
    """Why a policy may be only a part of what is meant to follow the one in force; None where nothing speaks for it.

    Both are valid policies. Sees keys that the end of the file has lost, lines without their end, and a lost end
    marker. It cannot see that whole entries are missing at the end of a list; the end marker shows that as well.
    """
    if _says_whole(now):
        return None
    line = now.count(b"\n") + (not now.endswith(b"\n"))
    if _says_whole(before):
        return Problem(line, 1, "the end marker `...` of the policy in force is missing: is the file cut off?")
    if before.endswith(b"\n") and not now.endswith(b"\n"):
        return Problem(line, 1, "the last line has no end, as that of the policy in force has: is the file cut off?")
    lost = _lost(read(before)[0], read(now)[0])
    if not lost:
        return None
    names = ", ".join(repr(name) for name in lost)
    return Problem(
        line, 1, f"the end of the file has lost {names}: is it cut off? If that is meant, end it with the line `...`"
    )


def _says_whole(content: bytes) -> bool:
    return content.rstrip().split(b"\n")[-1] == END


def _lost(before: Node, now: Node) -> list[str]:
    """Keys that are gone from the mappings that the end of the file closes."""
    if isinstance(before, Mapping) and isinstance(now, Mapping) and now.entries:
        had = {key.value: value for key, value in before.entries}
        have = {key.value for key, _ in now.entries}
        last, value = now.entries[-1]
        gone = [name for name in had if name not in have]
        return gone or (_lost(had[last.value], value) if last.value in had else [])
    if isinstance(before, Sequence) and isinstance(now, Sequence) and now.items:
        last_item = now.items[-1]
        name = _name(last_item)
        same = [item for item in before.items if name and _name(item) == name]
        return _lost(same[0], last_item) if same else []
    return []


def _name(item: Node) -> str:
    if isinstance(item, Mapping):
        for key, value in item.entries:
            if key.value == "name" and isinstance(value, Scalar):
                return value.value
    return ""
