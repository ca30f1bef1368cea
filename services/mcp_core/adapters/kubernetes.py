"""The cluster, through kubernetes.aio; nothing else imports that package.

kubernetes.aio gives configuration, TLS and the connection pool. Its models, threads and retries are not used: a
call is one request, its answer is decoded by msgspec into the few fields wanted. The caller is impersonated by
header (R2), so that the cluster's own RBAC is a second lock, and its own audit log has our request id.
"""

from __future__ import annotations

import asyncio
import ssl
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime
from typing import Any

import aiohttp
import msgspec
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.client.rest import RESTClientObject
from kubernetes.aio.config import incluster_config, kube_config
from kubernetes.aio.config.config_exception import ConfigException
from multidict import CIMultiDict
from yarl import URL

from services.common.deadline import Deadline
from services.common.errors import (
    DeadlineExceeded,
    DomainError,
    FailedPrecondition,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
)
from services.common.log import Outage, get_logger
from services.common.runtime_errors import ConfigError
from services.common.telemetry.trace_context import traceparent
from services.mcp_core.adapters.kubeconfig import ClusterSettings, select
from services.mcp_core.adapters.kubernetes_errors import from_status
from services.mcp_core.adapters.kubernetes_logs import FollowedLog
from services.mcp_core.adapters.kubernetes_session import KubernetesSession
from services.mcp_core.adapters.kubernetes_wire import Answer, decode
from services.mcp_core.adapters.measured_cluster import ClusterRequest
from services.mcp_core.errors import NotSent, OutcomeUnknown
from services.mcp_core.ports import Impersonation

CONNECT_SECONDS = 3.0
"""Longest wait for a connection; after it the cluster counts as away, whatever time the caller has left."""

PLUGIN_SECONDS = 10.0
"""Longest wait for the exec plug-in of a kubeconfig."""

MAX_STREAMS = 32
"""Most logs that are followed at once: a third of the connections to the cluster, so that the others stay free."""

STREAMS_EACH = 4
"""Most logs that one caller follows at once, so that nobody takes the others' places."""

ERROR_BYTES = 64 * 1024
"""Most bytes read of an answer that reports an error."""

_ASK_OPERATOR = (
    "Try again in a moment; if it stays so, the operator should check the cluster and mcp_core's kubeconfig."
)

_UNKNOWN = (
    "The change was sent, but the cluster's answer did not arrive: it may or may not have been done. "
    "Look before trying again."
)


class Version(msgspec.Struct, frozen=True):
    """Answer of /version."""

    version: str = msgspec.field(name="gitVersion", default="")


class KubernetesCluster:
    """One cluster. Made by `open`; safe for any number of concurrent sessions; `close` ends its connections."""

    def __init__(
        self,
        settings: ClusterSettings,
        rest: RESTClientObject,
        credentials: kube_config.KubeConfigLoader | incluster_config.InClusterConfigLoader,
    ) -> None:
        self.name = settings.name
        self._settings = settings
        self._rest = rest
        self._server: str = rest.configuration.host
        self._credentials = credentials
        self._refreshing = asyncio.Lock()
        self._streams: Counter[str] = Counter()
        self._log = get_logger("mcp_core.kubernetes").bind(cluster=settings.name)
        self._outage = Outage(self._log, "cluster away", "cluster answers again", server=self._server)

    @classmethod
    async def open(cls, settings: ClusterSettings) -> KubernetesCluster:
        """Reads the kubeconfig, or without one the service account; the cluster itself is not asked yet.

        Raises:
            ConfigError: it cannot be used; says why and what to do.
        """
        configuration = Configuration(
            client_session_kwargs={
                # Its default would send cluster traffic through whatever HTTPS_PROXY names, and costs 3x.
                "trust_env": False,
                "cookie_jar": aiohttp.DummyCookieJar(),
                "middlewares": (_refuse_redirect, _sent_once),
            }
        )
        path = settings.kubeconfig
        if path is None:
            return cls._open_inside(settings, configuration)
        selected = select(settings, path)
        with tempfile.TemporaryDirectory(prefix="kubegate-") as scratch:
            try:
                loader = kube_config.KubeConfigLoader(  # type: ignore[no-untyped-call]
                    selected.kubeconfig,
                    config_base_path=str(path.resolve().parent),
                    temp_file_path=scratch,
                )
                await loader.load_and_set(configuration)  # type: ignore[no-untyped-call]
                rest = RESTClientObject(configuration)
            except (ConfigException, OSError, ValueError) as error:
                raise ConfigError(path, [_unusable(error)]) from error
            finally:
                # The loader writes inline keys to files and remembers them for the life of the process; the TLS
                # context has them now, so no key stays on disk.
                kube_config._cleanup_temp_files()  # type: ignore[no-untyped-call]
        if selected.uses_exec and not (getattr(loader, "token", "") or configuration.cert_file):
            raise ConfigError(path, ["its exec plug-in gave no credential; run it by hand to see why"])
        return cls(settings, rest, loader)

    @classmethod
    def _open_inside(cls, settings: ClusterSettings, configuration: Configuration) -> KubernetesCluster:
        place = settings.service_account
        loader = incluster_config.InClusterConfigLoader(  # type: ignore[no-untyped-call]
            token_filename=str(place / "token"), cert_filename=str(place / "ca.crt")
        )
        try:
            loader.load_and_set(configuration)  # type: ignore[no-untyped-call]
            rest = RESTClientObject(configuration)
        except (ConfigException, OSError, ValueError) as error:
            why = "`in_cluster: true` works only in a pod with a service account; elsewhere give a `kubeconfig`"
            raise ConfigError(place, [why]) from error
        return cls(settings, rest, loader)

    def session(self, impersonation: Impersonation | None, deadline: Deadline) -> KubernetesSession:
        """The cluster as that caller, None being the core's own account.

        Raises:
            PermissionDenied: the identity is not one of ours (R2).
        """
        headers: list[tuple[str, str]] = []
        if impersonation is not None:
            names = (impersonation.user, *impersonation.groups)
            fit = all(name.startswith("kubegate:") and name.isprintable() for name in names)
            if not (fit and impersonation.request_id.isprintable()):
                raise PermissionDenied("The cluster is only asked as an identity of kubegate.")
            if self._settings.impersonate:
                headers.append(("Impersonate-User", impersonation.user))
                headers += [("Impersonate-Group", group) for group in impersonation.groups]
                headers.append(("Impersonate-Extra-Request-Id", impersonation.request_id))
        return KubernetesSession(self, headers, deadline, impersonation.user if impersonation else "")

    async def version(self, deadline: Deadline) -> str:
        """The cluster's version, asked now as the core's own account. Raises as sessions do."""
        answer = await self.send("GET", "/version", [], deadline)
        return decode(answer.body, Version).version

    async def close(self) -> None:
        """Ends all connections; sessions made before fail."""
        await self._rest.close()

    async def send(
        self,
        method: str,
        target: str,
        headers: list[tuple[str, str]],
        deadline: Deadline,
        *,
        body: Any = None,
        content_type: str = "application/json",
        accept: str = "",
        cut_at: int | None = None,
    ) -> Answer:
        """One request. `target` is an escaped path with query. `cut_at`: a longer answer is cut, not refused.

        Raises:
            DomainError: what the cluster answered, or why it did not; OutcomeUnknown where it is not known whether
                a change was made.
        """
        with self._failures(changes=method != "GET"):
            with ClusterRequest(method, target, self._server, self.name) as measured:
                response = await self._request(
                    method, target, headers, deadline, body=body, content_type=content_type, accept=accept
                )
                measured.status = response.status
                return await self._read(response, cut_at)

    @asynccontextmanager
    async def stream(
        self, target: str, headers: list[tuple[str, str]], deadline: Deadline, caller: str
    ) -> AsyncIterator[FollowedLog]:
        """One reading request for a caller whose answer is taken as it comes. Raises as `send`.

        Raises:
            ResourceExhausted: too many are open; each holds a connection that others need.
        """
        if self._streams[caller] >= STREAMS_EACH:
            raise ResourceExhausted(
                f"You follow {STREAMS_EACH} logs at once, the most for one caller. End one, or wait until its "
                "`follow_seconds` are over; without `follow_seconds` a log can be read now.",
                retry_after=5.0,
            )
        if self._streams.total() >= MAX_STREAMS:
            raise ResourceExhausted(
                f"All callers together follow {MAX_STREAMS} logs, the most at once. Try again in a moment; without "
                "`follow_seconds` a log can be read now.",
                retry_after=5.0,
            )
        self._streams[caller] += 1
        try:
            with self._failures(changes=False):
                with ClusterRequest("GET", target, self._server, self.name) as measured:
                    response = await self._request("GET", target, headers, deadline)
                    measured.status = response.status
                    if response.status >= 300:
                        await self._read(response, None)
            try:
                yield FollowedLog(response.content, lambda: self._failures(changes=False))
            finally:
                response.close()
        finally:
            self._streams[caller] -= 1
            if not self._streams[caller]:
                del self._streams[caller]

    async def _request(
        self,
        method: str,
        target: str,
        headers: list[tuple[str, str]],
        deadline: Deadline,
        *,
        body: Any = None,
        content_type: str = "application/json",
        accept: str = "",
    ) -> aiohttp.ClientResponse:
        remaining = deadline.child().remaining()
        sent = CIMultiDict(headers)
        sent["Accept"] = accept or "application/json, */*"
        # Compression costs both ends more CPU than it saves next to a cluster, and hides the size.
        sent["Accept-Encoding"] = "identity"
        sent["User-Agent"] = "kubegate"
        sent["Content-Type"] = content_type
        if token := await self._token(remaining):
            sent["Authorization"] = token
        timeout = aiohttp.ClientTimeout(
            total=remaining, connect=min(CONNECT_SECONDS, remaining * 0.9), ceil_threshold=3600
        )
        url = URL(self._server + target, encoded=True)
        if position := traceparent():
            sent["traceparent"] = position
        response = await self._rest.request(  # type: ignore[no-untyped-call]
            method, url, headers=sent, body=body, _request_timeout=timeout
        )
        self._outage.worked()
        return response.response  # type: ignore[no-any-return]

    @contextmanager
    def _failures(self, *, changes: bool) -> Iterator[None]:
        """What goes wrong between the cluster and us, as errors of ours."""
        try:
            yield
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise self._away(error) from error
        except TimeoutError as error:
            if changes:
                raise OutcomeUnknown(_UNKNOWN) from error
            raise DeadlineExceeded("The cluster did not answer in time.") from error
        except aiohttp.ClientError as error:
            self._log.warning("cluster connection broke", error=type(error).__name__, changes=changes)
            if changes:
                raise OutcomeUnknown(_UNKNOWN) from error
            raise Unavailable(f"The connection to cluster {self.name} broke. {_ASK_OPERATOR}") from error

    async def _read(self, response: aiohttp.ClientResponse, cut_at: int | None) -> Answer:
        try:
            if response.status >= 300:
                body, _ = await _bounded(response, ERROR_BYTES)
                raise from_status(
                    self.name,
                    response.status,
                    body,
                    response.headers.get("Retry-After"),
                    changes=response.method != "GET",
                )
            limit = self._settings.max_response_bytes if cut_at is None else cut_at
            body, more = await _bounded(response, limit)
            if more and cut_at is None:
                raise FailedPrecondition(
                    f"The cluster's answer is larger than {limit} bytes. Narrow it: one namespace, "
                    "a `label_selector` or a smaller `limit`."
                )
            return Answer(body, more)
        finally:
            response.release()

    async def _token(self, remaining: float) -> str:
        credentials = self._credentials
        if isinstance(credentials, incluster_config.InClusterConfigLoader):
            # The kubelet renews the file; the loader says when it is time to look.
            if credentials.token_expires_at <= datetime.now():  # noqa: DTZ005 - the loader's own clock
                credentials._read_token_file()  # type: ignore[no-untyped-call]
            return f"Bearer {credentials.token.partition(' ')[2].strip()}"
        if hasattr(credentials, "exec_plugin_expiry"):
            try:
                async with asyncio.timeout(min(PLUGIN_SECONDS, remaining)), self._refreshing:
                    await credentials.load_from_exec_plugin()  # type: ignore[no-untyped-call]
            except (TimeoutError, ConfigException, OSError) as error:
                raise self._away(error, "its exec plug-in gave no credential") from error
        return getattr(credentials, "token", "")

    def _away(self, error: Exception, why: str = "it cannot be reached") -> DomainError:
        if isinstance(error, aiohttp.ClientConnectorCertificateError):
            why = "its certificate is not one that the kubeconfig trusts"
        elif isinstance(error, aiohttp.ClientConnectorSSLError):
            why = "TLS could not be agreed on"
        elif isinstance(error, aiohttp.ConnectionTimeoutError):
            why = "it does not accept connections in time"
        self._outage.failed(error=type(error).__name__)
        return NotSent(f"Cluster {self.name} is away: {why}. Nothing was done. {_ASK_OPERATOR}")


async def _sent_once(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    # Where a connection that was used before ends without an answer, aiohttp sends PUT and DELETE again: then nobody
    # could say what the first one did (R20). An error of another kind is not repeated.
    try:
        return await handler(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        if request.method == "GET":
            raise
        raise aiohttp.ClientPayloadError("the connection ended before the answer") from error


async def _refuse_redirect(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    # No API answers with one, and following it would carry our headers to wherever it points.
    response = await handler(request)
    if 300 <= response.status < 400:
        response.close()
        raise aiohttp.ClientPayloadError("redirect refused")
    return response


async def _bounded(response: aiohttp.ClientResponse, limit: int) -> tuple[bytes, bool]:
    """At most `limit` bytes of the body, and whether there was more."""
    chunks: list[bytes] = []
    size = 0
    async for chunk in response.content.iter_any():
        chunks.append(chunk)
        size += len(chunk)
        if size > limit:
            return b"".join(chunks)[:limit], True
    return b"".join(chunks), False


def _unusable(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return "its certificate or key is not valid PEM, or they do not belong together; renew the kubeconfig"
    if isinstance(error, ConfigException):
        return f"{error}; renew the kubeconfig"
    if isinstance(error, OSError):
        return f"{error.filename or 'a file that it names'} cannot be read: {error.strerror}"
    return "its certificate data is not valid base64 or its server address is malformed; renew the kubeconfig"
