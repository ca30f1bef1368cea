"""The prompts: a question, with what the cluster says to it, fenced as data, so that the model can begin at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from services.mcp_core.mcp.pack import Argument, Block, Call, Prompt
from services.mcp_core.model import ToolAnswer

NAMESPACE = Argument("namespace", "Namespace.", completes="namespace")


def _said(text: str) -> Block:
    return {"role": "user", "content": {"type": "text", "text": text}}


def _diagnose_calls(arguments: Mapping[str, str]) -> Sequence[Call]:
    return [("diagnose", {"kind": "pod", "namespace": arguments["namespace"], "name": arguments["pod"]})]


def _diagnose(arguments: Mapping[str, str], answers: Sequence[ToolAnswer]) -> Sequence[Block]:
    question = (
        f"Find out what is wrong with pod {arguments['pod']} in namespace {arguments['namespace']}. Say what the cause "
        "is, by which evidence, and how sure you are; then the smallest change that mends it. Change nothing yet. "
        "Where the evidence is not enough, say which tool you would call next and why."
    )
    return [_said(question), *(_said(answer.text) for answer in answers)]


def _rollout_calls(arguments: Mapping[str, str]) -> Sequence[Call]:
    named: Mapping[str, Any] = {
        "kind": "deployment",
        "namespace": arguments["namespace"],
        "name": arguments["deployment"],
    }
    return [("rollout_status", named), ("rollout_history", named)]


def _rollout(arguments: Mapping[str, str], answers: Sequence[ToolAnswer]) -> Sequence[Block]:
    question = (
        f"Review the rollout of deployment {arguments['deployment']} in namespace {arguments['namespace']}. Is it "
        "complete and healthy? What changed between the last revisions, and is any of it a risk? Say whether to go on, "
        "wait, or go back to which revision. Change nothing yet."
    )
    return [_said(question), *(_said(answer.text) for answer in answers)]


PROMPTS = {
    prompt.name: prompt
    for prompt in (
        Prompt(
            name="diagnose_pod",
            title="Diagnose a pod",
            description="Why does this pod not work, and what mends it?",
            arguments=(NAMESPACE, Argument("pod", "Name of the pod.", completes="pods")),
            tools=("diagnose",),
            calls=_diagnose_calls,
            messages=_diagnose,
        ),
        Prompt(
            name="review_rollout",
            title="Review a rollout",
            description="Is this deployment's rollout healthy, and what changed?",
            arguments=(NAMESPACE, Argument("deployment", "Name of the deployment.", completes="deployments")),
            tools=("rollout_status", "rollout_history"),
            calls=_rollout_calls,
            messages=_rollout,
        ),
    )
}
