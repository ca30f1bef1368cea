"""The evidence pack for people: one HTML page that needs nothing beside it, readable on screen and on paper.

What is recorded was said by others: every text is escaped, made of printable characters only, and the page
forbids itself scripts and requests.
"""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

_STYLE = """
:root { --ink: #1d2433; --soft: #5b6577; --line: #dfe4ec; --tint: #f5f7fa; --good: #17663a; --bad: #a3182c; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 2.5rem 2rem 4rem; color: var(--ink); background: #fff;
  font: 15px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .25rem; }
h2 { font-size: 1.2rem; margin: 0 0 .35rem; }
section { margin-top: 2.5rem; padding-top: 1.25rem; border-top: 2px solid var(--line); }
p { margin: .35rem 0; } .soft { color: var(--soft); }
.controls { display: flex; flex-wrap: wrap; gap: .3rem; margin: 0 0 .9rem; padding: 0; list-style: none; }
.controls li { border: 1px solid var(--line); border-radius: 1rem; padding: .05rem .6rem; font-size: .8rem;
  background: var(--tint); white-space: nowrap; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: .75rem; margin: 1.25rem 0; }
.facts div { background: var(--tint); border: 1px solid var(--line); border-radius: .5rem; padding: .6rem .9rem; }
.facts b { display: block; font-size: 1.5rem; line-height: 1.2; }
.verdict { border-left: .35rem solid var(--good); background: #eef7f1; padding: .75rem 1rem; border-radius: .25rem; }
.verdict.bad { border-color: var(--bad); background: #fdf0f1; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .85rem; }
th { text-align: left; color: var(--soft); font-weight: 600; border-bottom: 2px solid var(--line); }
th, td { padding: .35rem .7rem .35rem 0; vertical-align: top; overflow-wrap: break-word; }
td { border-bottom: 1px solid var(--line); }
td.n, th.n { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
td.t { white-space: nowrap; font-variant-numeric: tabular-nums; }
.flag { color: var(--bad); font-weight: 600; }
code { font: .85em/1.4 ui-monospace, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
td code { overflow-wrap: normal; white-space: nowrap; }
nav a { color: inherit; margin-right: 1rem; }
@media print { body { max-width: none; padding: 0; font-size: 11px; } nav { display: none; }
  tr { break-inside: avoid; } }
"""

_MEANING = {
    "access_review": "Every credential with what it grants, and when it was last accepted. Is each still needed?",
    "privileged_actions": "Every change that was tried or carried out through the gate, with its outcome.",
    "denials": "Who was refused, and by which missing right.",
    "violations": "What looked like an attack or a fault of a service.",
    "changes": "New, changed and removed credentials, policies in force or rejected, legal holds, deletions.",
    "audit_access": "Whoever read the record, and who tried to.",
    "attestations": "What people put on record about a control.",
    "completeness": "Whether anything is missing or altered, and how that was checked.",
}


def page(pack: Mapping[str, Any]) -> str:
    """The page of a pack."""
    sections: Mapping[str, Mapping[str, Any]] = pack["sections"]
    summary, whole = pack["summary"], sections["completeness"]
    title = f"{pack['framework']} evidence, {pack['from'][:10]} to {pack['to'][:10]}"
    facts = [
        ("events", summary["events"]),
        ("people", summary["people"]),
        ("privileged actions", sections["privileged_actions"]["count"]),
        ("denials", sections["denials"]["count"]),
        ("violations", sections["violations"]["count"]),
        ("changes", sections["changes"]["count"]),
    ]
    order = ["completeness", *(name for name in sections if name != "completeness")]
    bodies = "".join(_section(name, sections[name]) for name in order)
    links = "".join(f'<a href="#{name}">{_text(sections[name]["title"].partition(":")[0])}</a>' for name in order)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(title)}</title><style>{_STYLE}</style></head><body>"
        f"<h1>{_text(title)}</h1>"
        f'<p class="soft">Made by kubegate at {_time(pack["made_at"])} UTC, for the period from {_time(pack["from"])} '
        f"to {_time(pack['to'])} UTC (the end not included). References: SOC 2 Trust Services Criteria, "
        "ISO/IEC 27001:2022 Annex A, PCI DSS 4. It shows evidence; whether a control is met is for the auditor "
        "to say.</p>"
        f"{_verdict(whole)}"
        f'<div class="facts">{"".join(f"<div><b>{value:,}</b>{_text(name)}</div>" for name, value in facts)}</div>'
        f'<nav class="soft">{links}</nav>{bodies}</body></html>\n'
    )


def _verdict(whole: Mapping[str, Any]) -> str:
    if whole["intact"]:
        return (
            f'<p class="verdict">The record is whole and unaltered: {whole["events_in_log"]:,} events in the log, '
            f"none unaccounted for, {whole['signed_roots']:,} signed roots verified.</p>"
        )
    return f'<p class="verdict bad"><b>The record could not be shown to be intact:</b> {_text(whole["problem"])}</p>'


def _section(name: str, section: Mapping[str, Any]) -> str:
    controls = "".join(
        f"<li>{_text(framework)} {_text(control)}</li>"
        for framework, references in section["controls"].items()
        for control in references
    )
    if name == "access_review":
        body = _access(section)
    elif name == "completeness":
        body = _completeness(section)
    else:
        body = _events(section)
    return (
        f'<section id="{name}"><h2>{_text(section["title"])}</h2><p class="soft">{_text(_MEANING[name])}</p>'
        f'<ul class="controls">{controls}</ul>{body}</section>'
    )


def _access(section: Mapping[str, Any]) -> str:
    rows = [
        [
            _text(each["identity"])
            + (f'<br><span class="soft">{_text(each["tenant"])}</span>' if each["tenant"] else ""),
            f"<code>{_text(each['credential'])}</code>"
            + ("" if each["enabled"] else ' <span class="soft">disabled</span>'),
            _text(", ".join(each["roles"]) or "-"),
            "<br>".join(_text(grant) for grant in each["grants"]) or "nothing",
            _time(each["last_used"]) or "never",
            _time(each["expires"]) or "never",
            f"{each['events_in_period']:,}"
            + (f" ({each['denied_in_period']:,} denied)" if each["denied_in_period"] else ""),
            f'<span class="flag">{_text(", ".join(each["findings"]))}</span>',
        ]
        for each in section["holders"]
    ]
    heads = ["identity", "credential", "roles", "may do", "last used", "expires", "events", "to review"]
    table = _table(heads, rows, "There is no credential.")
    others = [
        [_text(each["user"]), _text(", ".join(each["credentials"])), _time(each["last_seen"]), f"{each['events']:,}",
         f"{each['denied']:,}"]
        for each in section["others"]
    ]  # fmt: skip
    if not others:
        return table
    heads = ["identity", "credentials", "last seen", "events", "denied"]
    note = '<p class="soft">Seen in the period without a credential that is on file now:</p>'
    return f"{table}{note}{_table(heads, others, '')}"


def _completeness(section: Mapping[str, Any]) -> str:
    checked = "".join(f"<li>{_text(each)}</li>" for each in section["checked"])
    span = (
        f"{section['events_in_period']:,} events of the period, numbers {section['first_sequence']:,} to "
        f"{section['last_sequence']:,} of {section['events_in_log']:,} in the log."
        if section["events_in_period"]
        else "No event in the period."
    )
    root = section["root"]
    signed = (
        f"<p>Root <code>{_text(root)}</code>, signed by <code>{_text(section['public_key'])}</code>.</p>"
        if root
        else ""
    )
    unfinished = (
        '<p class="flag">It is unknown whether these were carried out: their outcome is missing.</p>'
        + _event_table(section["unfinished"])
        if section["unfinished"]
        else "<p>Every change whose time is over has its outcome on record.</p>"
    )
    return f"<p>{_text(span)}</p><ul>{checked}</ul>{signed}{unfinished}"


def _events(section: Mapping[str, Any]) -> str:
    if not section["count"]:
        return "<p>None in the period.</p>"
    users = ", ".join(f"{_text(user)} ({count:,})" for user, count in section["by_user"].items())
    rest = f'<p class="soft">{section["not_listed"]:,} more are in the record.</p>' if section["not_listed"] else ""
    return f"<p>{section['count']:,} by {users}</p>{_event_table(section['events'])}{rest}"


def _event_table(events: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        [
            str(each["sequence"]),
            _time(each["time"]),
            _text(each["user"] or "-") + ("" if each["verified"] else ' <span class="soft">(asserted)</span>'),
            _text(each["action"]),
            _text(each["resource"]),
            _text(each["result"])
            if each["result"] == "success"
            else f'<span class="flag">{_text(each["result"])}</span>',
            _text(
                "; ".join(
                    [*filter(None, [each["why"].rstrip(".")]), *(f"{k}: {v}" for k, v in each["details"].items())]
                )
            ),
        ]
        for each in events
    ]
    return _table(["no.", "time (UTC)", "who", "action", "on", "result", "details"], rows, "None.")


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], empty: str) -> str:
    if not rows:
        return f"<p>{_text(empty)}</p>"
    kinds = [_KINDS.get(head, "") for head in heads]
    head = "".join(f"<th{kind}>{_text(name)}</th>" for name, kind in zip(heads, kinds, strict=True))
    body = "".join(
        f"<tr>{''.join(f'<td{kind}>{cell}</td>' for cell, kind in zip(row, kinds, strict=True))}</tr>" for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


_KINDS = {
    **dict.fromkeys(("no.", "denied"), ' class="n"'),
    **dict.fromkeys(("time (UTC)", "last used", "last seen"), ' class="t"'),
}


def _time(moment: str) -> str:
    """RFC 3339 to the second."""
    return _text(moment[:19].replace("T", " "))


def _text(value: object) -> str:
    text = str(value)
    return escape("".join(char if char.isprintable() else "\ufffd" for char in text))
