"""`kubegate audit witness`: somebody else keeps the newest checkpoint, having checked that it extends the last."""

import asyncio
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from kubegate.audit.v1 import audit_pb2
from services.audit.verify import BadCheckpoint, Cosigner, Unreadable, size_of
from services.cli.audit_calls import ask
from services.cli.audit_places import Key, log_key, place, read
from services.cli.options import DEFAULT_HOME, Home, Json
from services.cli.output import NEGATIVE, emit_json, fail, run
from services.cli.stack import Stack
from services.common.errors import DeadlineExceeded, InvalidArgument, Unavailable


def witness(
    state: Annotated[Path, typer.Argument(metavar="FILE", help="Where the newest cosigned checkpoint is kept.")],
    key: Annotated[Path, typer.Option("--witness-key", help="Private key of the witness; made where there is none.")],
    name: Annotated[str, typer.Option("--name", help="Name of the witness, as in a URL without scheme.")],
    key_of_log: Key = "",
    every: Annotated[int, typer.Option("--every", min=0, help="Go on, and look every so many seconds; 0: once.")] = 0,
    home: Home = DEFAULT_HOME,
    as_json: Json = False,
) -> None:
    """Check that the log extends what was seen last, and keep its newest checkpoint, cosigned (C2SP).

    Run it with --every, as a service of its own, with a key and on a volume that the audit service cannot write; name
    FILE and the printed key in the service's `witnesses`, and it refuses to start with a log that was cut back. It
    needs an operator's or a platform's certificate and no API key. Exit code 1: the log was cut back or written anew.
    """
    cosigner = Cosigner(name, _own_key(key))
    try:
        verifier = log_key(key_of_log, home)
    except Unreadable as error:
        fail(str(error))

    async def work() -> None:
        async with Stack.load(home) as stack:
            while True:
                try:
                    size = await _look(stack, cosigner, verifier, state)
                except (Unavailable, DeadlineExceeded) as error:
                    # While it is away nothing is signed; what comes later must extend what was seen.
                    if not every:
                        raise
                    print(f"kubegate: not looked: {error.public_message}", file=sys.stderr, flush=True)
                else:
                    _told(state, cosigner, size, as_json)
                if not every:
                    return
                await asyncio.sleep(every)

    try:
        run(work())
    except BadCheckpoint as error:
        fail(f"the log does not check out, keep {state} as evidence: {error}", NEGATIVE)
    except Unreadable as error:
        fail(f"{state}: {error}")
    except KeyboardInterrupt:
        raise typer.Exit(0) from None


async def _look(stack: Stack, cosigner: Cosigner, verifier: Any, state: Path) -> int:
    """Cosigns what is new, once; the number of events witnessed.

    Raises:
        BadCheckpoint: the log is not what was seen before, and more.
        Unreadable: the file is not one that a witness wrote.
        DomainError: audit did not answer.
    """
    last = _seen(state)
    request = audit_pb2.GetConsistencyProofRequest(old_size=size_of(last) if last else 0)
    try:
        answer: audit_pb2.GetConsistencyProofResponse = await ask(stack, "GetConsistencyProof", request, token=False)
    except InvalidArgument as error:
        # Smaller than what was seen.
        raise BadCheckpoint(error.public_message) from error
    note = cosigner.cosign(verifier, answer.checkpoint, last, answer.hashes, int(time.time()))
    place(state, note.encode())
    return size_of(note)


def _seen(state: Path) -> str:
    return read(state) if state.exists() else ""


def _told(state: Path, cosigner: Cosigner, size: int, as_json: bool) -> None:
    if as_json:
        emit_json({"file": str(state), "key": cosigner.verifier.vkey, "events": size})
    else:
        print(f"{size} events witnessed in {state} by {cosigner.verifier.vkey}", flush=True)


def _own_key(path: Path) -> Ed25519PrivateKey:
    if not path.exists():
        key = Ed25519PrivateKey.generate()
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        place(path, pem)
        return key
    try:
        loaded = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError):
        fail(f"{path}: not a private key in PEM form")
    if not isinstance(loaded, Ed25519PrivateKey):
        fail(f"{path}: not an Ed25519 key")
    return loaded
